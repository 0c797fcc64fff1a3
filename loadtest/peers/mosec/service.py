"""What Mosec runs: workers that take raw bodies."""

import contracts
from engine import Engine
from mosec import Server, ValidationError, Worker
from settings import handed_on

SETTINGS = handed_on()


class Infer(Worker):
    """One process with its own session."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        self._engine = Engine(SETTINGS.contract, SETTINGS.batching.threads)

    def deserialize(self, data: bytes) -> bytes:
        try:
            contracts.check_body(SETTINGS.contract, data)
        except ValueError as error:
            raise ValidationError(str(error)) from error
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: memoryview | list[bytes]) -> bytes | list[bytes]:
        # A worker without batching gets one item, not a list of one, and a view of it.
        if not isinstance(data, list):
            return self._engine.run_bodies([data])[0]
        return self._engine.run_bodies(data)


def main() -> None:
    batching = SETTINGS.batching
    server = Server()
    server.append_worker(
        Infer,
        num=batching.workers,
        max_batch_size=batching.max_batch,
        max_wait_time=batching.delay_us // 1_000,
        route="/infer",
        timeout=60,
    )
    server.run()


if __name__ == "__main__":
    main()
