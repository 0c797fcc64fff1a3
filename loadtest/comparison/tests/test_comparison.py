"""What the comparison makes of figures; nothing is measured here. `pytest loadtest/comparison`."""

import json
import os
import pathlib
import subprocess
import sys
import time
import tomllib

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from comparison import cells, limits, loads, machine, main, page, perf, processes, rivals, rows, servers, tool
from comparison.processes import Failed

LINE = rows.Line("speed", "ours", "theirs", 0.8)
CEILING = rows.Line("cost", "ours", "", 60, "us", at_most=True)


def bench(scratch: pathlib.Path) -> tool.Bench:
    return tool.Bench(tool.QUICK, scratch, scratch)


def test_a_row_is_reached_up_to_its_bound_and_never_without_a_ratio():
    assert [LINE.measured(ratio, 5, {}, []).reached for ratio in (0.79, 0.8, 2.0, float("nan"))] == [False, True, True, False]
    assert [CEILING.measured(ratio, 5, {}, []).reached for ratio in (59, 60, 61)] == [True, True, False]
    assert not CEILING.missing("no library").reached


def test_the_summary_keeps_its_keys_whatever_the_figures_are_called():
    row = LINE.measured(0.9, 5, {"items_per_s": 10.0, "ratio": 7}, ["x"]).json()
    assert {"what", "against", "ratio", "reach", "runs", "reached", "unit"} <= row.keys()
    assert (row["ratio"], row["items_per_s"], row["reached"]) == (0.9, 10.0, True)
    missing = json.loads(json.dumps(LINE.missing("it did not start").json()))
    assert (missing["ratio"], missing["reason"]) == (None, "it did not start")


def test_the_median_ignores_order_and_outliers():
    assert rows.median([9.0, 1.0, 1000.0]) == 9.0
    assert rows.median([4.0, 1.0, 2.0, 100.0]) == 3.0
    assert str(rows.median([])) == "nan"


def test_all_lines_have_names_of_their_own_and_are_measured_once():
    names = [line.name for line in limits.LINES] + [duel.line.name for duel in rivals.duels((1, 16, 64, 256))]
    assert len(names) == len(set(names))
    assert sorted(line.name for name in limits.MEASURES for line in limits.lines_of(name)) == sorted(line.name for line in limits.LINES)
    assert sum(duel.peer == "triton" for duel in rivals.duels((1, 16, 64, 256))) == 8


def test_the_first_throughput_of_the_load_generator_counts():
    text = "  Client:\n    Throughput: 3812.5 infer/sec\n    p50 latency: 16123 usec\nConcurrency: 64, throughput: 3812.5 infer/sec"
    assert perf.parsed(text) == perf.Perf(3812.5, 16123.0)
    with pytest.raises(Failed, match="no such model"):
        perf.parsed("error: no such model\n")


@pytest.mark.parametrize(("answers", "wanted"), [("u1", 310.0), ("uu", perf.UNSTABLE), ("n1", "no such model")])
def test_a_run_that_is_not_stable_is_tried_once_more_and_no_other(tmp_path, monkeypatch, answers, wanted):
    said = {"u": Failed(f"perf_analyzer ended with 2: {perf.UNSTABLE}."), "n": Failed("no such model")}
    left = list(answers)

    def run(*_: object, **__: object) -> str:
        if failed := said.get(left.pop(0)):
            raise failed
        return "Throughput: 310 infer/sec\n p50 latency: 3200 usec"

    monkeypatch.setattr(perf, "libraries", str)
    monkeypatch.setattr(processes, "run", run)
    options = {"streaming": False, "commands": []}
    if isinstance(wanted, float):
        assert perf.run(bench(tmp_path), "a:1", "silero-vad", 1, **options).infer_per_s == wanted
    else:
        with pytest.raises(Failed, match=wanted):
            perf.run(bench(tmp_path), "a:1", "silero-vad", 1, **options)


def test_a_ready_line_may_lack_a_port():
    server = servers.ready("mosec", "pid=12 http=127.0.0.1:9000 version=0.9.8")
    assert (server.pid, server.grpc, server.http, server.version) == (12, None, "127.0.0.1:9000", "0.9.8")
    with pytest.raises(Failed, match="number of its process"):
        servers.ready("mosec", "http=127.0.0.1:9000")


def arm(server: str, protocol: str) -> loads.Arm:
    return loads.Arm(servers.Server(server, "1", 1, "127.0.0.1:1", "127.0.0.1:2"), protocol)


@pytest.mark.parametrize("model", loads.MODELS.values(), ids=str)
@pytest.mark.parametrize("protocol", loads.PROTOCOLS)
@pytest.mark.parametrize("rate_hz", [None, 6400.0])
def test_scenarios_ask_for_the_load_that_is_wanted(model, protocol, rate_hz):
    text = loads.scenario(arm("tidemill", protocol), model, in_flight=model.in_flight, rate_hz=rate_hz, seconds=2.0)
    scenario = tomllib.loads(text)
    [load] = scenario["loads"]
    if rate_hz is None:
        assert load["streams"] * load["in_flight"] == model.in_flight and load["arrivals"] == {"process": "closed"}
    else:
        assert load["streams"] * load["arrivals"]["rate_hz"] == pytest.approx(rate_hz)
    assert [tensor["name"] for tensor in load["inputs"]] == [tensor.name for tensor in model.inputs]


