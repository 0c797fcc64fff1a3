"""A model whose items are independent of each other, on Triton's Python backend."""

import numpy as np
import triton_python_backend_utils as backend
from engine import Engine
from settings import handed_on


class TritonPythonModel:
    def initialize(self, _arguments: dict[str, str]) -> None:
        settings = handed_on()
        self._engine = Engine(settings.contract, settings.batching.threads)

    def execute(self, requests: list) -> list:
        contract = self._engine.contract
        given = [[_array(request, tensor.name) for request in requests] for tensor in contract.inputs]
        # One request may hold several items.
        counts = [len(array) for array in given[0]]
        inputs = [arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for arrays in given]
        outputs = self._engine.run(inputs)
        responses, begin = [], 0
        for count in counts:
            rows = slice(begin, begin + count)
            responses.append(
                backend.InferenceResponse([
                    backend.Tensor(tensor.name, output[rows]) for tensor, output in zip(contract.outputs, outputs, strict=True)
                ])
            )
            begin += count
        return responses


def _array(request, name: str) -> np.ndarray:
    return backend.get_input_tensor_by_name(request, name).as_numpy()
