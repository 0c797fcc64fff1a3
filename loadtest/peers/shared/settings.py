"""What a peer is started with: the options of `serve`, and the settings it uses for a model by default."""

import argparse
import dataclasses
import json
import os

from contracts import CONTRACTS, Contract
from record import Batching, Record

_HANDED_ON = "PEER_SETTINGS"

HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Settings:
    """One start of a peer."""

    contract: Contract
    port: int
    batching: Batching

    def environment(self) -> dict[str, str]:
        """Variables from which `handed_on` reads the settings back in one of the peer's processes."""
        plain = {"model": self.contract.name, "port": self.port, "batching": dataclasses.asdict(self.batching)}
        return {_HANDED_ON: json.dumps(plain)}


def from_arguments(peer: str, *, keeps_state: bool = False) -> Settings:
    """Reads the command line. Settings that it does not give are those that a search found on this machine, or the defaults."""
    models = [name for name, contract in CONTRACTS.items() if keeps_state or not contract.kept]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True, choices=models)
    parser.add_argument("--port", required=True, type=int, help="for gRPC, or for HTTP if there is no gRPC; gRPC peers have HTTP one above")
    for field in dataclasses.fields(Batching):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, help="instead of the setting that was found for the model")
    arguments = vars(parser.parse_args())
    chosen = Record.read().batching(peer, arguments["model"])
    given = {field.name: arguments[field.name] for field in dataclasses.fields(Batching)}
    batching = dataclasses.replace(chosen, **{name: value for name, value in given.items() if value is not None})
    return Settings(CONTRACTS[arguments["model"]], arguments["port"], batching)


def handed_on() -> Settings:
    """The settings of the process that started this one."""
    plain = json.loads(os.environ[_HANDED_ON])
    return Settings(CONTRACTS[plain["model"]], plain["port"], Batching(**plain["batching"]))
