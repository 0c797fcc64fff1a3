"""The lines without peers: the server against the limits that `tidemill-load` measures along with it in the same process."""

from collections.abc import Callable

from .processes import Failed
from .rows import Line, Row, median
from .tool import Bench, Effort, onnxruntime, shown_command

Measure = Callable[[Bench, list[Line]], list[Row]]

# Streams, and items in flight on each.
SILERO = (64, 8)
HEAVY = (16, 4)
LARGE = (16, 2)
LARGE_BYTES = 1 << 20

LINES = (
    Line("identity-2304", "identity 2,304 B, Feed, 256 streams x 8, items/s", "bare tonic echo of the same messages", 0.80),
    Line("identity-64", "identity 64 B, Feed, 16 streams x 64, items/s", "bare tonic echo of the same messages", 0.65),
    Line("identity-1mib", "identity 1 MiB, Feed, 16 streams x 2, GiB/s", "bare tonic echo of the same messages", 0.60),
    Line("silero-onnxruntime", "Silero on onnxruntime, Feed, 64 streams x 8, items/s", "1 / (1/echo + 1/engine, best batch, two lanes)", 0.85),
    Line("silero-rten", "Silero on rten, Feed, 64 streams x 8, items/s", "1 / (1/echo + 1/engine, best batch, two lanes)", 0.90),
    Line("realtime", "real-time Silero streams with p99 <= 50 ms", "the composed limit / 31.25", 0.80),
    Line("minilm", "MiniLM on onnxruntime, Feed, 16 streams x 4, items/s", "bare engine, best batch, two lanes", 0.97),
    Line("magika", "Magika on onnxruntime, Feed, 16 streams x 4, items/s", "bare engine, best batch, two lanes", 0.97),
    Line("lone", "p50 of a lone Feed item of Silero", "echo round trip + engine call", 60, "added us", at_most=True),
    Line("idle-cpu", "10,000 idle streams: processor time", "one core", 0.01, "cores", at_most=True),
    Line("idle-memory", "10,000 idle streams: resident memory of each", "12 KiB", 12, "KiB", at_most=True),
    Line("metrics", "identity 2,304 B with metrics, items/s", "the same server with metrics.enabled = false", 0.97),
    Line("batching", "Silero on onnxruntime, batches of waiting work, items/s", "the same server with max_batch = 1", 1.5),
)


def measure(bench: Bench, name: str, lines: list[Line]) -> list[Row]:
    """The rows of one of `MEASURES`; if it fails, rows that say why."""
    try:
        return MEASURES[name](bench, lines)
    except Failed as failed:
        return [line.missing(str(failed)) for line in lines]
    except (LookupError, ValueError) as error:
        return [line.missing(f"the program's answer is not understood: {error!r}") for line in lines]


def lines_of(name: str) -> list[Line]:
    """The lines that one of `MEASURES` gives rows for."""
    return [line for line in LINES if line.name == name or line.name in GROUPS.get(name, ())]


def estimate_s(name: str, effort: Effort) -> float:
    """About how long one of `MEASURES` takes."""
    return _ESTIMATES_S[name](effort)


def _cheap(effort: Effort) -> tuple[int, float]:
    return effort.turns, effort.seconds


def _costly(effort: Effort) -> tuple[int, float]:
    return effort.runs, effort.heavy_seconds


def _shape(shape: tuple[int, int]) -> list[str]:
    streams, window = shape
    return ["--streams", str(streams), "--window", str(window)]


def _onnxruntime() -> list[str]:
    return ["--engine", "onnxruntime", "--onnxruntime", str(onnxruntime())]


def _one(bench: Bench, line: Line, ratio: str, rounds: tuple[int, float], *scenario: str) -> Row:
    """A scenario with one row, one figure of which is the ratio; `rounds` gives their number and the seconds of each arm."""
    runs, seconds = rounds
    arguments = [*scenario, "--rounds", str(runs), "--seconds", str(seconds)]
    [found] = bench.load(*arguments)
    return line.measured(found[ratio], runs, found, [shown_command(bench.load_command(*arguments))])


def _identity(item_bytes: int, shape: tuple[int, int]) -> Measure:
    def measure(bench: Bench, lines: list[Line]) -> list[Row]:
        arguments = ["saturate", "--synthetic", "--item-bytes", str(item_bytes), *_shape(shape)]
        row = _one(bench, lines[0], "ratio_to_echo", _cheap(bench.effort), *arguments)
        gib = item_bytes / (1 << 30)
        row.figures["gib_per_s"] = row.figures["items_per_s"] * gib
        row.figures["echo_gib_per_s"] = row.figures["echo_items_per_s"] * gib
        return [row]

    return measure


