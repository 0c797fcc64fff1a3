"""Neighbours change no answer: small random graphs, some with a coupling between the items of a call, on both engines.

Each model is built from a number. TIDEMILL_COMPANY_MODELS=560 and TIDEMILL_COMPANY_SEED=1000 try as many from that number on; one
that fails can be rebuilt from the number in the test's name: TIDEMILL_COMPANY_MODELS=1 TIDEMILL_COMPANY_SEED=1234."""

import functools
import json
import os
import pathlib
import re

import company
import dependent
import numpy as np
import places
import programs
import pytest
import specimens
import tritonclient.grpc as triton
from alone import Model
from company import LOSSY_TOLERANCE, REFUSED, TOLERANCE, Question, ask_in_company, clients, summaries
from server import PATIENCE_S, Server, await_rest, running
from specimens import CALM, INDEPENDENT, LOUD, NO_BATCH, RANDOM, Specimen
from tidemill.v1 import model_pb2

ONNXRUNTIME, RTEN = "onnxruntime", "rten"
FIRST_SEED = int(os.environ.get("TIDEMILL_COMPANY_SEED", 0))
COUNT = int(os.environ.get("TIDEMILL_COMPANY_MODELS", len(specimens.FAMILIES)))
SEEDS = range(FIRST_SEED, FIRST_SEED + COUNT)
ROUNDS = 3
ITEMS_OF_A_STREAM = 4

READY = model_pb2.MODEL_STATE_READY
# The model that is served in addition to the specimens, and how.
SENT = {
    dependent.WAVE: "",
    "wave-whole": dependent.WHOLE,
    dependent.DYNAMIC: specimens.MEET,
    dependent.BRANCH: specimens.MEET,
    dependent.HITS: "",
    "hits-whole": dependent.WHOLE,
}


