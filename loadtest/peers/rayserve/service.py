"""What Ray Serve runs: a proxy for HTTP, and replicas that batch raw bodies."""

import signal
import threading

import contracts
import ray
from engine import Engine
from ray import serve
from settings import HOST, Settings, handed_on
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

# The most requests that a replica holds; more wait in the proxy.
_MAX_ONGOING = 2_048
_OBJECT_STORE_BYTES = 128 << 20


class Infer:
    """One replica with its own session."""

    def __init__(self, settings: Settings) -> None:
        self._contract = settings.contract
        self._engine = Engine(settings.contract, settings.batching.threads)
        self._run.set_max_batch_size(settings.batching.max_batch)
        self._run.set_batch_wait_timeout_s(settings.batching.delay_us / 1e6)

    @serve.batch
    async def _run(self, bodies: list[bytes]) -> list[bytes]:
        return self._engine.run_bodies(bodies)

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        try:
            contracts.check_body(self._contract, body)
        except ValueError as error:
            return PlainTextResponse(str(error), 400)
        return Response(await self._run(body), media_type="application/octet-stream")


def start_cluster() -> None:
    """Ray gives its own processes 30 s, which is not enough on a machine that has other things to do."""
    for last in (False, False, True):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
                # Nothing is kept there.
                object_store_memory=_OBJECT_STORE_BYTES,
            )
            return
        except Exception:  # Ray raises no narrower one
            if last:
                raise
            ray.shutdown()


def main() -> None:
    settings = handed_on()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    start_cluster()
    serve.start(http_options={"host": HOST, "port": settings.port}, logging_config={"enable_access_log": False})
    deployment = serve.deployment(Infer, num_replicas=settings.batching.workers, max_ongoing_requests=_MAX_ONGOING)
    serve.run(deployment.bind(settings), route_prefix="/infer")
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