def _silero(engine: str) -> Measure:
    def measure(bench: Bench, lines: list[Line]) -> list[Row]:
        chosen = _onnxruntime() if engine == "onnxruntime" else ["--engine", engine]
        return [_one(bench, lines[0], "ratio_to_composed_limit", _cheap(bench.effort), "saturate", *chosen, *_shape(SILERO))]

    return measure


def _heavy(model: str) -> Measure:
    def measure(bench: Bench, lines: list[Line]) -> list[Row]:
        named = ["--models", str(bench.models(model)), "--model", model]
        arguments = ["saturate", *_onnxruntime(), *named, *_shape(HEAVY)]
        return [_one(bench, lines[0], "ratio_to_engine", _costly(bench.effort), *arguments)]

    return measure


def _realtime(bench: Bench, lines: list[Line]) -> list[Row]:
    effort = bench.effort
    rounds = (effort.runs, effort.realtime_seconds)
    arguments = ["realtime", "--search", *_onnxruntime(), "--streams", "256"]
    return [_one(bench, lines[0], "ratio_to_composed_limit", rounds, *arguments)]


def _lone(bench: Bench, lines: list[Line]) -> list[Row]:
    effort = bench.effort
    arguments = ["latency", *_onnxruntime(), "--rounds", str(effort.runs), "--items", str(effort.lone_items)]
    rows = bench.load(*arguments)
    names = ("engine", "echo", "feed", "added", "least_server", "server_until_call", "server_call", "server_after_call")
    figures = {f"{name}_{key}": row[key] for name, row in zip(names, rows, strict=True) for key in ("p50_us", "p99_us")}
    return [lines[0].measured(figures["added_p50_us"], effort.runs, figures, [shown_command(bench.load_command(*arguments))])]


def _idle(bench: Bench, lines: list[Line]) -> list[Row]:
    # More often than by default, so that each run includes the keepalives of all connections.
    keepalive = ["--set", "grpc.keepalive_interval_s=5"]
    arguments = ["idle", "--seconds", str(bench.effort.idle_seconds), "--server", str(bench.server), *keepalive]
    runs = [bench.load(*arguments)[0] for _ in range(bench.effort.runs)]
    found = {key: median([run[key] for run in runs]) for key in runs[0]}
    found["cores"] = found["idle_cpu_ms"] / 1e3 / found["idle_s"]
    ratios = {"idle-cpu": found["cores"], "idle-memory": found["kib_per_stream"]}
    commands = [shown_command(bench.load_command(*arguments))]
    return [line.measured(ratios[line.name], len(runs), found, commands) for line in lines]


def _without(part: str, engine: Callable[[], list[str]] = list) -> Measure:
    def measure(bench: Bench, lines: list[Line]) -> list[Row]:
        return [_one(bench, lines[0], "ratio_to_without", _cheap(bench.effort), "without", part, *engine())]

    return measure


# The lines that are measured together.
GROUPS = {"idle": ("idle-cpu", "idle-memory")}

# By the name of the line or of the group.
MEASURES: dict[str, Measure] = {
    "identity-2304": _identity(2_304, (256, 8)),
    "identity-64": _identity(64, (16, 64)),
    "identity-1mib": _identity(LARGE_BYTES, LARGE),
    "silero-onnxruntime": _silero("onnxruntime"),
    "silero-rten": _silero("rten"),
    "realtime": _realtime,
    "minilm": _heavy("minilm"),
    "magika": _heavy("magika"),
    "lone": _lone,
    "idle": _idle,
    "metrics": _without("metrics"),
    "batching": _without("batching", _onnxruntime),
}

# Arms, and what each takes besides its seconds; then what comes before them.
_ARM_EXTRA_S = 0.5


def _arms_s(arms: int, rounds: Callable[[Effort], tuple[int, float]], before_s: float) -> Callable[[Effort], float]:
    def estimate(effort: Effort) -> float:
        runs, seconds = rounds(effort)
        return runs * arms * (seconds + _ARM_EXTRA_S) + before_s

    return estimate


# Echo and server take turns, or echo, engine and server; before them, the best batch is sought.
_ESTIMATES_S: dict[str, Callable[[Effort], float]] = {
    **dict.fromkeys(("identity-2304", "identity-64", "identity-1mib", "metrics", "batching"), _arms_s(2, _cheap, 2)),
    **dict.fromkeys(("silero-onnxruntime", "silero-rten"), _arms_s(3, _cheap, 5)),
    **dict.fromkeys(("minilm", "magika"), _arms_s(3, _costly, 10)),
    # About eight steps up and down, before the confirming ones.
    "realtime": lambda effort: (8 + effort.runs) * (effort.realtime_seconds + 3) + 10,
    "lone": lambda effort: effort.runs * effort.lone_items * 1e-3 + 2,
    "idle": lambda effort: effort.runs * (effort.idle_seconds + 4),
}
