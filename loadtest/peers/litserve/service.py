"""What LitServe runs: one process for HTTP, and workers that take raw bodies."""

from typing import Annotated

import contracts
import litserve
from engine import Engine
from fastapi import Depends, HTTPException, Request, Response
from settings import HOST, handed_on

SETTINGS = handed_on()


async def read_body(request: Request) -> bytes:
    body = await request.body()
    try:
        contracts.check_body(SETTINGS.contract, body)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    return body


class Infer(litserve.LitAPI):
    """One worker with its own session."""

    def setup(self, device: str) -> None:
        self._engine = Engine(SETTINGS.contract, SETTINGS.batching.threads)

    def decode_request(self, request: Annotated[bytes, Depends(read_body)]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, bodies: bytes | list[bytes]) -> bytes | list[bytes]:
        # Without batching LitServe passes one item, not a list of one.
        if isinstance(bodies, bytes):
            return self._engine.run_bodies([bodies])[0]
        return self._engine.run_bodies(bodies)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/octet-stream")


def main() -> None:
    batching = SETTINGS.batching
    api = Infer(max_batch_size=batching.max_batch, batch_timeout=batching.delay_us / 1e6, api_path="/infer")
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=batching.workers,
        timeout=60,
        fast_queue=True,
        # It writes no access log, which would cost more than a small model.
    )
    server.run(host=HOST, port=SETTINGS.port, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
