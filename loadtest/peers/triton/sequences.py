"""A model with state, on Triton's Python backend: the state of each sequence stays here from request to request."""

import numpy as np
import triton_python_backend_utils as backend
from engine import Engine
from settings import handed_on


class TritonPythonModel:
    def initialize(self, _arguments: dict[str, str]) -> None:
        settings = handed_on()
        self._engine = Engine(settings.contract, settings.batching.threads)
        self._input, state = self._engine.contract.inputs
        self._output, _ = self._engine.contract.outputs
        self._zeros = np.zeros(state.shape, state.dtype)
        self._states: dict[int, np.ndarray] = {}

    def execute(self, requests: list) -> list:
        # Each belongs to a different sequence: the scheduler never puts two of one sequence into a batch.
        states = [self._state(request) for request in requests]
        items = [backend.get_input_tensor_by_name(request, self._input.name).as_numpy() for request in requests]
        outputs, states_next = self._engine.run([np.concatenate(items), np.stack(states)])
        responses = []
        for row, request in enumerate(requests):
            self._keep(request, states_next[row])
            responses.append(backend.InferenceResponse([backend.Tensor(self._output.name, outputs[row : row + 1])]))
        return responses

    def _state(self, request) -> np.ndarray:
        if request.flags() & backend.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            return self._zeros
        return self._states.get(request.correlation_id(), self._zeros)

    def _keep(self, request, state: np.ndarray) -> None:
        if request.flags() & backend.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            self._states.pop(request.correlation_id(), None)
        else:
            self._states[request.correlation_id()] = state
