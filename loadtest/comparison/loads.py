"""One load on one server by `tidemill-load run`, and what came out of it."""

import dataclasses
import json

from .processes import Failed
from .rows import Figures
from .servers import Server
from .tool import Bench, note

# How the protocols of the tool are shown.
PROTOCOLS = {"feed": "gRPC Feed", "infer": "gRPC ModelInfer", "http_infer": "HTTP infer", "http_post": "HTTP POST"}
HTTP = ("http_infer", "http_post")


@dataclasses.dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    fill: str = "noise"


@dataclasses.dataclass(frozen=True)
class Model:
    """What an item of a model is, and how many are in flight to saturate it."""

    name: str
    inputs: tuple[Tensor, ...]
    in_flight: int
    # Calls take tens of milliseconds.
    is_heavy: bool = False
    # The server keeps a state for each sequence of calls; it is neither sent nor returned.
    keeps_state: bool = False
    # The model with the same tensors from which canned answers were made, if not this one: the client's limit is the same.
    like: str = ""

    @property
    def limit(self) -> str:
        return self.like or self.name


def _identity(name: str, values: int, in_flight: int) -> Model:
    return Model(name, (Tensor("input", "FP32", (values,)),), in_flight)


# A model from its official file, and from the file that this server rewrites it to.
OFFICIAL, REWRITTEN = "silero-vad", "silero-vad-rewritten"
STATELESS = "-stateless"


def _silero(file: str) -> tuple[Model, Model]:
    """With a state that the server keeps, and with one that comes and goes with each item, for servers that keep none."""
    item, state = Tensor("input", "FP32", (576,)), Tensor("state", "FP32", (2, 128), "zeros")
    like = OFFICIAL if file != OFFICIAL else ""
    return (
        Model(file, (item,), 256, keeps_state=True, like=like),
        Model(f"{file}{STATELESS}", (item, state), 256, like=f"{like}{STATELESS}" if like else ""),
    )


_TOKENS = tuple(Tensor(name, "INT64", (32,), "ones") for name in ("input_ids", "attention_mask", "token_type_ids"))

MODELS = {
    model.name: model
    for model in (
        *_silero(OFFICIAL),
        *_silero(REWRITTEN),
        _identity("identity-2304", 576, 256),
        Model("minilm", _TOKENS, 32, is_heavy=True),
        Model("magika", (Tensor("bytes", "INT32", (2_048,), "ones"),), 32, is_heavy=True),
        _identity("identity-64", 16, 256),
        _identity("identity-1mib", 262_144, 16),
    )
}

WARM_UP_S = 0.4
# Streams of a feed carry several items at a time; other callers wait for each.
FEED_WINDOW = 4
OPEN_LOOP_CALLERS = 64


@dataclasses.dataclass(frozen=True)
class Arm:
    """A server, and how it is called."""

    server: Server
    protocol: str

    @property
    def name(self) -> str:
        return f"{self.server.name}, {PROTOCOLS[self.protocol]}"


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of one load, or the median of several."""

    items_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us_per_item: float
    resident_mib: float

    @property
    def cores(self) -> float:
        """How many the server kept busy."""
        return self.items_per_s * self.cpu_us_per_item / 1e6

    def figures(self) -> Figures:
        """In the form that rows use."""
        return {
            "per_s": self.items_per_s,
            "p50_us": self.p50_ms * 1e3,
            "p99_us": self.p99_ms * 1e3,
            "cores": self.cores,
            "cpu_us_per_item": self.cpu_us_per_item,
            "errors": self.errors,
        }


def scenario(arm: Arm, model: Model, *, in_flight: int, rate_hz: float | None, seconds: float) -> str:
    """The file of a load: closed, with this many items in flight, or open, with this many items a second from all callers together."""
    feed = arm.protocol == "feed"
    # A feed is a sequence already.
    sequence = model.keeps_state and arm.protocol == "infer"
    window = min(FEED_WINDOW, in_flight) if feed else 1
    streams = max(in_flight // window, 1)
    if rate_hz is None:
        arrivals = 'process = "closed"'
    else:
        # The calls of a sequence come one after another.
        streams, window = (in_flight, 1) if sequence else (OPEN_LOOP_CALLERS, max(in_flight // OPEN_LOOP_CALLERS, 16))
        arrivals = f'process = "poisson", rate_hz = {rate_hz / streams}'
    load = {
        "name": "load",
        "protocol": arm.protocol,
        # A plain HTTP server has one model, at its path.
        **({} if arm.protocol == "http_post" else {"model": model.name}),
        "streams": streams,
        "in_flight": window,
        **({"sequence": True} if sequence else {}),
    }
    lines = [
        "version = 1",
        f'name = "{arm.server.name}-{model.name}"',
        f"connections = {min(streams, 8)}",
        f"warm_up_s = {WARM_UP_S}",
        f"duration_s = {seconds}",
        "drain_s = 10.0",
        "",
        "[[loads]]",
        *(f"{key} = {json.dumps(value)}" for key, value in load.items()),
        f"arrivals = {{ {arrivals} }}",
        f"inputs = [{', '.join(map(_inline, model.inputs))}]",
    ]
    if arm.protocol == "http_post":
        lines.append('http = { path = "/infer", body = "binary" }')
    return "\n".join(lines) + "\n"


def _inline(tensor: Tensor) -> str:
    values = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "fill": tensor.fill}
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + " }"


def command(bench: Bench, arm: Arm, path: str) -> list[str]:
    where = ["--http-addr", str(arm.server.http)] if arm.protocol in HTTP else ["--addr", str(arm.server.grpc)]
    return [str(bench.load_tool), "run", path, *where, "--json", "-"]


def load(
    bench: Bench, arm: Arm, model: Model, *, in_flight: int, rate_hz: float | None = None, seconds: float, commands: list[str]
) -> Found:
    """Loads a server once. Processor time and memory are of all its processes."""
    path = bench.scratch / f"{arm.server.name}-{model.name}-{arm.protocol}-{'open' if rate_hz else in_flight}.toml"
    path.write_text(scenario(arm, model, in_flight=in_flight, rate_hz=rate_hz, seconds=seconds))
    typed = command(bench, arm, str(path))
    note(commands, typed)
    return found(arm.server.load([*typed, "--server", str(arm.server.pid)], patience_s=60 + 4 * seconds))


def found(text: str) -> Found:
    """Reads a result of `tidemill-load run` that has one step."""
    try:
        [step] = json.loads(text)["steps"]
        total, latency = step["total"], step["total"]["latency_us"]
        cpu_us_per_item, resident_bytes = step["server_cpu_us_per_item"], step["server_rss_bytes"]
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"tidemill-load printed no result of one step: {error!r}") from error
    errors = sum(total["errors"].values()) + total["unanswered"]
    if not total["ok"]:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in total["errors"].items()) or "none was answered"
        raise Failed(f"of {total['offered']} items none came back: {kinds}")
    if cpu_us_per_item is None or resident_bytes is None:
        raise Failed("tidemill-load could not read what the server used")
    return Found(
        items_per_s=total["throughput_hz"],
        p50_ms=latency["p50"] / 1e3,
        p99_ms=latency["p99"] / 1e3,
        errors=errors,
        cpu_us_per_item=cpu_us_per_item,
        resident_mib=resident_bytes / (1 << 20),
    )
