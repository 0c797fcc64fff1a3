"""onnxruntime, set up in the same way for every peer: no thread spins while it waits."""

import numpy as np
import onnxruntime
from contracts import Contract, Tensor, bodies_of_outputs, inputs_of_bodies


class Engine:
    """One loaded model. Calls may come from several threads."""

    def __init__(self, contract: Contract, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self.contract = contract
        self._session = onnxruntime.InferenceSession(contract.path, options, providers=["CPUExecutionProvider"])
        self._constants = dict(contract.constants)
        self._outputs = [tensor.name for tensor in contract.outputs]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Inputs and outputs in the order of the contract, with the batch on their first axis."""
        feed = {tensor.name: _to_model(tensor, array) for tensor, array in zip(self.contract.inputs, inputs, strict=True)}
        outputs = self._session.run(self._outputs, feed | self._constants)
        return [_from_model(tensor, array) for tensor, array in zip(self.contract.outputs, outputs, strict=True)]

    def run_bodies(self, bodies: list[bytes]) -> list[bytes]:
        """One body per item, in the form that the HTTP peers receive and send."""
        return bodies_of_outputs(self.run(inputs_of_bodies(self.contract, bodies)))


def _to_model(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    return array if tensor.batch_axis == 0 else np.ascontiguousarray(np.moveaxis(array, 0, tensor.batch_axis))


def _from_model(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    return array if tensor.batch_axis == 0 else np.moveaxis(array, tensor.batch_axis, 0)
