"""Runs a model once, with a deadline, and reads what an error says to a program. predict.py [ADDRESS [NUMBER...]]"""

import struct
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2
from tidemill.v1 import inference_pb2 as pb
from tidemill.v1 import inference_pb2_grpc as rpc

DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RetryInfo,
)


def details(error: grpc.RpcError) -> dict:
    """The typed details of a status, by the names of their messages."""
    found = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                for kind in DETAILS:
                    if packed.Is(kind.DESCRIPTOR):
                        found[kind.DESCRIPTOR.name] = kind.FromString(packed.value)
    return found


def predict(stub: rpc.InferenceServiceStub, model: str, numbers: list[float]) -> list[float]:
    tensor = pb.Tensor(datatype=pb.DATATYPE_FP64, shape=[len(numbers)], data=struct.pack(f"<{len(numbers)}d", *numbers))
    request = pb.PredictRequest(model=model, item=pb.Item(inputs=[tensor]))
    (output,) = stub.Predict(request, timeout=5).outputs.tensors
    return list(struct.unpack(f"<{len(output.data) // 8}d", output.data))


address, numbers = (sys.argv[1:2] or ["127.0.0.1:50051"])[0], [float(text) for text in sys.argv[2:]] or [1, 2.5, -40]
with grpc.insecure_channel(address) as channel:
    stub = rpc.InferenceServiceStub(channel)
    print(predict(stub, "example_model", numbers))
    try:
        predict(stub, "no-such-model", numbers)
    except grpc.RpcError as error:
        # Decide by the code and the reason: messages are for people, and change.
        found = details(error)
        print(error.code().name, found["ErrorInfo"].reason, [field.field for field in found["BadRequest"].field_violations])
        if "RetryInfo" in found:
            print("come back in", found["RetryInfo"].retry_delay.ToTimedelta())
