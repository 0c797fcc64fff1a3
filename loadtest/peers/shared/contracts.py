"""What each model takes and gives for one item, and how an item is laid out in the body of an HTTP request.

Knows nothing about servers or engines.
"""

import dataclasses
import math
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parents[3] / ".cache/peers/models"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of an item: its shape has no batch axis."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    # Where the model has its batch.
    batch_axis: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Contract:
    """A model: its file and its tensors."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    # Inputs that are the same for every item.
    constants: tuple[tuple[str, np.ndarray], ...] = ()
    # The input that holds the state, and the output that is its next value.
    state: tuple[str, str] | None = None
    # Whether the server keeps the state, so that neither is sent.
    kept: bool = False
    # Name of the file, if it is not that of the model.
    file: str = ""

    @property
    def path(self) -> str:
        return str(FOLDER / f"{self.file or self.name}.onnx")

    @property
    def input_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.inputs)

    def zeros(self) -> bytes:
        """The smallest possible request."""
        return bytes(self.input_bytes)


def _f32(name: str, *shape: int, batch_axis: int = 0) -> Tensor:
    return Tensor(name, np.dtype(np.float32), shape, batch_axis)


def _i64(name: str, *shape: int) -> Tensor:
    return Tensor(name, np.dtype(np.int64), shape)


def _identity(name: str, width: int) -> Contract:
    return Contract(name, (_f32("input", width),), (_f32("output", width),))


def _silero(file: str, *, kept: bool) -> Contract:
    return Contract(
        file if kept else f"{file}-stateless",
        (_f32("input", 576), _f32("state", 2, 128, batch_axis=1)),
        (_f32("output", 1), _f32("stateN", 2, 128, batch_axis=1)),
        constants=(("sr", np.array(16_000, np.int64)),),
        state=("state", "stateN"),
        kept=kept,
        file=file,
    )


_ALL = (
    *(_silero(file, kept=kept) for file in ("silero-vad", "silero-vad-rewritten") for kept in (True, False)),
    Contract(
        "minilm",
        (_i64("input_ids", 32), _i64("attention_mask", 32), _i64("token_type_ids", 32)),
        (_f32("last_hidden_state", 32, 384),),
    ),
    Contract("magika", (Tensor("bytes", np.dtype(np.int32), (2_048,)),), (_f32("target_label", 214),)),
    _identity("identity-64", 16),
    _identity("identity-2304", 576),
    _identity("identity-1mib", 262_144),
)
CONTRACTS = {contract.name: contract for contract in _ALL}


def check_body(contract: Contract, body: bytes) -> None:
    """Raises ValueError unless `body` has the bytes of one item."""
    if len(body) != contract.input_bytes:
        raise ValueError(f"{contract.name}: {len(body)} bytes, but an item has {contract.input_bytes}")


def inputs_of_bodies(contract: Contract, bodies: list[bytes]) -> list[np.ndarray]:
    """The inputs of a batch, batch axis first, from bodies of the right length."""
    joined = bodies[0] if len(bodies) == 1 else b"".join(bodies)
    items = np.frombuffer(joined, np.uint8).reshape(len(bodies), contract.input_bytes)
    inputs, begin = [], 0
    for tensor in contract.inputs:
        part = np.ascontiguousarray(items[:, begin : begin + tensor.bytes])
        inputs.append(part.view(tensor.dtype).reshape(len(bodies), *tensor.shape))
        begin += tensor.bytes
    return inputs


def bodies_of_outputs(outputs: list[np.ndarray]) -> list[bytes]:
    """One body per item: its outputs one after another."""
    parts = [np.ascontiguousarray(output).reshape(len(output), -1).view(np.uint8) for output in outputs]
    items = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return [item.tobytes() for item in items]
