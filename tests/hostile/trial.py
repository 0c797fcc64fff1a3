"""One attack on one server: what was seen, and everything that is wrong with it."""

import dataclasses
import json
import pathlib
import re
import subprocess
import tempfile
import time

import ledger
import places
from attack import HELD_ANYWAY, HELD_FOR_A_BYTE, HELD_FOR_A_UNIT, MIB, Attack
from server import Server, set_options, wait_until

# The server's clocks that attacks wait for: the key, and the seconds that make the suite short. The second number is what the server uses
# if it has no such key.
CLOCKS = {
    "open": ("session.open_timeout_s", 3, 10),
    "arrival": ("grpc.body_timeout_s", 4, 60),
    "greeting": ("grpc.greeting_timeout_s", 4, 10),
    "grace": ("sequence.grace_s", 2, 60),
    "idle": ("session.idle_timeout_s", 8, 300),
    "header": ("http.header_timeout_s", 3, 10),
    "body": ("http.body_timeout_s", 4, 60),
}
# For bystanders: the time in which 99 of 100 chunks are answered during an attack is at most this many times that during the control, and
# at most this long.
P99_OVER_CONTROL_MAX = 2.0
P99_MS_MAX = 30.0


def known_keys() -> set[str]:
    return set(re.findall(r"^\| `([a-z_]+\.[a-z0-9_]+)` \|", places.CONFIGURATION.read_text(), re.MULTILINE))


def clocks() -> tuple[dict[str, int], list[str]]:
    """The seconds of each clock, and the settings that set them."""
    known = known_keys()
    seconds = {name: short if key in known else default for name, (key, short, default) in CLOCKS.items()}
    return seconds, [f"{key}={short}" for key, short, _ in CLOCKS.values() if key in known]


def start(attack: Attack) -> Server:
    return Server(*set_options(*clocks()[1], *attack.settings))


@dataclasses.dataclass
class Outcome:
    """What is reported about a trial, and what is wrong."""

    sent: str = ""
    did: str = ""
    bytes_sent: int = 0
    rss: tuple[int, int, int] = (0, 0, 0)
    held_allowed: int = 0
    seen: dict = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)


class Bystander:
    """Four live feeds in their own process."""

    def __init__(self, server: Server) -> None:
        command = [places.PYTHON, str(places.BYSTANDER), server.grpc]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self._process.stdout.readline()
        assert said == "live\n", f"the bystander is not served before the attack: {said}{server.log()[-1_000:]}"

    def stop(self) -> dict:
        try:
            out, _ = self._process.communicate(timeout=60)
            return json.loads(out.splitlines()[-1])
        except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
            return {"hung": repr(error)}
        finally:
            self.kill()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def complaints(seen: dict) -> list[str]:
    """What a bystander saw that nobody should, however busy the server is."""
    if "hung" in seen:
        return [f"the bystander hung: {seen['hung']}"]
    wrong = (
        []
        if seen["answered"] == seen["offered"]
        else [f"{seen['answered']} of the bystander's {seen['offered']} chunks were answered"]
    )
    wrong += [f"{seen['errors']} of the bystander's chunks were answered with an error"] if seen["errors"] else []
    return wrong + (
        [] if seen["codes"] == ["0"] else [f"the bystander's feeds ended with {seen['codes']}, GOAWAY {seen['goaway']}"]
    )


def run(
    attack: Attack, server: Server, scale: float, seconds: float, recording: pathlib.Path | None = None, least_s: float = 0
) -> Outcome:
    """The bystander is there for the whole attack, and at least this long."""
    outcome = Outcome()
    began = time.monotonic()
    panics = server.panics()
    bystander = Bystander(server)
    before = server.begin_watch()
    command = [places.PYTHON, str(places.ATTACKER), attack.name, server.grpc, server.http, server.admin, str(scale), str(seconds)]
    command += [json.dumps(clocks()[0])] + ([str(recording)] if recording else [])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=attack.patience_s, check=False)
        report = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"wrong": done.stderr}
    except subprocess.TimeoutExpired:
        report = {"wrong": f"the attack did not end within {attack.patience_s} s: something that must end does not"}
    time.sleep(max(0, began + least_s - time.monotonic()))
    outcome.seen = bystander.stop()
    outcome.sent, outcome.did = report.get("sent", ""), report.get("did", "")
    outcome.bytes_sent = report.get("bytes_sent", 0)
    if "wrong" in report:
        outcome.wrong.append(report["wrong"])
    most = server.most
    held = HELD_FOR_A_BYTE * (outcome.bytes_sent + report.get("inflated", 0)) + HELD_FOR_A_UNIT * report.get("units", 0)
    outcome.held_allowed = HELD_ANYWAY + min(held, attack.held_max)
    if server.ended_for_memory or not server.is_running():
        outcome.wrong.append(
            f"the server ended with {server.process.wait()}{', for its memory' if server.ended_for_memory else ''}:\n{server.log()[-1_500:]}"
        )
        outcome.rss = (before, most, 0)
        return outcome
    if most - before > outcome.held_allowed:
        sent = f"{outcome.bytes_sent:,} bytes sent, {report.get('inflated', 0):,} inflated, {report.get('units', 0):,} units"
        outcome.wrong.append(f"{(most - before) // MIB} MiB held, {outcome.held_allowed // MIB} allowed: {sent}")
    outcome.wrong += complaints(outcome.seen)
    left: dict[str, object] = {}

    def at_rest() -> bool:
        left.clear()
        left.update(ledger.imbalance(ledger.scrape(server.admin)))
        return not left

    try:
        wait_until(at_rest, "", attack.rest_s)
    except (AssertionError, OSError) as error:
        outcome.wrong.append(f"{attack.rest_s:.0f} s later there is still {left or error}")
    unwell = server.serves()
    outcome.wrong += [unwell] if unwell else []
    if server.panics() > panics:
        outcome.wrong.append(f"{server.panics() - panics} panics:\n{server.log()[-1_500:]}")
    outcome.rss = (before, most, server.resident())
    return outcome


def control(server: Server, recording: pathlib.Path, least_s: float) -> dict:
    """What the bystander sees while the same bytes are sent to a sink."""
    with subprocess.Popen([places.PYTHON, str(places.SINK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sink:
        address = sink.stdout.readline().strip()
        began = time.monotonic()
        bystander = Bystander(server)
        try:
            subprocess.run(
                [places.PYTHON, str(places.REPLAY), str(recording), address], capture_output=True, timeout=300, check=True
            )
            time.sleep(max(0, began + least_s - time.monotonic()))
        finally:
            seen = bystander.stop()
            sink.kill()
    return seen


def scratch() -> pathlib.Path:
    return pathlib.Path(tempfile.mkdtemp(prefix="tidemill-hostile-"))
