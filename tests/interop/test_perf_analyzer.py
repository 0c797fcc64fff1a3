"""Triton's load generator in each of its ways of sending: it finds everything it looks for, and loses nothing."""

import re
import subprocess

import messages
import metrics
import perf_analyzer
import places
import pytest
import synthetic
from open_inference import EXAMPLE
from server import await_rest

SHAPE = ("--shape", "inputs:4")
STREAM = ("--streaming", "--async")
SEQUENCES = ("--num-of-sequences", "8", "--sequence-length", "10")


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (EXAMPLE, [*SHAPE, "--concurrency-range", "8"]),
        (EXAMPLE, [*SHAPE, "--concurrency-range", "4", "-b", "4"]),
        (EXAMPLE, [*SHAPE, "--concurrency-range", "16", *STREAM]),
        (EXAMPLE, [*SHAPE, "--request-rate-range", "100", "--async"]),
        (EXAMPLE, [*SHAPE, "--concurrency-range", "4", "--shared-memory", "system", "--output-shared-memory-size", "64"]),
        (messages.MODEL, [*SEQUENCES, "--concurrency-range", "8", *STREAM]),
        (messages.MODEL, [*SEQUENCES, "--concurrency-range", "8", "--async"]),
        (messages.MODEL, [*SEQUENCES, "--request-rate-range", "100", *STREAM]),
    ],
    ids=["calls", "several items", "stream", "rate", "shared memory", "sequences on streams", "sequences", "sequences at a rate"],
)
def test_grpc(server, model, options):
    before = await_rest(server)
    measured = perf_analyzer.run(server.address, model, *options)
    assert_nothing_went_wrong(server, before, model, measured)


def test_http(server):
    before = await_rest(server)
    measured = perf_analyzer.run(server.http_address, EXAMPLE, *SHAPE, "--concurrency-range", "4", protocol="http")
    assert_nothing_went_wrong(server, before, EXAMPLE, measured)


def test_it_prints_what_the_cache_did(typed_server):
    measured = perf_analyzer.run(typed_server.address, synthetic.KEPT, "--concurrency-range", "4")
    hits = re.search(r"Cache hit count: (\d+)", measured.text)
    assert hits and int(hits[1]) > 0, measured.text


def lines_of_the_page() -> list[tuple[str, list[str]]]:
    """Its commands, and what it shows of the output of each."""
    page = (places.ROOT / "docs/open-inference.md").read_text()
    blocks = re.findall(r"^\$ (.*perf_analyzer.*)\n((?:(?![$`]).*\n)*)", page, re.MULTILINE)
    return [(command, shown.splitlines()) for command, shown in blocks]


def test_the_lines_of_the_page(server):
    """As they are printed, typed one after the other, but for the ports."""
    (setting, *commands) = lines_of_the_page()
    assert setting[0].startswith("export ") and len(commands) == 2
    before = await_rest(server)
    for command, shown in commands:
        command = command.replace("127.0.0.1:50051", server.address).replace("127.0.0.1:8080", server.http_address)
        typed = ["bash", "-euo", "pipefail", "-c", f"{setting[0]}\n{command}"]
        done = subprocess.run(
            typed, cwd=places.ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=perf_analyzer.PATIENCE_S
        )
        assert (done.returncode, done.stderr.strip()) == (0, ""), done
        patterns = [re.escape(line).replace("…", r"\d[\d.]*") for line in shown]
        assert len(patterns) == 2 and re.fullmatch("\n".join(patterns), done.stdout.strip()), done.stdout
    after = await_rest(server)
    for model in (messages.MODEL, EXAMPLE):
        assert after.grown(before, metrics.ITEMS, model=model, outcome="ok") > 0, model


def assert_nothing_went_wrong(server, before: metrics.Metrics, model: str, measured: perf_analyzer.Measured) -> None:
    assert measured.requests >= 50 and measured.per_second > 0
    assert 0 < measured.calls <= measured.inferences and measured.successes > 0
    assert "queue" in measured.text and "compute infer" in measured.text
    after = await_rest(server)
    ended = {outcome: after.grown(before, metrics.ITEMS, model=model, outcome=outcome) for outcome in metrics.OUTCOMES}
    # It goes on for a while after what it counts, and may abandon what is under way when it ends.
    assert ended.pop("ok") >= measured.requests
    assert ended.pop("cancelled") <= 64
    assert set(ended.values()) == {0}, ended
