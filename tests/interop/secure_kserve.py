"""Clients based on KServe's package over TLS, with a key and without. Prints what each is answered as one JSON object.

A separate program for the reason that `kserve_client.py` gives. Usage: python secure_kserve.py GRPC_ADDRESS HTTP_ADDRESS CA KEY
"""

import asyncio
import json
import logging
import ssl
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

EXAMPLE = "example_model"

# The client logs the refusals that this program provokes.
logging.disable(logging.CRITICAL)


def request() -> InferRequest:
    values = np.array([[1.5, -2.0]])
    made = InferInput("inputs", list(values.shape), "FP64")
    made.set_data_from_numpy(values, binary_data=True)
    return InferRequest(EXAMPLE, [made])


def numbers(response) -> list[float]:
    (output,) = response.outputs
    return output.as_numpy().ravel().tolist()


async def over_grpc(address: str, ca: str, headers: list[tuple[str, str]]) -> list[float] | str:
    client = InferenceGRPCClient(address, use_ssl=True, root_certificates=ca)
    try:
        return numbers(await client.infer(request(), headers=headers))
    except grpc.RpcError as error:
        return error.code().name
    finally:
        await client.close()


async def over_rest(address: str, ca: str, headers: dict[str, str]) -> list[float] | int:
    client = InferenceRESTClient(RESTConfig(protocol="v2", verify=ssl.create_default_context(cafile=ca)))
    try:
        return numbers(await client.infer(f"https://{address}", request(), model_name=EXAMPLE, headers=headers))
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        await client.close()


async def main(grpc_address: str, http_address: str, ca: str, key: str) -> None:
    bearer = f"Bearer {key}"
    answers = {
        "grpc": [await over_grpc(grpc_address, ca, headers) for headers in ([("authorization", bearer)], [])],
        "rest": [await over_rest(http_address, ca, headers) for headers in ({"authorization": bearer}, {})],
    }
    print(json.dumps(answers))


asyncio.run(main(*sys.argv[1:]))