def test_only_servers_that_keep_no_state_are_sent_it():
    silero = loads.MODELS["silero-vad"]
    load = {"in_flight": 16, "rate_hz": None, "seconds": 1.0}
    ours, over_http, triton, mosec = (
        tomllib.loads(loads.scenario(arm(server, protocol), silero, **load))["loads"][0]
        for server, protocol in (("tidemill", "infer"), ("tidemill", "http_infer"), ("triton", "infer"), ("mosec", "http_post"))
    )
    assert ours["sequence"] and triton["sequence"] and "sequence" not in over_http and "sequence" not in mosec
    assert [len(load["inputs"]) for load in (ours, over_http, triton, mosec)] == [1, 1, 1, 2]
    assert mosec["http"]["path"] == "/infer"


def result(ok: int = 1_000, errors: dict[str, int] | None = None) -> str:
    latency = {"p50": 2_000, "p99": 9_000}
    total: dict = {"offered": 1_010, "ok": ok, "errors": errors or {}, "unanswered": 3, "throughput_hz": 500.0, "latency_us": latency}
    used = {"server_cpu_us_per_item": 80.5, "server_rss_bytes": 3 << 20}
    return json.dumps({"steps": [{"duration_s": 2.0, "total": total} | used]})


def test_what_a_load_found_is_read_and_nothing_unanswered_is_lost():
    found = loads.found(result(errors={"HTTP 503": 7}))
    assert (found.items_per_s, found.p50_ms, found.p99_ms, found.errors) == (500.0, 2.0, 9.0, 10)
    assert (found.cpu_us_per_item, found.resident_mib) == (80.5, 3)


def test_a_load_without_a_single_answer_has_a_reason():
    with pytest.raises(Failed, match="1007 x UNAVAILABLE"):
        loads.found(result(ok=0, errors={"UNAVAILABLE": 1_007}))


def test_what_cannot_be_measured_is_a_row_with_the_reason(tmp_path):
    for name in limits.MEASURES:
        for row in limits.measure(bench(tmp_path), name, limits.lines_of(name)):
            assert row.ratio is None and row.reason
    wanted = rivals.duels((1,))
    theirs = {name: Failed(f"{name} has no wheel") for name in servers.PEERS}
    assert [row.reason for row in rivals.measure(bench(tmp_path), None, theirs, wanted)] == [f"{d.peer} has no wheel" for d in wanted]
    assert {cell.reason for cell in cells.measure(bench(tmp_path), "minilm", None, {"triton": theirs["triton"]}, [])} == {
        "this server did not start",
        "triton has no wheel",
    }


def test_the_page_has_every_row_every_command_and_every_reason():
    found = loads.Found(5_000.0, 1.0, 2.0, 0, 80.0, 100.0)
    measured = [LINE.measured(0.9, 5, {"items_per_s": 123_456.0}, ["tidemill-load x"]), CEILING.missing("no library | here")]
    table = [cells.Cell("minilm", "mosec", "http_post", "0.9.8", found, 50.0, found), cells.Cell("minilm", "triton", "infer", reason="no wheel")]
    text = page.page(measured, table, {"cores": "2"}, {"Mosec": "0.9.8"}, ["tidemill-load run y"], "loadtest/compare --out z")
    wanted = ["| speed |", "| cost |", "123,456", "tidemill-load x", "no library", "no wheel", "tidemill-load run y", "--out z", "0.9.8"]
    assert [part for part in wanted if part not in text] == []
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")}) == 1, block
    assert "no library" in page.summary(measured, table)


def test_facts_name_the_machine(tmp_path):
    facts = machine.facts(bench(tmp_path), built=False)
    assert all(facts.values()), facts
    assert facts["kernel"].startswith("Linux")


def test_names_that_can_be_asked_for_cover_all_lines():
    assert {"silero-rten", "idle", "perf-triton", "peer-rayserve", "table", "table-magika"} <= set(main._names())


def test_a_child_that_started_others_leaves_nothing_behind():
    script = "import subprocess, sys; c = subprocess.Popen(['sleep', '600'], start_new_session=True); print(c.pid, flush=True); c.wait()"
    child = processes.start([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert set(processes.tree(child.pid)) == {child.pid, grandchild}
    processes.stop(child)
    assert child.returncode is not None
    deadline = time.monotonic() + 10
    while processes.tree(grandchild) and time.monotonic() < deadline:
        os.sched_yield()
    assert not processes.tree(grandchild)


def test_a_program_that_fails_says_why():
    with pytest.raises(Failed, match="ended with 3: no port"):
        processes.run(["sh", "-c", "echo no port >&2; exit 3"], patience_s=10)
    with pytest.raises(Failed, match="cannot start /nowhere"):
        processes.run(["/nowhere"], patience_s=10)
