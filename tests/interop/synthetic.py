"""Models without a file, for whatever depends on the time of a call: how long a lane is busy, which item goes first when it is free."""

import contextlib
import pathlib
from collections.abc import Iterator

import messages
import metrics
import numpy as np
from feed_call import opened
from messages import TENSORS, of_kind, pb
from server import Server, wait_until

# One item a call, at no cost.
QUICK = "quick"
# One item a call, slow enough that a queue builds up.
SLOW = "slow"
# One item a call, which keeps the lane for longer than a test needs to set up its scene.
STUCK = "stuck"
# Copies, so that results are as large as items.
ECHO = "echo"
ECHO_ELEMENTS = 16_384
# Pads rows of up to eight elements into one call.
ROWS = "rows"
ROWS_BUCKETS = [4, 8]
ROWS_WASTE_MAX = 0.75
# Copies texts.
TEXTS = "texts"
# Doubles two tensors.
PAIR = "pair"
# Copies numbers of two bytes.
HALVES = "halves"
# Doubles four numbers that have names.
LABELLED = "labelled"
LABELS = ["ant", "bee", "cow", "dog"]
# Doubles a number, and keeps its answers.
KEPT = "kept"

ONE_A_CALL = "max_batch = 1"
PADDING = f"[padding]\nbuckets = {ROWS_BUCKETS}\nwaste_max = {ROWS_WASTE_MAX}"


def _manifest(elements: int, kind: str = "double", cost_us: int = 0, head: str = "", tail: str = "") -> str:
    tensor = f'datatype = "FP32"\ndims = ["batch", {elements}]'
    script = f'kind = "{kind}"\ncost_per_call_us = {cost_us}\ncost_mode = "blocked"'
    parts = [head, 'engine = "synthetic"', f'[[inputs]]\nname = "x"\n{tensor}', f'[[outputs]]\nname = "y"\n{tensor}']
    return "\n".join([*parts, tail, f"[synthetic]\n{script}\n"])


def _labelled() -> str:
    manifest = _manifest(len(LABELS))
    output = 'name = "y"\n'
    return manifest.replace(output, f"{output}labels = {LABELS}\n")


def _several(kind: str, *tensors: tuple[str, str, list]) -> str:
    """Output `out_NAME` of each input `NAME`."""
    parts = ['engine = "synthetic"']
    for name, datatype, dims in tensors:
        rest = f'datatype = "{datatype}"\ndims = {["batch", *dims]}'
        parts += [f'[[inputs]]\nname = "{name}"\n{rest}', f'[[outputs]]\nname = "out_{name}"\n{rest}']
    return "\n".join([*parts, f'[synthetic]\nkind = "{kind}"\n'])


MANIFESTS = {
    QUICK: _manifest(1, head=ONE_A_CALL),
    SLOW: _manifest(1, cost_us=20_000, head=ONE_A_CALL),
    STUCK: _manifest(1, cost_us=1_500_000, head=ONE_A_CALL),
    ECHO: _manifest(ECHO_ELEMENTS, kind="identity"),
    ROWS: _manifest(-1, tail=PADDING),
}

# For clients that can send more than one tensor of numbers.
TYPED_MANIFESTS = {
    TEXTS: _several("identity", ("text", "BYTES", [-1])),
    PAIR: _several("double", ("floats", "FP32", [2]), ("integers", "INT32", [-1])),
    LABELLED: _labelled(),
    KEPT: _manifest(1, head="cache = true"),
    HALVES: _several("identity", ("half", "FP16", [2]), ("brain", "BF16", [2])),
}


def write_models(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """A folder for `--models`."""
    for name in names:
        (folder / name).mkdir()
        (folder / name / "model.toml").write_text((MANIFESTS | TYPED_MANIFESTS)[name])
    return folder


def row(*values: float, id="", **fields) -> pb.Item:
    """An item of one row."""
    return messages.item(np.array(values, "<f4"), id=id, name="x", **fields)


def rows(values, **fields) -> list[pb.FeedRequest]:
    """An item for each value, with the value as its id."""
    return messages.feed_items([row(value, id=str(value), **fields) for value in values])


def numbers(outputs: pb.Outputs) -> list[float]:
    """What the one output holds."""
    (output,) = outputs.tensors
    found = np.frombuffer(output.data, "<f4")
    assert list(output.shape) == [len(found)], output
    return found.tolist()


def feed(server: Server, model: str, **fields):
    """An open feed of tensors."""
    return opened(server.inference, payload=TENSORS, model=model, **fields)


def await_items(server: Server, name: str, model: str, count: int) -> None:
    """Waits until a gauge of a model's items reads `count`."""
    wait_until(
        lambda: server.metrics().total(name, model=model) == count,
        lambda: f"{name} of {model} is never {count}:\n{server.get('/metrics')[1]}",
    )


@contextlib.contextmanager
def lane_blocked(server: Server) -> Iterator[None]:
    """The server's only lane is in a long call when the `with` begins. Its end waits for the end of the call."""
    blocker = feed(server, STUCK)
    blocker.send(*rows([1]))
    await_items(server, metrics.ITEMS_IN_FLIGHT, STUCK, 1)
    yield
    (result,) = of_kind(blocker.finish(), "result")
    assert numbers(result.outputs) == [2]
