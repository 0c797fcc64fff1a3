"""What an attack is: a function that runs in its own process, and what must be true afterwards."""

import collections
import dataclasses
import importlib
from collections.abc import Callable, Mapping

import attacks

MIB = 1 << 20

# How much a request may make the server hold for each byte that arrived or was inflated, and for each counted
# unit.
HELD_FOR_A_BYTE = 8
HELD_FOR_A_UNIT = 2_048
# Threads, buffers of connections, and what the allocator keeps: not the attack's.
HELD_ANYWAY = 64 * MIB


@dataclasses.dataclass(frozen=True)
class Target:
    """The server as an attacker sees it, and how much of the attack to run."""

    grpc: str
    http: str
    admin: str
    # 1 for all of it.
    scale: float
    seconds: float
    clocks: Mapping[str, int]

    def times(self, count: int, least: int = 1) -> int:
        """This many; fewer in the short form."""
        return max(least, round(count * self.scale))


@dataclasses.dataclass
class Report:
    """What was sent and what the server did, for the table; and what the memory rule counts."""

    sent: str
    did: str
    # Streams, items, tensors, calls.
    units: int = 0
    # Bytes that came out of compressed ones.
    inflated: int = 0


@dataclasses.dataclass(frozen=True)
class Attack:
    name: str
    section: str
    run: Callable[[Target], Report]
    # Settings that it needs of the server; attacks with the same ones share a server.
    settings: tuple[str, ...]
    # The most that may be held in all, however much was sent: the sum of the named limits.
    held_max: int
    # Whether the short form runs it too.
    in_short: bool
    # The longest it may take.
    patience_s: float
    # Connections and streams that may be left, such as those of sequences in their time of grace, are gone after this.
    rest_s: float
    # Whether a bystander's time is bounded during it: not if the attacker merely has its fair share of the lanes that both
    # use.
    timed: bool


ATTACKS: dict[str, Attack] = {}


def attack(
    section: str,
    *settings: str,
    held_max: int = 512 * MIB,
    in_short: bool = True,
    patience_s: float = 60,
    rest_s: float = 20,
    timed: bool = True,
) -> Callable:
    def enter(run: Callable[[Target], Report]) -> Callable[[Target], Report]:
        name = run.__name__
        assert name not in ATTACKS, name
        ATTACKS[name] = Attack(name, section, run, settings, held_max, in_short, patience_s, rest_s, timed)
        return run

    return enter


def load() -> dict[str, Attack]:
    """All attacks there are, in the order of their modules and lines."""
    for module in attacks.MODULES:
        importlib.import_module(f"attacks.{module}")
    return ATTACKS


class Survived(AssertionError):
    """The server did not do what it must."""


def expect(condition: object, said: object) -> None:
    """An assertion that python -O keeps and whose message is what the test shows."""
    if not condition:
        raise Survived(str(said))


def expect_codes(found: collections.Counter, *allowed: str) -> str:
    """Fails if a stream ended in any other way; returns the ends in words."""
    others = {code: count for code, count in found.items() if code not in allowed}
    expect(not others, f"ended with {others}; allowed: {', '.join(allowed)}")
    return told(found)


def told(found: collections.Counter) -> str:
    return ", ".join(f"{count} x {code}" for code, count in found.most_common()) or "nothing"
