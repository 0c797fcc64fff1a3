#!/usr/bin/env python3
"""What the server finds out about models, with several seeds: a table for people, not a test.

    .cache/venv/bin/python tests/company_sweep.py --seeds 5
    .cache/venv/bin/python tests/company_sweep.py --seeds 5 --graphs 560 --first 1000

The first tries every model of the packages, and prints for each model and engine the verdicts, the batch that was proven, the
seconds from the start of a server that has only this model until it serves, and what the server says. The second tries random
graphs, and prints those whose verdict is wrong. After `tests/run setup`."""

import argparse
import collections
import contextlib
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

INTEROP = pathlib.Path(__file__).resolve().parent / "interop"
sys.path[:0] = [str(INTEROP), str(INTEROP.parents[1] / ".cache/stubs")]

import company  # noqa: E402
import grpc  # noqa: E402
import places  # noqa: E402
import specimens  # noqa: E402
from packages import PACKAGES  # noqa: E402
from server import Server, running  # noqa: E402
from tidemill.v1 import model_pb2  # noqa: E402

START_S = 600
ENGINES = ("onnxruntime", "rten")


@contextlib.contextmanager
def serving(engine: str, *models) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            model.write(pathlib.Path(folder, "models"))
        with running(
            *company.arguments(engine, pathlib.Path(folder, "models"), pathlib.Path(folder, "cache")),
            expected_alarms=(".",),
            start_s=START_S,
        ) as server:
            yield server


def verdicts(server: Server, name: str, seeds: int) -> tuple[collections.Counter, list[model_pb2.ModelSummary]]:
    """With the usual seed first, then with others. A model that is refused is not tried again."""
    summaries = [company.summaries(server)[name]]
    for seed in range(1, seeds if summaries[0].state == model_pb2.MODEL_STATE_READY else 0):
        try:
            answer = server.models.ProveModel(model_pb2.ProveModelRequest(name=name, seed=seed), timeout=START_S)
            summaries.extend(answer.models)
        except grpc.RpcError as error:
            summaries.append(model_pb2.ModelSummary(name=name, state=model_pb2.MODEL_STATE_FAILED, reason=error.details()))
    return collections.Counter(map(company.verdict, summaries)), summaries


def told(verdicts: collections.Counter) -> str:
    return ", ".join(f"{verdict.lower()} {count}x" for verdict, count in verdicts.most_common())


def detail(summary: model_pb2.ModelSummary) -> str:
    return " ".join((summary.reason if summary.state == model_pb2.MODEL_STATE_FAILED else summary.batching.detail).split())


def of_packages(engines: list[str], seeds: int, only: list[str] | None) -> None:
    print("| model | engine | verdict | proven batch | seconds | what it says |\n|---|---|---|---|---|---|", flush=True)
    for package in PACKAGES:
        for engine in engines if not only or package.name in only else ():
            begun = time.monotonic()
            with serving(engine, package) as server:
                took = time.monotonic() - begun
                found, summaries = verdicts(server, package.name, seeds)
            batch = min(summary.batching.proven_batch for summary in summaries)
            row = package.name, engine, told(found), str(batch), f"{took:.1f}", detail(summaries[0])[:200]
            print(f"| {' | '.join(row)} |", flush=True)


def of_graphs(engines: list[str], seeds: int, graphs: range) -> None:
    made = [specimens.build(seed) for seed in graphs]
    for engine in engines:
        counted = collections.Counter()
        begun = time.monotonic()
        with serving(engine, *made) as server:
            print(f"{engine}: {len(made)} graphs served after {time.monotonic() - begun:.1f} s", flush=True)
            for one in made:
                if one.onnxruntime_only and engine == "rten":
                    continue
                found, summaries = verdicts(server, one.name, seeds)
                for summary in summaries:
                    verdict = company.verdict(summary)
                    right = verdict in company.VERDICTS[one.truth]
                    counted[one.truth, "right" if right else verdict.lower()] += 1
                    if not right:
                        seed = summary.batching.seed
                        print(f"{one.name} is {one.truth} by {one.shift:.2g}, seed {seed}: {verdict}, {detail(summary)}")
        for (truth, verdict), count in sorted(counted.items()):
            print(f"{engine}: {truth}: {verdict} {count}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many to try each model with; default: only the usual one")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="may be repeated; default: both")
    parser.add_argument("--only", action="append", help="a package's name; may be repeated")
    parser.add_argument("--graphs", type=int, default=0, help="how many random graphs to try instead of the packages")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first graph")
    parser.add_argument("--server", type=pathlib.Path, default=places.SERVER, help="the binary; default: %(default)s")
    chosen = parser.parse_args()
    places.SERVER = chosen.server
    engines = chosen.engine or list(ENGINES)
    if chosen.graphs:
        of_graphs(engines, chosen.seeds, range(chosen.first, chosen.first + chosen.graphs))
    else:
        of_packages(engines, chosen.seeds, chosen.only)


if __name__ == "__main__":
    main()
