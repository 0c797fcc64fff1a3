"""Attacks, one after another in random order, along with the usual mix of clients, for a long time: what remains of them?

Memory is looked at between two attacks, when what the last one took should be given back: by thirds of the run it must be flat. At the end
everybody has gone, every gauge must be zero, and the account must balance."""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time

import attack
import ledger
import places
import trial
from attack import MIB
from server import Server, set_options, wait_until

LOAD = places.SERVER.with_name("tidemill-load")
MIX = places.ROOT / "loadtest/scenarios/mixed-modes.toml"
# Growth allowed from the middle third to the last, as for `tidemill-load soak`: a share, and never less than some MiB.
GROWTH_SHARE = 0.02
GROWTH_MIB = 8.0
# A pause between two attacks, in which clients leave and the allocator returns memory.
PAUSE_S = 3.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=0.1, help="how much of each flood")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    randomness = random.Random(options.seed)
    # One server for all of them, so attacks that need special settings are left out.
    chosen = [one for one in attack.load().values() if not one.settings]
    seconds = 60 * options.minutes
    wrong: list[str] = []
    samples: list[float] = []
    runs = 0
    server = Server(*set_options(*trial.clocks()[1], "models.cache_dir="))
    try:
        load = [
            str(LOAD),
            "run",
            str(MIX),
            "--addr",
            server.grpc,
            "--http-addr",
            server.http,
            "--json",
            "-",
            "--set",
            f"duration_s={seconds:.0f}",
        ]
        with subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as mix:
            until = time.monotonic() + seconds
            while time.monotonic() < until and server.is_running():
                time.sleep(PAUSE_S)
                samples.append(server.resident() / MIB)
                one = randomness.choice(chosen)
                command = [
                    places.PYTHON,
                    str(places.ATTACKER),
                    one.name,
                    server.grpc,
                    server.http,
                    server.admin,
                    str(options.scale),
                    "3",
                ]
                try:
                    done = subprocess.run(
                        [*command, json.dumps(trial.clocks()[0])],
                        capture_output=True,
                        text=True,
                        timeout=one.patience_s,
                        check=False,
                    )
                    said = json.loads(done.stdout.splitlines()[-1]).get("wrong", "") if done.stdout else done.stderr
                except subprocess.TimeoutExpired:
                    said = f"did not end within {one.patience_s} s"
                runs += 1
                wrong += [f"{one.name}: {said.splitlines()[0]}"] if said else []
                print(f"{len(samples):5} {samples[-1]:7.1f} MiB  {one.name}{'  WRONG' if said else ''}", flush=True)
            out, _ = mix.communicate(timeout=120)
        total = json.loads(out)["steps"][0]["total"] if out else {"offered": 0, "ok": 0, "errors": {}, "unanswered": 1}
        if total["unanswered"]:
            wrong.append(f"{total['unanswered']} of the usual clients' {total['offered']} items were not answered")
        if not server.is_running():
            wrong.append(f"the server ended with {server.process.returncode}:\n{server.log()[-1_500:]}")
        else:
            left: dict[str, object] = {}

            def at_rest() -> bool:
                left.clear()
                left.update(ledger.imbalance(ledger.scrape(server.admin)))
                return not left

            try:
                wait_until(at_rest, "", 60)
            except AssertionError:
                wrong.append(f"at the end there is still {left}")
            unwell = server.serves()
            wrong += [unwell] if unwell else []
    finally:
        server.kill()
    third = max(1, len(samples) // 3)
    thirds = [statistics.median(samples[at : at + third]) for at in (0, third, 2 * third) if samples[at : at + third]]
    if len(thirds) == 3 and thirds[2] - thirds[1] > max(GROWTH_MIB, GROWTH_SHARE * thirds[1]):
        wrong.append(f"memory grew from {thirds[1]:.1f} MiB in the middle third to {thirds[2]:.1f} in the last")
    print(
        f"{runs} attacks in {options.minutes:g} minutes; usual clients: {total['ok']:,} of {total['offered']:,} ok, errors: {total['errors']}"
    )
    print("RSS between attacks by thirds, MiB: " + ", ".join(f"{one:.1f}" for one in thirds))
    for line in wrong:
        print(f"failed: {line}")
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
