"""Models that people install: next to any neighbours, calm or loud, each gives the answer that Python's onnxruntime gives for the item
alone, or is refused with the reason."""

import company
import numpy as np
import packages
import pytest
from company import REFUSED, Question, ask_in_company, clients, summaries
from packages import PACKAGES, Package
from server import running

ONNXRUNTIME, RTEN = "onnxruntime", "rten"
STREAMS = 5
START_S = 240


@pytest.fixture(scope="module", params=[ONNXRUNTIME, RTEN])
def served(request, tmp_path_factory):
    engine = request.param
    folder = tmp_path_factory.mktemp("packages")
    warned_of = []
    for package in PACKAGES:
        package.write(folder)
        if package.verdict == packages.DEPENDENT or (engine == RTEN and not package.rten):
            warned_of.append(rf"\b{package.name}\b")
    arguments = company.arguments(engine, folder, tmp_path_factory.mktemp("cache"))
    with running(*arguments, expected_alarms=tuple(warned_of), start_s=START_S) as server, clients(server, STREAMS) as own:
        yield engine, summaries(server), own


def is_lacking(package: Package, engine: str) -> bool:
    return engine == RTEN and not package.rten


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_verdict(served, package: Package):
    engine, listed, _ = served
    summary, verdict = listed[package.name], company.verdict(listed[package.name])
    if is_lacking(package, engine):
        assert verdict == REFUSED and ONNXRUNTIME in summary.reason, summary
        return
    assert verdict == package.verdict, summary
    assert summary.batching.shares_calls == (verdict == packages.INDEPENDENT), summary
    assert summary.batching.detail, summary


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_answers(served, package: Package):
    engine, listed, clients = served
    if is_lacking(package, engine):
        return
    random = np.random.default_rng(7)
    streams = [[package.draw(random, number % 2 == 1) for _ in range(package.items)] for number in range(STREAMS)]
    if not package.repeats:
        # There is nothing to compare with; only that no item shares a call.
        answers = [answer for stream in clients.ask(package.name, *streams) for answer in stream]
        assert {answer.batch_size for answer in answers} == {1}
        return
    tolerance = package.tolerances[engine == RTEN]
    sizes = ask_in_company(clients, Question(package.name, package.model, streams, tolerance), package.rounds)
    if not listed[package.name].batching.shares_calls:
        assert sizes == {1}, f"{package.name} shares calls of {sizes}"