@functools.cache
def built(seed: int) -> Specimen:
    return specimens.build(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("company")
    for seed in SEEDS:
        built(seed).write(folder)
    for name, manifest in SENT.items():
        specimens.write_model(folder, name, dependent.FILES[name.removesuffix("-whole")](), manifest)
    return folder


class Served:
    """The models of the folder, on one engine."""

    def __init__(self, server: Server, engine: str, clients) -> None:
        self.server, self.engine, self.clients = server, engine, clients
        self.summaries = summaries(server)

    def lacks(self, made: Specimen) -> bool:
        return made.onnxruntime_only and self.engine == RTEN

    def verdict(self, name: str) -> str:
        return company.verdict(self.summaries[name])


def is_expected(made: Specimen, engine: str) -> bool:
    """Whether the server has something to warn about."""
    return made.truth != INDEPENDENT or (engine == RTEN and made.onnxruntime_only)


@pytest.fixture(scope="module", params=[ONNXRUNTIME, RTEN])
def served(request, folder, tmp_path_factory):
    engine = request.param
    warned_of = [made.name for made in map(built, SEEDS) if is_expected(made, engine)]
    alarms = tuple(rf"\b{re.escape(name)}\b" for name in [*warned_of, *SENT])
    arguments = company.arguments(engine, folder, tmp_path_factory.mktemp("cache"))
    with running(*arguments, expected_alarms=alarms, start_s=PATIENCE_S + COUNT) as server, clients(server) as own:
        yield Served(server, engine, own)


def in_company(served: Served, name: str, model: Model, streams: list, tolerance: float) -> set[int]:
    sizes = ask_in_company(served.clients, Question(name, model, streams, tolerance), ROUNDS)
    if not served.summaries[name].batching.shares_calls:
        assert sizes == {1}, f"{name} shares calls of {sizes}"
    return sizes


@pytest.mark.parametrize("seed", SEEDS)
def test_verdict(served: Served, seed: int):
    made = built(seed)
    summary, verdict = served.summaries[made.name], served.verdict(made.name)
    if served.lacks(made):
        assert verdict == REFUSED and ONNXRUNTIME in summary.reason, made
        return
    assert verdict in company.VERDICTS[made.truth], f"{verdict}: {summary}\n{made}"
    assert summary.batching.shares_calls == (made.truth in company.SHARES_CALLS), f"{summary}\n{made}"
    if verdict == REFUSED:
        assert "batch = false" in summary.reason or "max_batch = 1" in summary.reason, summary
    elif verdict == "INDEPENDENT":
        assert summary.batching.proven_batch >= 4, summary
    else:
        assert summary.batching.detail, summary


@pytest.mark.parametrize("seed", SEEDS)
def test_answers(served: Served, seed: int):
    """Calm clients along with loud ones, each with several items."""
    made = built(seed)
    if served.summaries[made.name].state != READY or made.truth in (RANDOM, NO_BATCH):
        return
    random = np.random.default_rng(seed)

    def stream(characters: list[str]) -> list:
        lengths = (
            random.integers(4, 6, ITEMS_OF_A_STREAM) if not made.model.padded else random.integers(1, 13, ITEMS_OF_A_STREAM)
        )
        drawn = zip(random.choice(characters, ITEMS_OF_A_STREAM), lengths, strict=True)
        return [made.draw(random, str(character), int(length)) for character, length in drawn]

    streams = [stream(CALM if number % 2 else LOUD) for number in range(6)]
    sizes = in_company(served, made.name, made.model, streams, LOSSY_TOLERANCE if made.lossy else TOLERANCE)
    if served.summaries[made.name].batching.shares_calls:
        assert max(sizes) > 1, f"{made.name} never shared a call"


@pytest.mark.parametrize("name", [dependent.DYNAMIC, dependent.BRANCH])
def test_a_statistic_of_the_call_means_one_item_a_call(served: Served, name: str):
    summary = served.summaries[name]
    assert (served.verdict(name), summary.batching.shares_calls) == ("DEPENDENT", False), summary
    calm, loud = dependent.calm_and_loud(name)
    streams = [calm, loud, calm + loud, loud, calm, loud]
    # Known correct answers.
    right = {dependent.DYNAMIC: [2.298, -2.397], dependent.BRANCH: [1, 2]}[name]
    question = Question(name, Model(dependent.FILES[name]()), streams)
    np.testing.assert_allclose(question.expected[0][0]["y"], right, rtol=1e-3)
    assert ask_in_company(served.clients, question, 10) == {1}
    assert warns_of(served.server, name, "y")


def lacks_compress(served: Served, name: str) -> bool:
    """rten has no Compress and says which engine does."""
    if served.engine != RTEN or not name.startswith(dependent.HITS):
        return False
    assert served.verdict(name) == REFUSED and ONNXRUNTIME in served.summaries[name].reason
    return True


@pytest.mark.parametrize("name", [dependent.WAVE, dependent.HITS])
def test_what_has_no_batch_is_refused(served: Served, name: str):
    if lacks_compress(served, name):
        return
    summary = served.summaries[name]
    assert served.verdict(name) == REFUSED and "batch = false" in summary.reason, summary
    assert summary.reason in repository_index(served.server)[name]


@pytest.mark.parametrize(("name", "items"), [("wave-whole", dependent.waves()), ("hits-whole", dependent.images())])
def test_a_manifest_says_that_there_is_no_batch(served: Served, name: str, items: list):
    if lacks_compress(served, name):
        return
    summary = served.summaries[name]
    assert served.verdict(name) == "OFF", summary
    model = dependent.whole(name.removesuffix("-whole"))
    in_company(served, name, model, [items, items[::-1], items[:1], items[1:], items, items], TOLERANCE)


def test_the_log_warns_of_each_that_is_dependent(served: Served):
    for name in names_of(served, "DEPENDENT"):
        if "fail in a call" in served.summaries[name].batching.detail:
            continue
        outputs = served.server.models.GetModel(model_pb2.GetModelRequest(name=name), timeout=PATIENCE_S).model.outputs
        lines = [line for line in served.server.log if "WARN" in line and re.search(rf"\b{re.escape(name)}\b", line)]
        assert lines, f"no warning about {name}"
        assert served.summaries[name].batching.detail in " ".join(lines), (name, lines)
        assert any(output.name in line for output in outputs for line in lines), (name, lines)


def test_the_metric(served: Served):
    metrics = served.server.metrics()
    for name, summary in served.summaries.items():
        if summary.state == READY:
            own = {"model": name, "verdict": served.verdict(name).lower()}
            assert metrics.total("tidemill_model_batching", **own) == 1, own
            assert metrics.total("tidemill_model_batching", model=name) == 1, own


def test_get_model_says_the_same_as_the_list(served: Served):
    for name, summary in served.summaries.items():
        if served.verdict(name) == REFUSED:
            continue
        detail = served.server.models.GetModel(model_pb2.GetModelRequest(name=name, version="1"), timeout=PATIENCE_S).model
        assert detail.summary.batching == summary.batching


def test_the_command_line_says_it(served: Served):
    lines = programs.run(places.SERVER, "models", "--json", "--addr", served.server.address).splitlines()
    told = {model["name"]: model.get("batching") for model in (json.loads(line)["model"] for line in lines)}
    for name, summary in served.summaries.items():
        batching = summary.batching
        if served.verdict(name) == REFUSED:
            assert told[name] is None
            continue
        found = told[name]["verdict"], told[name]["shares_calls"], told[name]["detail"]
        assert found == (served.verdict(name).lower(), batching.shares_calls, batching.detail)


def test_the_repository_index_says_it(served: Served):
    reasons = repository_index(served.server)
    for name in names_of(served, "DEPENDENT"):
        assert served.summaries[name].batching.detail in reasons[name], name


def names_of(served: Served, verdict: str) -> list[str]:
    names = [name for name in served.summaries if served.verdict(name) == verdict]
    assert names or COUNT < len(specimens.FAMILIES)
    return names


def warns_of(server: Server, *words: str) -> bool:
    return any("WARN" in line and all(re.search(rf"\b{re.escape(word)}\b", line) for word in words) for line in server.log)


def repository_index(server: Server) -> dict[str, str]:
    with triton.InferenceServerClient(server.address) as client:
        return {model.name: model.reason for model in client.get_model_repository_index().models}


def test_all_items_are_answered(served: Served):
    await_rest(served.server)


@pytest.mark.parametrize("seed", SEEDS)
def test_another_seed_says_the_same(served: Served, seed: int):
    """Proven again with other trial items."""
    made = built(seed)
    if served.summaries[made.name].state != READY:
        return
    request = model_pb2.ProveModelRequest(name=made.name, seed=seed + 1)
    (summary,) = served.server.models.ProveModel(request, timeout=PATIENCE_S).models
    assert (summary.state, summary.batching.seed) == (READY, seed + 1), summary
    assert company.verdict(summary) in company.VERDICTS[made.truth], f"{summary}\n{made}"
    assert summary.batching.shares_calls == (made.truth in company.SHARES_CALLS), f"{summary}\n{made}"
