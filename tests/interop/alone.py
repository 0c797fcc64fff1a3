"""Any model in Python's onnxruntime: item by item, for comparison with the server's answers, and several in one call, which
shows whether its items influence each other."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import onnxruntime

# An item's inputs or outputs by name, without the batch dimension.
Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class State:
    """What a model carries from one item of a stream to the next."""

    input: str
    output: str
    # Without the batch.
    shape: tuple[int, ...]
    batch_axis: int = 0

    def first(self) -> np.ndarray:
        return np.zeros(self.shape, np.float32)


@dataclasses.dataclass(frozen=True)
class Model:
    """An ONNX file, and what one must know about it to run items."""

    file: bytes | str
    states: tuple[State, ...] = ()
    # The position of a tensor's batch dimension, if it is not the first.
    batch_axes: dict[str, int] = dataclasses.field(default_factory=dict)
    # Inputs of all calls that no item supplies.
    shared: Tensors = dataclasses.field(default_factory=dict)
    # Inputs that are padded to the longest item of a call, along an item's first dimension; and outputs that are cut there.
    padded: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    # The outputs that are requested; all of them, if none is named.
    outputs: tuple[str, ...] = ()
    # An item is a whole call: there is no batch dimension.
    whole: bool = False

    @functools.cached_property
    def session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(self.file, options, ["CPUExecutionProvider"])

    @functools.cached_property
    def output_names(self) -> list[str]:
        return list(self.outputs) or [output.name for output in self.session.get_outputs()]

    def length(self, item: Tensors) -> int:
        return len(item[self.padded[0]])

    def together(self, items: list[Tensors], padded_to: int = 0) -> list[Tensors]:
        """The outputs of one call. States are inputs and outputs like any others."""
        return self.together_by(self.session.run, items, padded_to)

    def together_by(self, run: Callable, items: list[Tensors], padded_to: int = 0) -> list[Tensors]:
        if self.padded:
            longest = max(padded_to, *map(self.length, items))
            items = [self._padded(item, longest) if self.length(item) < longest else item for item in items]
        feed = {name: self._batched(name, [item[name] for item in items]) for name in items[0]} | self.shared
        outputs = dict(zip(self.output_names, run(self.output_names, feed), strict=True))
        if self.whole:
            return [outputs]
        return [
            {name: self._row(name, values, row, len(items)) for name, values in outputs.items()} for row in range(len(items))
        ]

    def alone(self, item: Tensors) -> Tensors:
        (outputs,) = self.together([item])
        return outputs

    def stream(self, items: list[Tensors]) -> list[Tensors]:
        """The outputs of a stream's items, one by one, without the states."""
        return self.streams([items])[0]

    def streams(self, streams: list[list[Tensors]]) -> list[list[Tensors]]:
        """Several streams side by side: each call has one item of each."""
        states = [{state.input: state.first() for state in self.states} for _ in streams]
        answers: list[list[Tensors]] = [[] for _ in streams]
        for step in zip(*streams, strict=True):
            outputs = self.together([item | own for item, own in zip(step, states, strict=True)])
            for row, own in enumerate(outputs):
                for state in self.states:
                    states[row][state.input] = own.pop(state.output)
                answers[row].append(own)
        return answers

    def cut_to(self, outputs: Tensors, item: Tensors) -> Tensors:
        """A row of a padded call, cut to the length of its item."""
        return {name: values[: self.length(item)] if name in self.cut else values for name, values in outputs.items()}

    def _axis(self, name: str) -> int:
        of_states = {tensor: state.batch_axis for state in self.states for tensor in (state.input, state.output)}
        return (of_states | self.batch_axes).get(name, 0)

    def _padded(self, item: Tensors, length: int) -> Tensors:
        def longer(values: np.ndarray) -> np.ndarray:
            return np.pad(values, [(0, length - len(values)), *[(0, 0)] * (values.ndim - 1)])

        return {name: longer(values) if name in self.padded else values for name, values in item.items()}

    def _batched(self, name: str, rows: list[np.ndarray]) -> np.ndarray:
        if self.whole:
            (values,) = rows
            return values
        rows = [np.asarray(row) for row in rows]
        if rows[0].dtype == object:
            rows = [np.vectorize(bytes.decode, otypes=[object])(row) for row in rows]
        return np.stack(rows, self._axis(name))

    def _row(self, name: str, values: np.ndarray, row: int, rows: int) -> np.ndarray:
        axis = self._axis(name)
        assert values.ndim > axis and values.shape[axis] == rows, f"{name!r} has shape {values.shape} in a call of {rows}"
        return np.take(values, row, axis)


def is_number(values: np.ndarray) -> bool:
    """Whether the values may be slightly off."""
    return values.dtype.kind == "f"


def difference(found: Tensors, expected: Tensors, scale: float | dict[str, float]) -> float:
    """The largest difference over all outputs, in parts of `scale`: 0 if the values are equal, infinite if shapes differ, or values
    that are not floats."""
    worst = 0.0
    for name, wanted in expected.items():
        got = found[name]
        if got.shape != wanted.shape:
            return np.inf
        if not is_number(wanted):
            worst = max(worst, 0.0 if np.array_equal(got, wanted) else np.inf)
            continue
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(got - wanted))
        apart = np.where(np.isnan(apart), np.inf, apart)
        worst = max(worst, float(apart.max(initial=0.0)) / (scale if isinstance(scale, float) else scale[name]))
    return worst


def magnitudes(answers: list[Tensors]) -> dict[str, float]:
    """The median size of each output's values in these answers."""
    names = [name for name, values in answers[0].items() if is_number(values)]
    largest = {
        name: [np.nan_to_num(np.abs(own[name].astype(np.float64))).max(initial=0.0) for own in answers] for name in names
    }
    return {name: float(np.median(values)) or 1.0 for name, values in largest.items()}


def row_scale(expected: Tensors, typical: dict[str, float], least: float = 1e-3) -> dict[str, float]:
    """The unit for a row's differences: the largest value of each output, but at least this part of a typical one."""
    numbers = {name: values for name, values in expected.items() if is_number(values)}
    own = {name: float(np.nan_to_num(np.abs(values.astype(np.float64))).max(initial=0.0)) for name, values in numbers.items()}
    return {name: max(value, least * typical[name], 1e-30) for name, value in own.items()}
