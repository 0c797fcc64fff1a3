"""A client based on KServe's package, gRPC and REST. Prints the answers as one JSON object.

A separate program, because its messages have the same names as those of Triton's client, and a process can hold only one of them.
Usage: python kserve_client.py GRPC_ADDRESS HTTP_ADDRESS WINDOWS_NPY
"""

import asyncio
import json
import logging
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

EXAMPLE, SPEECH = "example_model", "silero-vad"

# The client logs the refusals that this program provokes.
logging.disable(logging.CRITICAL)


def request(model: str, name: str, datatype: str, values: np.ndarray, binary: bool, **parameters) -> InferRequest:
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model, [made], request_id="mine", parameters=parameters)


def told(response) -> dict:
    (output,) = response.outputs
    return {
        "id": response.id,
        "model": response.model_name,
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.shape),
        "data": output.as_numpy().ravel().tolist(),
    }


class Grpc:
    def __init__(self, address: str) -> None:
        self.client = InferenceGRPCClient(address)

    async def infer(self, request: InferRequest):
        return await self.client.infer(request)

    async def states(self) -> list[bool]:
        client = self.client
        return [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready(EXAMPLE)]

    async def refusal(self) -> list:
        try:
            await self.infer(request("nope", "inputs", "FP64", np.ones((1, 1)), binary=True))
        except grpc.RpcError as error:
            return [error.code().name, error.details()]

    async def close(self) -> None:
        await self.client.close()


class Rest:
    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"
        self.client = InferenceRESTClient(RESTConfig(protocol="v2"))

    async def infer(self, request: InferRequest):
        return await self.client.infer(self.url, request, model_name=request.model_name)

    async def states(self) -> list[bool]:
        client, url = self.client, self.url
        return [await client.is_server_live(url), await client.is_server_ready(url), await client.is_model_ready(url, EXAMPLE)]

    async def refusal(self) -> list:
        try:
            await self.infer(request("nope", "inputs", "FP64", np.ones((1, 1)), binary=True))
        except httpx.HTTPStatusError as error:
            return [error.response.status_code, str(error)]

    async def close(self) -> None:
        await self.client.close()


async def converse(client, windows: np.ndarray) -> dict:
    values = np.array([[1.5, -2.0], [3.0, 1e300]])
    answers = {
        form: told(await client.infer(request(EXAMPLE, "inputs", "FP64", values, binary)))
        for form, binary in (("binary", True), ("typed", False))
    }
    answers["several"] = told(await client.infer(request(SPEECH, "input", "FP32", windows, binary=True)))
    steps = [
        {"sequence_id": 99, "sequence_start": index == 0, "sequence_end": index == len(windows) - 1}
        for index in range(len(windows))
    ]
    answers["sequence"] = [
        told(await client.infer(request(SPEECH, "input", "FP32", window[np.newaxis], binary=True, **step)))["data"][0]
        for window, step in zip(windows, steps, strict=True)
    ]
    answers["states"], answers["refusal"] = await client.states(), await client.refusal()
    await client.close()
    return answers


async def main() -> None:
    grpc_address, http_address, windows_file = sys.argv[1:]
    windows = np.load(windows_file)
    clients = {"grpc": Grpc(grpc_address), "rest": Rest(http_address)}
    print(json.dumps({name: await converse(client, windows) for name, client in clients.items()}))


asyncio.run(main())
