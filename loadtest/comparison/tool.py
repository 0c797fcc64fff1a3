"""The measuring programs of this repository, and where they and the files that they need are."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shlex
import sys

from . import processes
from .processes import Failed

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
PEER_MODELS = CACHE / "peers/models"
# Files that commands refer to are kept where they can be found again.
SCRATCH = CACHE / "compare"

SCENARIO_PATIENCE_S = 900


@dataclasses.dataclass(frozen=True)
class Effort:
    """How often and how long to measure."""

    name: str
    # Runs of each arm, the median of which counts, and the seconds of one whose calls take tens of milliseconds.
    runs: int
    heavy_seconds: float
    # The same for cheap models on one server: more of them, and shorter, since the machine changes its pace within seconds.
    turns: int
    seconds: float
    realtime_seconds: float
    idle_seconds: float
    lone_items: int
    # For the lines against peers: of a load over HTTP, and of a window of perf_analyzer, which takes three to `perf_trials` of them.
    load_seconds: float
    perf_window_ms: int
    perf_trials: int
    levels: tuple[int, ...]
    # For the table of models.
    table_models: tuple[str, ...]
    table_runs: int
    table_seconds: float
    table_heavy_seconds: float
    equal_seconds: float


LEVELS = (1, 16, 64, 256)
SILEROS = ("silero-vad", "silero-vad-stateless", "silero-vad-rewritten", "silero-vad-rewritten-stateless")
FULL = Effort(
    name="full",
    runs=5,
    heavy_seconds=5.0,
    turns=11,
    seconds=1.0,
    realtime_seconds=4.0,
    idle_seconds=10.0,
    lone_items=1_000,
    load_seconds=1.5,
    perf_window_ms=800,
    perf_trials=5,
    levels=LEVELS,
    table_models=(*SILEROS, "identity-2304", "minilm", "magika", "identity-64", "identity-1mib"),
    table_runs=3,
    table_seconds=1.0,
    table_heavy_seconds=2.0,
    equal_seconds=2.0,
)
QUICK = Effort(
    name="quick",
    runs=1,
    heavy_seconds=2.0,
    turns=1,
    seconds=0.6,
    realtime_seconds=1.5,
    idle_seconds=5.0,
    lone_items=300,
    load_seconds=0.8,
    perf_window_ms=500,
    perf_trials=5,
    levels=LEVELS,
    table_models=SILEROS,
    table_runs=1,
    table_seconds=0.6,
    table_heavy_seconds=1.5,
    equal_seconds=1.0,
)


@dataclasses.dataclass(frozen=True)
class Bench:
    """One run of the comparison: what it measures with, and how much."""

    effort: Effort
    binaries: pathlib.Path
    scratch: pathlib.Path

    @property
    def server(self) -> pathlib.Path:
        return self.binaries / "tidemill"

    @property
    def load_tool(self) -> pathlib.Path:
        return self.binaries / "tidemill-load"

    def load(self, scenario: str, *arguments: str) -> list[dict]:
        """Runs a scenario of `tidemill-load` and returns its rows."""
        text = processes.run(self.load_command(scenario, *arguments), patience_s=SCENARIO_PATIENCE_S)
        return [json.loads(line) for line in text.splitlines()]

    def load_command(self, scenario: str, *arguments: str) -> list[str]:
        return [str(self.load_tool), scenario, "--json", *arguments]

    def models(self, name: str) -> pathlib.Path:
        """A folder for the server, with one of the peers' models."""
        source = PEER_MODELS / f"{name.removesuffix('-stateless')}.onnx"
        if not source.is_file():
            make_models(self)
        folder = self.scratch / "models" / name
        version = folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        file = version / "model.onnx"
        # One that was made when the repository was somewhere else leads nowhere.
        if not (file.is_symlink() and file.readlink() == source):
            file.unlink(missing_ok=True)
            file.symlink_to(source)
        if manifest := _manifest(name):
            version.with_name("model.toml").write_text(manifest)
        return folder


def onnxruntime() -> pathlib.Path:
    """The engine's library. It is in the Python package of the same name, which the set-up of the tests installs."""
    found = sorted(CACHE.glob("venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*"))
    if not found:
        raise Failed("there is no onnxruntime library in .cache/venv: run tests/setup/install")
    return found[0]


_SILERO = """\
[[inputs]]
name = "input"
dims = ["batch", 576]

[[inputs]]
name = "sr"
shared = 16000

[[outputs]]
name = "output"
dims = ["batch", 1]
"""
_STATE_KEPT = """
[[states]]
input = "state"
output = "stateN"
batch_axis = 1
"""
_STATE_SENT = """
[[inputs]]
name = "state"
dims = [2, "batch", 128]

[[outputs]]
name = "stateN"
dims = [2, "batch", 128]
"""


def _manifest(name: str) -> str:
    """What this server has to know about a model; empty for most."""
    if name not in SILEROS:
        return ""
    return _SILERO + (_STATE_SENT if name.endswith("-stateless") else _STATE_KEPT)


def make_models(bench: Bench) -> None:
    """Puts the models on which all servers are compared in place. The rewritten one is the one inside this server's program."""
    processes.run([str(ROOT / "loadtest/peers/models")], patience_s=900, environment={"TIDEMILL_SERVER": str(bench.server)})


def build() -> None:
    say("building the release binaries")
    processes.run(["cargo", "build", "--release", "--locked", "--workspace"], patience_s=3600, quiet_errors=False)


def sha256(program: pathlib.Path) -> str:
    """Identifies a program, whatever it says about itself."""
    try:
        with program.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Failed(f"cannot read {program}: {error.strerror}") from error


def said_version(program: pathlib.Path) -> str:
    """What a program says to `--version`, without its name."""
    return processes.run([str(program), "--version"], patience_s=20).strip().partition(" ")[2]


def shown_command(command: list[str]) -> str:
    """As typed in the repository's root; ports are free ones, different each time, and programs are where they are built."""
    shown = shlex.join(part.replace(f"{ROOT}/", "") for part in command)
    shown = re.sub(r"(?<!\S)/\S*/(tidemill(?:-load|-sim)?)(?!\S)", r"target/release/\1", shown)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", shown)


def note(commands: list[str], command: list[str]) -> None:
    """Adds a command in the form in which it is shown, once."""
    if (shown := shown_command(command)) not in commands:
        commands.append(shown)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
