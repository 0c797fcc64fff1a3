"""Where the programs and the results of this suite are."""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SERVER = pathlib.Path(os.environ.get("TIDEMILL_SERVER", ROOT / "target/debug/tidemill"))
CONFIGURATION = ROOT / "docs/configuration.md"
PAGE = ROOT / "docs/hardening.md"
PYTHON = sys.executable
ATTACKER = HERE / "attacker.py"
BYSTANDER = HERE / "bystander.py"
REPLAY = HERE / "replay.py"
SINK = HERE / "sink.py"


def over_tls() -> bool:
    """Whether all connections of this run are encrypted."""
    return os.environ.get("TIDEMILL_HOSTILE_TLS") == "1"
