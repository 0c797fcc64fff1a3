"""The runtime that MLServer loads: one onnxruntime session. Tensors come and go as lists of numbers, as is MLServer's way."""

import numpy as np
from contracts import Tensor
from engine import Engine
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataTensor, ResponseOutput, TensorData
from settings import handed_on

_DATATYPES = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}


class OnnxRuntime(MLModel):
    async def load(self) -> bool:
        settings = handed_on()
        self._engine = Engine(settings.contract, settings.batching.threads)
        return True

    async def metadata(self) -> MetadataModelResponse:
        contract = self._engine.contract
        return MetadataModelResponse(
            name=self.name,
            versions=[],
            platform="onnxruntime",
            inputs=[_metadata(tensor) for tensor in contract.inputs],
            outputs=[_metadata(tensor) for tensor in contract.outputs],
        )

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        contract = self._engine.contract
        given = {each.name: each.data.root for each in payload.inputs}
        inputs = [np.array(given[tensor.name], tensor.dtype).reshape(-1, *tensor.shape) for tensor in contract.inputs]
        outputs = self._engine.run(inputs)
        return InferenceResponse(
            model_name=self.name,
            outputs=[_output(tensor, array) for tensor, array in zip(contract.outputs, outputs, strict=True)],
        )


def _metadata(tensor: Tensor) -> MetadataTensor:
    return MetadataTensor(name=tensor.name, datatype=_DATATYPES[tensor.dtype.name], shape=[-1, *tensor.shape])


def _output(tensor: Tensor, array: np.ndarray) -> ResponseOutput:
    # Not checked number by number, which would cost more than the call.
    return ResponseOutput.model_construct(
        name=tensor.name,
        datatype=_DATATYPES[tensor.dtype.name],
        shape=list(array.shape),
        data=TensorData.model_construct(root=array.ravel().tolist()),
        parameters=None,
    )
