"""The programs of this repository that measure, and where they and the files that they need lie."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import sys
import tomllib

from . import processes
from .processes import Failed

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
PEER_MODELS = CACHE / "peers/models"
# Files that commands name lie where they can be found again.
SCRATCH = CACHE / "compare"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How often and how long is measured."""

    name: str
    # Runs of each arm, of which the median is taken.
    runs: int
    # Seconds of one arm of a cheap model, and of one whose calls take tens of milliseconds.
    seconds: float
    heavy_seconds: float
    realtime_seconds: float
    idle_seconds: float
    lone_items: int
    # Of the tables against peers.
    load_seconds: float
    table_runs: int
    equal_seconds: float
    levels: tuple[int, ...]
    perf_trials: int
    table_models: tuple[str, ...]


ALL_MODELS = ("silero-vad", "minilm", "magika", "identity-64", "identity-2304", "identity-1mib")
FULL = Effort("full", 5, 1.5, 5.0, 4.0, 10.0, 1_000, 1.5, 3, 3.0, (1, 16, 64, 256), 4, ALL_MODELS)
QUICK = Effort("quick", 1, 0.6, 2.0, 1.5, 5.0, 300, 0.8, 1, 1.0, (1, 16, 64, 256), 4, ("silero-vad",))

WARM_UP_S = 0.4
SCENARIO_PATIENCE_S = 900


@dataclasses.dataclass
class Bench:
    """One run of the comparison: what it measures with, and how much."""

    effort: Effort
    binaries: pathlib.Path
    scratch: pathlib.Path

    @property
    def server(self) -> pathlib.Path:
        return self.binaries / "tidemill"

    def load(self, scenario: str, *arguments: str) -> list[dict]:
        """Runs a scenario of `tidemill-load` and returns its rows."""
        text = processes.run(self.load_command(scenario, *arguments), patience_s=SCENARIO_PATIENCE_S)
        return [json.loads(line) for line in text.splitlines()]

    def load_command(self, scenario: str, *arguments: str) -> list[str]:
        return [str(self.binaries / "tidemill-load"), scenario, "--json", *arguments]

    def models(self, name: str) -> pathlib.Path:
        """A folder for the server that holds one model of the peers, and a manifest where the file does not say enough."""
        source = PEER_MODELS / f"{name}.onnx"
        if not source.is_file():
            make_models()
        folder = self.scratch / "models" / name
        version = folder / name / "1"
        if not version.is_dir():
            version.mkdir(parents=True)
            os.symlink(source, version / "model.onnx")
            if manifest := MANIFESTS.get(name):
                (folder / name / "model.toml").write_text(manifest)
        return folder

    def onnxruntime(self) -> pathlib.Path:
        return onnxruntime()


# Of models that cannot be served by their file alone.
MANIFESTS: dict[str, str] = {}


def onnxruntime() -> pathlib.Path:
    """The engine's library. It lies in the Python package of the same name, which the set-up of the tests installs."""
    found = sorted(CACHE.glob("venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*"))
    if not found:
        raise Failed("there is no onnxruntime library in .cache/venv: run tests/setup/install")
    return found[0]


def make_models() -> None:
    """Lays the models down that all servers are compared on."""
    processes.run([str(ROOT / "loadtest/peers/models")], patience_s=900)


def shown_command(command: list[str]) -> str:
    """As it is typed in the repository's root; ports are free ones, and others each time."""
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", shlex.join(part.replace(f"{ROOT}/", "") for part in command))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def build() -> None:
    say("building the release binaries")
    processes.run(["cargo", "build", "--release", "--locked", "--workspace"], patience_s=3600, quiet_errors=False)


def version() -> str:
    return tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
