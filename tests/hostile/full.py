"""Runs attacks in full against a release build, times the bystander during each and during its control, and prints the table."""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

import attack
import places
import trial
from attack import MIB, Attack
from server import Server

MARKS = "<!-- attacks -->", "<!-- /attacks -->"
# The least time that a bystander listens: 500 chunks, so that 99 of 100 means something.
BYSTANDER_S = 4.0
FAULT_MARKS = "<!-- faults -->", "<!-- /faults -->"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="attacks to run")
    parser.add_argument("--all", action="store_true", help="run every attack, and the faults")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--runs", type=int, default=3, help="of each attack and control; medians count")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each flood")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long a flood lasts at most")
    parser.add_argument("--untimed", action="store_true", help="leave out the control, and the rule about the bystander's time")
    parser.add_argument("--page", action="store_true", help="write the tables to docs/hardening.md")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that broke off: rows that held are reused, if the binary is the same"
    )
    parser.add_argument("--tls", action="store_true", help="over TLS: the server's ports, the bystander and all that goes over sockets")
    given = parser.parse_args()
    if given.tls:
        if given.page:
            parser.error("the page is about connections that are not encrypted: --tls or --page")
        # Also for the bystander, which is a process of its own.
        os.environ["TIDEMILL_HOSTILE_TLS"] = "1"
    return given


def median_of(seen: list[dict]) -> dict:
    """Over several runs of a bystander, without those that hung, which are reported elsewhere."""
    whole = [one for one in seen if one.get("p99_ms") is not None]
    return (
        {name: round(statistics.median(one[name] for one in whole), 1) for name in ("p50_ms", "p99_ms", "max_ms")}
        if whole
        else {}
    )


def told(times: dict) -> str:
    return " / ".join(f"{times[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms")) if times else "–"


def late(one: Attack, beside: dict, control: dict) -> list[str]:
    """What the bystander's times say against the server."""
    if not (one.timed and beside and control):
        return []
    wrong = []
    if beside["p99_ms"] > trial.P99_MS_MAX:
        wrong.append(f"the bystander's p99 is {beside['p99_ms']} ms, at most {trial.P99_MS_MAX:.0f} are allowed")
    if beside["p99_ms"] > trial.P99_OVER_CONTROL_MAX * control["p99_ms"]:
        wrong.append(f"the bystander's p99 is {beside['p99_ms']} ms, with the control {control['p99_ms']} ms")
    return wrong


