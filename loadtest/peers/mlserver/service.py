"""What MLServer's own command runs, with one more method: perf_analyzer asks each server for the configuration of the model.

MLServer has no such method, and a process that has its messages cannot have Triton's, which bear the same names: so the few fields
are written by hand.
"""

import grpc
from contracts import Contract, Tensor
from mlserver import cli
from mlserver.grpc.server import GRPCServer
from settings import handed_on

# Numbers from Triton's model_config.proto.
_DATATYPES = {"int32": 8, "int64": 9, "float32": 11}
_NAME, _MAX_BATCH_SIZE, _INPUT, _OUTPUT = 1, 4, 5, 6
_TENSOR_NAME, _TENSOR_DATATYPE, _INPUT_DIMS, _OUTPUT_DIMS = 1, 2, 4, 3


def main() -> None:
    settings = handed_on()
    # ModelConfigResponse has one field.
    answer = _bytes(1, _configuration(settings.contract, settings.batching.max_batch))

    async def model_config(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return answer

    handlers = {"ModelConfig": grpc.unary_unary_rpc_method_handler(model_config)}
    create = GRPCServer._create_server

    def create_with_configuration(server: GRPCServer) -> grpc.aio.Server:
        created = create(server)
        created.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
        return created

    GRPCServer._create_server = create_with_configuration
    cli.main()


def _configuration(contract: Contract, max_batch: int) -> bytes:
    return b"".join([
        _bytes(_NAME, contract.name.encode()),
        _number(_MAX_BATCH_SIZE, max_batch),
        *(_bytes(_INPUT, _tensor(tensor, _INPUT_DIMS)) for tensor in contract.inputs),
        *(_bytes(_OUTPUT, _tensor(tensor, _OUTPUT_DIMS)) for tensor in contract.outputs),
    ])


def _tensor(tensor: Tensor, dims: int) -> bytes:
    shape = b"".join(map(_varint, tensor.shape))
    datatype = _number(_TENSOR_DATATYPE, _DATATYPES[tensor.dtype.name])
    return _bytes(_TENSOR_NAME, tensor.name.encode()) + datatype + _bytes(dims, shape)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


if __name__ == "__main__":
    main()
