"""What BentoML runs: a service with one batching method, and how raw bodies get into and out of it."""

import bentoml
import contracts
from _bentoml_impl.serde import ALL_SERDE, Payload, Serde
from bentoml.exceptions import InvalidArgument
from engine import Engine
from settings import handed_on

SETTINGS = handed_on()
# BentoML refuses batches of one; without these parameters, each request is a call.
BATCHES = (
    {"batchable": True, "max_batch_size": SETTINGS.batching.max_batch, "max_latency_ms": SETTINGS.batching.delay_us // 1_000}
    if SETTINGS.batching.max_batch > 1
    else {}
)


class RawBody(Serde):
    """One item per request, as its bytes. BentoML itself knows JSON, forms, and (inside a deployment) pickle."""

    media_type = "application/octet-stream"

    def deserialize_model(self, payload: Payload, cls: type) -> object:
        body = b"".join(payload.data)
        try:
            contracts.check_body(SETTINGS.contract, body)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        return cls([body])

    def serialize_model(self, model: object) -> Payload:
        return Payload(model.root)

    def serialize(self, obj: object, schema: dict) -> Payload:
        raise NotImplementedError("only whole requests and answers are raw")

    def deserialize(self, payload: Payload, schema: dict) -> object:
        raise NotImplementedError("only whole requests and answers are raw")


ALL_SERDE[RawBody.media_type] = RawBody


@bentoml.service(workers=SETTINGS.batching.workers, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Infer:
    """One process: it serves HTTP and makes the calls."""

    def __init__(self) -> None:
        self._engine = Engine(SETTINGS.contract, SETTINGS.batching.threads)

    @bentoml.api(route="/infer", **BATCHES)
    def infer(self, bodies: list[bytes], /) -> list[bytes]:
        return self._engine.run_bodies(bodies)