def row(one: Attack, server: Server, options: argparse.Namespace) -> tuple[str, list[str]]:
    """A row of the table, and what is wrong."""
    folder = trial.scratch()
    recording = folder / "sent"
    outcomes, controls = [], []
    try:
        for _ in range(options.runs):
            outcomes.append(
                trial.run(one, server, options.scale, options.seconds, None if options.untimed else recording, BYSTANDER_S)
            )
            if not server.is_running():
                break
            if not options.untimed:
                controls.append(trial.control(server, recording, BYSTANDER_S))
    finally:
        shutil.rmtree(folder)
    last = outcomes[-1]
    wrong = [line for outcome in outcomes for line in outcome.wrong]
    beside, control = median_of([outcome.seen for outcome in outcomes]), median_of(controls)
    wrong += late(one, beside, control)
    rss = max((outcome.rss for outcome in outcomes), key=lambda rss: rss[1] - rss[0])
    name = one.name.replace("_", " ")
    verdict = "**fails**" if wrong else "holds"
    cells = [
        name,
        last.sent or "–",
        last.did or "–",
        " > ".join(str(part // MIB) for part in rss),
        told(beside),
        told(control),
        verdict,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |", wrong


class Rows:
    """Rows of this binary and these options that held, in a file, so that the hour can be spread over several runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        digest = hashlib.sha256(pathlib.Path(places.SERVER).read_bytes()).hexdigest()[:16]
        how = "untimed" if options.untimed else f"{options.runs}x"
        self._file = places.ROOT / f".cache/attacks/{digest}-{how}-{options.scale:g}-{options.seconds:g}.json"
        known = options.resume and self._file.exists()
        self._rows: dict[str, str] = json.loads(self._file.read_text()) if known else {}

    def get(self, name: str) -> str | None:
        return self._rows.get(name)

    def keep(self, name: str, line: str) -> None:
        self._rows[name] = line
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._rows))


def table(attacks: list[Attack], options: argparse.Namespace) -> tuple[str, dict[str, list[str]]]:
    lines, failed, rows = [], {}, Rows(options)
    server, shared, section = None, (), None
    for one in attacks:
        known = rows.get(one.name)
        if known is None and (server is None or not server.is_running() or shared != one.settings):
            if server:
                server.kill()
            server, shared = trial.start(one), one.settings
        if one.section != section:
            section = one.section
            lines += ["", f"### {section}", ""]
            lines += [
                "| attack | sent | what the server did | RSS before > most > after, MB | bystander p50 / p99 / max, ms | control | verdict |"
            ]
            lines += ["|---|---|---|---|---|---|---|"]
        if known is not None:
            lines.append(known)
            continue
        line, wrong = row(one, server, options)
        print(line, flush=True)
        if not wrong:
            rows.keep(one.name, line)
        for text in wrong:
            print(f"    {text}", flush=True)
        if wrong:
            # The next attack gets a server that this one has not touched.
            server.kill()
        lines.append(line)
        if wrong:
            failed[one.name] = wrong
    if server:
        server.kill()
    return "\n".join(lines).strip() + "\n", failed


def faults() -> tuple[str, list[str]]:
    """The faults, as pytest runs them, in a table."""
    folder = trial.scratch()
    verdicts = folder / "verdicts"
    command = [places.PYTHON, "-m", "pytest", "-c", str(places.HERE / "pytest.ini"), str(places.HERE / "test_faults.py"), "--all"]
    subprocess.run([*command, f"--verdicts={verdicts}"], cwd=places.ROOT, check=False)
    found = [json.loads(line) for line in verdicts.read_text().splitlines()]
    shutil.rmtree(folder)
    words = {"passed": "holds", "failed": "**fails**", "skipped": "not tried"}
    lines = ["| fault | what must hold | verdict |", "|---|---|---|"]
    for one in found:
        name = one["name"].removeprefix("test_").replace("_", " ")
        lines.append(f"| {name} | {' '.join(one['doc'].split()) or 'it goes on'} | {words[one['verdict']]} |")
    return "\n".join(lines) + "\n", [one["name"] for one in found if one["verdict"] == "failed"]


def put(marks: tuple[str, str], text: str) -> None:
    page = places.PAGE.read_text()
    before, _, rest = page.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    assert rest, f"{places.PAGE} has no {marks[0]}"
    places.PAGE.write_text(f"{before}{marks[0]}\n{text}{marks[1]}{after}")


def main() -> int:
    options = arguments()
    every = attack.load()
    if options.list:
        print("\n".join(every))
        return 0
    unknown = set(options.names) - set(every)
    if unknown or not (options.names or options.all):
        print(
            f"no such attack: {', '.join(sorted(unknown))}; --list has them" if unknown else "name the attacks, or --all",
            file=sys.stderr,
        )
        return 2
    chosen = [one for one in every.values() if options.all or one.name in options.names]
    text, failed = table(chosen, options)
    print("\n" + text)
    if options.page:
        put(MARKS, text)
    broken: list[str] = []
    if options.all:
        text, broken = faults()
        print("\n" + text)
        if options.page:
            put(FAULT_MARKS, text)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} attacks hold" + (f"; {len(broken)} faults do not" if broken else ""))
    for name, wrong in failed.items():
        print(f"  {name}: {wrong[0].splitlines()[0]}")
    for name in broken:
        print(f"  {name}")
    return 3 if failed or broken else 0


if __name__ == "__main__":
    pathlib.Path(places.SERVER).exists() or sys.exit(f"{places.SERVER} is not there: cargo build --release")
    sys.exit(main())
