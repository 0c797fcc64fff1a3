"""The record of the peers' settings, read with the peers' own code (`loadtest/peers/shared/record.py`)."""

import importlib.util
import pathlib
import sys

_PATH = pathlib.Path(__file__).resolve().parents[1] / "peers/shared/record.py"
_spec = importlib.util.spec_from_file_location("peer_record_shared", _PATH)
assert _spec is not None and _spec.loader is not None
_shared = importlib.util.module_from_spec(_spec)
# Dataclasses look up their module.
sys.modules[_spec.name] = _shared
_spec.loader.exec_module(_shared)

DEFAULTS = _shared.DEFAULTS
PATH = _shared.PATH
Batching = _shared.Batching
Record = _shared.Record
Search = _shared.Search
Tried = _shared.Tried
