"""Writes the model repository that Triton serves: one model, its configuration and its program."""

import pathlib

from contracts import Tensor
from settings import Settings

_DATATYPES = {"float32": "TYPE_FP32", "int32": "TYPE_INT32", "int64": "TYPE_INT64"}
# The most sequences that hold a slot at a time; others wait.
_MAX_SEQUENCES = 1_024


def lay_down(settings: Settings, repository: pathlib.Path) -> None:
    folder = repository / settings.contract.name / "1"
    folder.mkdir(parents=True)
    # The backend reads no PYTHONPATH, but finds what is next to the program.
    here = pathlib.Path(__file__).resolve().parent
    (folder / "model.py").symlink_to(here / ("sequences.py" if settings.contract.kept else "rows.py"))
    for module in ("contracts.py", "engine.py", "record.py", "settings.py"):
        (folder / module).symlink_to(here.parent / "shared" / module)
    folder.with_name("config.pbtxt").write_text(_configuration(settings))


def _configuration(settings: Settings) -> str:
    contract, batching = settings.contract, settings.batching
    state = contract.state if contract.kept else ()
    return "\n".join([
        f'name: "{contract.name}"',
        'backend: "python"',
        f"max_batch_size: {batching.max_batch}",
        *(_tensor("input", tensor) for tensor in contract.inputs if tensor.name not in state),
        *(_tensor("output", tensor) for tensor in contract.outputs if tensor.name not in state),
        f"instance_group [{{ count: {batching.workers} kind: KIND_CPU }}]",
        _sequences(batching.delay_us) if state else _items(batching.delay_us),
    ])


def _tensor(end: str, tensor: Tensor) -> str:
    shape = ", ".join(map(str, tensor.shape))
    return f'{end} [{{ name: "{tensor.name}" data_type: {_DATATYPES[tensor.dtype.name]} dims: [ {shape} ] }}]'


def _items(delay_us: int) -> str:
    return f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}"


def _sequences(delay_us: int) -> str:
    # No control inputs: the program gets the flags and the sequence from each request, which costs less than tensors.
    return f"""sequence_batching {{
        max_sequence_idle_microseconds: 60000000
        oldest {{ max_candidate_sequences: {_MAX_SEQUENCES} max_queue_delay_microseconds: {delay_us} }}
    }}"""
