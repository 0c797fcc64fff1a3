"""How the comparison handles figures; nothing is measured here. `pytest loadtest/comparison`."""

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tomllib

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from comparison import cells, limits, loads, machine, main, page, perf, plan, processes, results, rivals, rows, search, servers, tool, turns, versions
from comparison.peer_record import DEFAULTS, Batching, Record, Search, Tried
from comparison.processes import Failed
from comparison.results import Stamp
from comparison.rivals import Client, Limit
from comparison.servers import CANNED, OURS, Kept, Server

DUELS = rivals.duels(tool.LEVELS)
FOUND = loads.Found(5_000.0, 1.0, 2.0, 0, 80.0, 100.0)
STAMP = Stamp("a b", "full", "2026-11-21 20:00 UTC")
LINE = rows.Line("speed", "ours", "theirs", 0.8)
CEILING = rows.Line("cost", "ours", "", 60, "us", at_most=True)


def bench(scratch: pathlib.Path) -> tool.Bench:
    return tool.Bench(tool.QUICK, scratch, scratch)


def server(name: str, **options: object) -> Server:
    return Server(name, "1", 1, "127.0.0.1:1", "127.0.0.1:2", **options)  # type: ignore[arg-type]


def kept(*starts: Server | Failed) -> Kept:
    """Starts one server after another."""
    left = list(starts)

    def start() -> contextlib.AbstractContextManager[Server]:
        if isinstance(started := left.pop(0), Failed):
            raise started
        return contextlib.nullcontext(started)

    return Kept(start)


def of(stamp: Stamp = STAMP, lines: tuple[rows.Line, ...] = (LINE, CEILING)) -> results.Results:
    return results.Results(stamp, lines, DUELS)


def duel(name: str) -> rivals.Duel:
    return next(duel for duel in DUELS if duel.line.name == name)


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


def test_all_lines_have_their_own_names_and_are_measured_once():
    names = [line.name for line in limits.LINES] + [duel.line.name for duel in DUELS]
    assert len(names) == len(set(names))
    assert sorted(line.name for name in limits.MEASURES for line in limits.lines_of(name)) == sorted(line.name for line in limits.LINES)
    assert sum(duel.peer == "triton" for duel in DUELS) == 16


def test_the_first_throughput_of_the_load_generator_counts():
    text = "  Client:\n    Throughput: 3812.5 infer/sec\n    p50 latency: 16123 usec\nConcurrency: 64, throughput: 3812.5 infer/sec"
    assert perf.parsed(text) == perf.Perf(3812.5, 16123.0)
    with pytest.raises(Failed, match="no such model"):
        perf.parsed("error: no such model\n")


@pytest.mark.parametrize(("answers", "wanted"), [("u1", 310.0), ("uu", perf.UNSTABLE), ("n1", "no such model")])
def test_only_a_run_that_is_not_stable_is_tried_once_more(monkeypatch, answers, wanted):
    said = {"u": Failed(f"perf_analyzer ended with 2: {perf.UNSTABLE}."), "n": Failed("no such model")}
    left = list(answers)

    def run(*_: object, **__: object) -> str:
        if failed := said.get(left.pop(0)):
            raise failed
        return "Throughput: 310 infer/sec\n p50 latency: 3200 usec"

    monkeypatch.setattr(perf, "libraries", str)
    monkeypatch.setattr(Server, "load", run)
    arguments = (tool.QUICK, server("triton"), "silero-vad", 1)
    if isinstance(wanted, float):
        assert perf.run(*arguments, streaming=False, commands=[]).infer_per_s == wanted
    else:
        with pytest.raises(Failed, match=wanted):
            perf.run(*arguments, streaming=False, commands=[])


def test_a_ready_line_may_lack_a_port():
    server = servers.ready("mosec", "pid=12 http=127.0.0.1:9000 version=0.9.8")
    assert (server.pid, server.grpc, server.http, server.version) == (12, None, "127.0.0.1:9000", "0.9.8")
    with pytest.raises(Failed, match="number of its process"):
        servers.ready("mosec", "http=127.0.0.1:9000")


def arm(name: str, protocol: str) -> loads.Arm:
    return loads.Arm(server(name), protocol)


@pytest.mark.parametrize("model", loads.MODELS.values(), ids=str)
@pytest.mark.parametrize("protocol", loads.PROTOCOLS)
@pytest.mark.parametrize("rate_hz", [None, 6400.0])
def test_scenarios_ask_for_the_target_load(model, protocol, rate_hz):
    text = loads.scenario(arm("tidemill", protocol), model, in_flight=model.in_flight, rate_hz=rate_hz, seconds=2.0)
    scenario = tomllib.loads(text)
    [load] = scenario["loads"]
    if rate_hz is None:
        assert load["streams"] * load["in_flight"] == model.in_flight and load["arrivals"] == {"process": "closed"}
    else:
        assert load["streams"] * load["arrivals"]["rate_hz"] == pytest.approx(rate_hz)
    assert [tensor["name"] for tensor in load["inputs"]] == [tensor.name for tensor in model.inputs]


@pytest.mark.parametrize("file", [loads.OFFICIAL, loads.REWRITTEN])
def test_both_sides_of_a_comparison_do_the_same_work(file):
    def asked(server: str, protocol: str, model: str) -> dict:
        text = loads.scenario(arm(server, protocol), loads.MODELS[model], in_flight=16, rate_hz=None, seconds=1.0)
        return tomllib.loads(text)["loads"][0]

    for theirs in servers.PEERS:
        [(model, _, protocol)] = [key for name in loads.MODELS if name.removesuffix("-stateless") == file for key in cells.keys(name, theirs)]
        ours, peer = asked(OURS, cells.BESIDE[protocol], model), asked(theirs, protocol, model)
        assert ours["inputs"] == peer["inputs"] and len(ours["inputs"]) == (1 if theirs == "triton" else 2)
        assert ours.get("sequence") == peer.get("sequence") == (True if theirs == "triton" else None)
        assert {duel.client.model for duel in DUELS if duel.peer == theirs and duel.client.model.startswith(model)} >= {model}
    assert asked("mosec", "http_post", f"{file}-stateless")["http"]["path"] == "/infer"
    assert "sequence" not in asked(OURS, "feed", file)


def test_the_manifests_of_the_silero_models_say_where_the_state_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PEER_MODELS", tmp_path / "files")
    (tmp_path / "files").mkdir()
    for name in ("silero-vad", "silero-vad-rewritten", "magika"):
        (tmp_path / f"files/{name}.onnx").write_text(name)
    for model in tool.SILEROS:
        folder = bench(tmp_path).models(model) / model
        manifest = tomllib.loads((folder / "model.toml").read_text())
        assert (folder / "1/model.onnx").read_text() == model.removesuffix("-stateless")
        assert ("states" in manifest) == loads.MODELS[model].keeps_state
        assert [tensor["name"] for tensor in manifest["inputs"]] == ["input", "sr"] + ["state"] * model.endswith("-stateless")
    assert not (bench(tmp_path).models("magika") / "magika/model.toml").exists()
    assert set(tool.SILEROS) == {name for name in loads.MODELS if name.startswith("silero")}


def test_a_model_that_has_moved_is_found_where_it_is_now(tmp_path, monkeypatch):
    for place in ("before", "now"):
        (tmp_path / place).mkdir()
        (tmp_path / f"{place}/magika.onnx").write_text(place)
        monkeypatch.setattr(tool, "PEER_MODELS", tmp_path / place)
        assert (bench(tmp_path).models("magika") / "magika/1/model.onnx").read_text() == place


def result(ok: int = 1_000, errors: dict[str, int] | None = None) -> str:
    latency = {"p50": 2_000, "p99": 9_000}
    total: dict = {"offered": 1_010, "ok": ok, "errors": errors or {}, "unanswered": 3, "throughput_hz": 500.0, "latency_us": latency}
    used = {"server_cpu_us_per_item": 80.5, "server_rss_bytes": 3 << 20}
    return json.dumps({"steps": [{"duration_s": 2.0, "total": total} | used]})


def test_what_a_load_found_is_read_and_nothing_unanswered_is_lost():
    found = loads.found(result(errors={"HTTP 503": 7}))
    assert (found.items_per_s, found.p50_ms, found.p99_ms, found.errors) == (500.0, 2.0, 9.0, 10)
    assert (found.cpu_us_per_item, found.resident_mib) == (80.5, 3)
    assert found.cores == pytest.approx(500.0 * 80.5e-6)


def test_a_load_without_a_single_answer_has_a_reason():
    with pytest.raises(Failed, match="1007 x UNAVAILABLE"):
        loads.found(result(ok=0, errors={"UNAVAILABLE": 1_007}))
    with pytest.raises(Failed, match="could not read what the server used"):
        loads.found(result().replace("80.5", "null"))
    with pytest.raises(Failed, match="no result of one step"):
        loads.found("{}")


def test_what_cannot_be_measured_is_a_row_with_the_reason(tmp_path):
    for name in limits.MEASURES:
        for row in limits.measure(bench(tmp_path), name, limits.lines_of(name)):
            assert row.ratio is None and row.reason
    ours, theirs = servers.broken(Failed("no port")), servers.broken(Failed("no wheel"))
    wanted = duel("peer-mosec-16")
    assert rivals.measure(bench(tmp_path), ours, theirs, wanted).reason == "tidemill: no port; mosec: no wheel"
    assert rivals.limit(bench(tmp_path), theirs, wanted.client).reason == "no wheel"
    assert cells.measure(bench(tmp_path), ("minilm", "triton", "infer"), ours, theirs).reason == "tidemill: no port; triton: no wheel"


def test_arms_take_turns_and_one_that_failed_is_not_asked_again():
    asked = []

    def ask(name: str) -> str:
        asked.append(name)
        if asked.count(name) == 2 and name == "b":
            raise Failed("gone")
        return name

    found = turns.turns(3, {name: lambda name=name: ask(name) for name in "abc"})
    assert asked == list("abcabcac")
    assert found["a"] == ["a"] * 3 and str(found["b"]) == "gone"


def test_a_run_during_which_everything_stood_still_is_repeated_but_not_for_ever():
    left = [processes.StoodStill("still"), processes.StoodStill("still"), "run"]

    def ask() -> str:
        if isinstance(answer := left.pop(0), Failed):
            raise answer
        return answer

    assert turns.turns(1, {"a": ask}) == {"a": ["run"]}
    left = [processes.StoodStill("still")] * turns.TRIES + ["run"]
    assert str(turns.turns(1, {"a": ask})["a"]) == "still"


def test_a_standstill_is_seen_in_the_clock_and_not_taken_off_the_patience(monkeypatch):
    monkeypatch.setattr(processes, "STANDSTILL_S", -1.0)
    with pytest.raises(processes.StoodStill, match="stood still for 0 s while true ran"):
        processes.run(["true"], patience_s=10, steady=True)
    assert processes.run(["echo", "there"], patience_s=10) == "there\n"


def test_the_middle_is_the_median_of_each_figure_and_all_errors():
    runs = [dataclasses.replace(FOUND, items_per_s=rate, p50_ms=10 / rate, errors=1) for rate in (1.0, 9.0, 2.0)]
    middle = turns.middle(runs)
    assert (middle.items_per_s, middle.p50_ms, middle.errors) == (2.0, 5.0, 3)


def test_a_server_that_has_ended_is_started_again_and_one_that_does_not_start_is_not():
    alive = {"first": True}
    first, second = server("triton", is_alive=lambda: alive["first"]), server("triton")
    there = kept(first, second)
    assert there.server() is first and there.server() is first
    alive["first"] = False
    assert there.server() is second
    never = kept(Failed("no wheel"))
    for _ in range(2):
        with pytest.raises(Failed, match="no wheel"):
            never.server()


def test_a_client_of_a_server_that_has_ended_is_stopped_and_reports_what_the_server_said():
    ended = server("triton", is_alive=lambda: False, last_words=lambda: "Signal (11) received.")
    with pytest.raises(Failed, match=r"triton ended under this load: Signal \(11\) received\."):
        ended.load(["sleep", "600"], patience_s=600)


def test_a_duel_that_is_too_much_for_the_peer_keeps_the_figures_of_this_server(tmp_path, monkeypatch):
    def load(_: object, arm: loads.Arm, *__: object, **___: object) -> loads.Found:
        if arm.server.name == "mosec":
            raise Failed("it ended")
        return FOUND

    monkeypatch.setattr(rivals, "load", load)
    sides = kept(server(OURS, command="ours")), kept(server("mosec", command="theirs"))
    row = rivals.measure(bench(tmp_path), *sides, duel("peer-mosec-16"))
    assert (row.ratio, row.figures["per_s"], row.reason) == (None, 5_000.0, "mosec: it ended")
    assert "peer_per_s" not in row.figures
    monkeypatch.setattr(rivals, "load", lambda *_, **__: FOUND)
    row = rivals.measure(bench(tmp_path), *sides, duel("peer-mosec-16"))
    assert (row.ratio, row.figures["peer_per_s"], row.commands) == (1.0, 5_000.0, ["ours", "theirs"])


def test_the_limit_of_a_client_bounds_what_any_server_could_reach():
    wanted = duel("perf-triton-unary-64")
    row = wanted.line.measured(2.0, 5, {"per_s": 8_000.0, "peer_per_s": 4_000.0}, [])
    limit = Limit(Client("unary", 64), {"per_s": 10_000.0}, [])
    figures = rivals.with_limit(row, wanted.client, [Limit(Client("unary", 16), {"per_s": 1.0}, []), limit]).figures
    assert (figures["limit_share"], figures["peer_limit_share"], figures["limit_ratio"]) == (0.8, 0.4, 2.5)
    assert rivals.with_limit(row, wanted.client, [dataclasses.replace(limit, figures={}, reason="no such command")]) is row
    rewritten = duel("perf-triton-unary-rewritten-64").client
    assert rewritten != wanted.client and rivals.with_limit(row, rewritten, [limit]).figures["limit_ratio"] == 2.5
    assert rivals.with_limit(row, None, [limit]) is row


def test_a_peer_is_measured_along_with_this_server_and_then_at_half_the_rate_of_the_slower(tmp_path, monkeypatch):
    asked = []

    def load(_: object, arm: loads.Arm, *__: object, rate_hz: float | None, **___: object) -> loads.Found:
        asked.append((arm.server.name, arm.protocol, rate_hz))
        return dataclasses.replace(FOUND, items_per_s=100.0 if arm.server.name == "mosec" else 400.0)

    monkeypatch.setattr(cells, "load", load)
    ours = kept(server(OURS))
    cell = cells.measure(bench(tmp_path), ("magika", "mosec", "http_post"), ours, kept(server("mosec")))
    assert asked == [(OURS, "http_infer", None), ("mosec", "http_post", None), (OURS, "http_infer", 50.0), ("mosec", "http_post", 50.0)]
    assert (cell.version, cell.equal_rate_hz, cell.reason) == ("1", 50.0, "")
    alone = cells.measure(bench(tmp_path), ("magika", OURS, "feed"), ours, ours)
    assert alone.saturated and alone.ours is None and alone.equal is None


def test_the_share_of_the_limit_is_of_canned_answers_to_the_same_client():
    limit = cells.Cell("minilm", CANNED, "http_post", saturated=dataclasses.replace(FOUND, items_per_s=10_000.0))
    over_http = cells.Cell("minilm", OURS, "http_infer", saturated=FOUND)
    assert cells.limit_share(over_http, [limit, over_http]) == 0.5
    assert cells.limit_share(dataclasses.replace(over_http, model="magika"), [limit]) is None
    assert cells.limit_share(dataclasses.replace(over_http, protocol="infer"), [limit]) is None


def filled() -> results.Results:
    found = of()
    found.add(LINE.measured(0.9, 5, {"items_per_s": 123_456.0, "ratio": 7}, ["tidemill-load x"]), CEILING.missing("no library | here"))
    figures = {"per_s": 8_000.0, "peer_per_s": 4_000.0, "peer": "triton", "model": "silero-vad", "peer_version": "2.51.0"}
    figures |= {"cores": 1.25, "peer_cores": 1.75}
    found.add(duel("perf-triton-unary-64").line.measured(2.0, 5, figures, []))
    found.add(Limit(Client("unary", 64), {"per_s": 10_000.0, "p50_us": 5.0}, ["canned"]))
    found.add(cells.Cell("minilm", "mosec", "http_post", "0.9.8", FOUND, FOUND, 50.0, FOUND, FOUND, ("tidemill-load run y",)))
    found.add(cells.Cell("minilm", "triton", "infer", reason="no wheel"), cells.Cell("silero-vad", OURS, "feed", saturated=FOUND))
    return found


def test_results_are_read_as_they_were_written(tmp_path):
    written = filled()
    written.write(tmp_path, "page")
    later = of(dataclasses.replace(STAMP, date="2026-11-22 08:00 UTC"))
    assert later.read(tmp_path) == 5
    assert [row.json() for row in later.rows] == [row.json() for row in written.rows]
    assert (later.cells, later.limits) == (written.cells, written.limits)
    assert [later.has(key) for key in ("speed", "cost", ("minilm", "triton", "infer"), Client("unary", 64))] == [True, False, False, True]
    assert later.dates() == (STAMP.date, STAMP.date)
    later.add(CEILING.measured(50, 5, {}, []))
    assert later.dates() == (STAMP.date, "2026-11-22 08:00 UTC")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks.md", "limits.json", "peers.json", "summary.json"]


@pytest.mark.parametrize("change", [{"binaries": "a c"}, {"effort": "quick"}])
def test_results_of_other_programs_or_another_effort_do_not_count(tmp_path, change, capsys):
    filled().write(tmp_path, "page")
    assert of(dataclasses.replace(STAMP, **change)).read(tmp_path) == 0
    assert f"7 entries of {tmp_path} are from other programs" in capsys.readouterr().err
    # As rows were before they had stamps.
    (tmp_path / "summary.json").write_text(json.dumps([LINE.measured(0.9, 5, {}, []).json()]))
    later = of()
    assert later.read(tmp_path) == 3 and "speed" not in [row.line.name for row in later.rows]


def test_a_file_that_is_not_a_result_is_an_error_with_its_name(tmp_path):
    (tmp_path / "peers.json").write_text("{")
    with pytest.raises(Failed, match="peers.json is not what this program writes"):
        of().read(tmp_path)


def all_of(effort: tool.Effort, only: list[str], found: results.Results | None = None) -> plan.Plan:
    return plan.plan(effort, only, found or of(lines=limits.LINES))


def test_all_of_it_takes_an_hour():
    everything = all_of(tool.FULL, [])
    assert everything.estimate_s(tool.FULL) < 60 * 60
    assert everything.lines == tuple(limits.MEASURES)
    measured = {key for visit in everything.visits for key in visit.cells}
    assert measured == {key for model in loads.MODELS for name in (OURS, CANNED, *servers.PEERS) for key in cells.keys(model, name)}
    duels = [duel for visit in everything.visits for duel in visit.duels]
    assert sorted(duel.line.name for duel in duels) == sorted(duel.line.name for duel in DUELS)
    # Each server once with each model, and the limit before the peers whose rows it is in.
    assert len({visit.name() for visit in everything.visits}) == len(everything.visits)
    assert [visit.server for visit in everything.visits[:3]] == [OURS, CANNED, "triton"]


def test_what_is_asked_for_is_all_that_is_measured():
    only = all_of(tool.QUICK, ["peer-mosec", "lone"])
    assert only.lines == ("lone",)
    stateless = ("silero-vad-stateless", "silero-vad-rewritten-stateless")
    assert [visit.name() for visit in only.visits] == [f"canned with {stateless[0]}", *(f"mosec with {model}" for model in stateless)]
    assert [client.concurrency for client in only.visits[0].clients] == list(tool.LEVELS)
    assert only.peers() == ["mosec"]
    assert {visit.model for visit in all_of(tool.QUICK, ["table-magika"]).visits} == {"magika"}


def test_what_the_results_have_is_not_measured_again():
    found = of(lines=limits.LINES)
    first = all_of(tool.FULL, [])
    for visit in first.visits:
        found.add(*(Limit(client, {"per_s": 1.0, "p50_us": 1.0}, []) for client in visit.clients))
        found.add(*(duel.line.measured(1.0, 5, {"per_s": 1.0, "peer_per_s": 1.0}, []) for duel in visit.duels))
        found.add(*(cells.Cell(*key, saturated=FOUND) for key in visit.cells))
    found.add(*(line.measured(1.0, 5, {}, []) for name in first.lines for line in limits.lines_of(name)))
    assert all_of(tool.FULL, [], found) == plan.Plan((), ())
    found.add(duel("perf-triton-streaming-64").line.missing("it ended"), limits.lines_of("idle")[0].missing("no port"))
    again = all_of(tool.FULL, [], found)
    assert again.lines == ("idle",)
    assert [(visit.name(), [duel.line.name for duel in visit.duels], visit.cells) for visit in again.visits] == [
        ("triton with silero-vad", ["perf-triton-streaming-64"], ())
    ]


def test_the_page_has_every_row_every_command_and_every_reason():
    text = page.page(filled(), tool.FULL, {"cores": "2"}, "loadtest/compare --out z", Record.fresh())
    wanted = ["| speed |", "| cost |", "123,456", "tidemill-load x", "no library", "no wheel", "tidemill-load run y", "--out z", "0.9.8"]
    wanted += ["| Triton, Python backend | 2.51.0 |", "limit_ratio 2.5", "| 0.80 | 0.40 | 1.25 | 1.75 |", "### At the same load"]
    wanted += ["| Mosec | minilm | 1 | 1 | 16 | 1000 | not searched: the default |"]
    assert [part for part in wanted if part not in text] == []
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")}) == 1, block
    assert "no library" in page.summary(filled())


def test_a_limit_whose_figures_name_a_model_is_not_a_peer():
    found = of(lines=limits.LINES)
    found.add(limits.lines_of("silero-onnxruntime")[0].measured(0.8, 5, {"model": "silero_vad"}, []))
    assert "### Settings of the peers" not in page.page(found, tool.FULL, {}, "", Record.fresh())


def test_a_command_is_shown_as_it_is_typed():
    command = ["/tmp/elsewhere/tidemill-load", "run", f"{tool.ROOT}/a.toml", "--target", "http://127.0.0.1:4711"]
    assert tool.shown_command(command) == "target/release/tidemill-load run a.toml --target http://127.0.0.1:PORT"


def test_facts_name_the_machine_and_the_programs(tmp_path):
    for name in ("tidemill", "tidemill-load"):
        (tmp_path / name).write_text("#!/bin/sh\necho tidemill 1.2.3\n")
        (tmp_path / name).chmod(0o755)
    programs = machine.binaries(bench(tmp_path))
    facts = machine.facts(bench(tmp_path), programs, built=False)
    assert all(facts.values()), facts
    assert facts["kernel"].startswith("Linux")
    assert (facts["Tidemill"], len(facts["SHA-256 of tidemill-load"])) == ("1.2.3", 64)
    with pytest.raises(Failed, match="cannot read .*/nowhere/tidemill: No such file"):
        machine.binaries(bench(tmp_path / "nowhere"))


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    def measure(_: object, __: object, found: results.Results, ___: object) -> None:
        found.add(limits.LINES[0].measured(0.9, 5, {}, ["x"]))
        raise processes.Interrupted(signal.SIGINT)

    monkeypatch.setattr(machine, "binaries", lambda _: {"tidemill": "a", "tidemill-load": "b"})
    monkeypatch.setattr(machine, "facts", lambda *_, **__: {"date": "today"})
    monkeypatch.setattr(main, "_measure", measure)
    arguments = argparse.Namespace(out=tmp_path, add=True, only=["identity-2304"], quick=True, write_docs=True)
    docs = tool.ROOT / "docs/benchmarks.md"
    before = docs.read_text()
    assert main._run(bench(tmp_path), arguments, built=False) == 130
    assert docs.read_text() == before
    text = (tmp_path / "benchmarks.md").read_text()
    assert limits.LINES[0].what in text and "| interrupted | yes" in text
    assert [row["ratio"] for row in json.loads((tmp_path / "summary.json").read_text())] == [0.9]
    assert "SIGINT" in capsys.readouterr().err


def test_names_that_can_be_asked_for_cover_all_lines():
    assert {"silero-rten", "idle", "perf-triton", "peer-rayserve", "table", "table-magika"} <= set(plan.names())


def rated(batching: Batching, rate: float, cores: float = 1.0, **options: object) -> Tried:
    return Tried(batching, (rate,), cores, **options)  # type: ignore[arg-type]


def test_a_search_finds_the_best_of_each_setting_and_tries_none_twice():
    def measure(batching: Batching, to_beat: float) -> Tried:
        assert to_beat == max((each.rate for each in given), default=0.0)
        asked.append(batching)
        # Two workers pay off only with large batches, so what was best at first is not best in the end.
        rate = batching.max_batch * (10.0 if batching.workers == 2 and batching.max_batch == 64 else 8.0 if batching.workers == 1 else 4.0)
        given.append(rated(batching, rate - batching.delay_us / 1e3 - batching.threads))
        return given[-1]

    asked: list[Batching] = []
    given: list[Tried] = []
    chosen, tried = search.search("rayserve", 2, measure)
    assert chosen == Batching(max_batch=64, delay_us=0, workers=2, threads=1)
    assert [each.batching for each in tried] == asked and len(set(asked)) == len(asked)
    assert asked[0] == DEFAULTS["rayserve"]
    assert {(each.workers, each.threads) for each in asked} == {(1, 1), (2, 1), (1, 2), (4, 1)}


def test_a_search_without_a_sound_run_stays_with_the_default():
    refused = search.search("mosec", 2, lambda batching, _: Tried(batching, reason="no port"))
    assert refused[0] == DEFAULTS["mosec"] and {each.reason for each in refused[1]} == {"no port"}
    assert search.best(refused[1]) is None


def test_the_fastest_wins_and_among_equals_the_one_that_costs_least():
    a, b, c, d = (Batching(size, 0) for size in (1, 2, 3, 4))
    found = search.best([rated(a, 100.0, 2.0), rated(b, 99.0, 1.0), rated(c, 90.0, 0.1), rated(d, 500.0, errors=1)])
    assert found is not None and found.batching == b
    assert search.best([]) is None
    assert Tried(a, (3.0, 1.0, 2.0)).rate == 2.0 and Tried(a, (4.0, 2.0)).rate == 3.0 and Tried(a).rate == 0.0


@pytest.mark.parametrize(("cores", "wanted"), [(1, [(1, 1), (2, 1)]), (2, [(1, 1), (1, 2), (2, 1), (4, 1)])])
def test_all_ways_to_use_the_cores_are_tried(cores, wanted):
    assert search.splits("mosec", cores) == wanted
    assert search.splits("mlserver", cores) == [(0, threads) for threads in range(1, cores + 1)] + wanted
    assert (6, 1) in search.splits("mosec", 6) and (1, 6) in search.splits("mosec", 6) and (2, 2) in search.splits("mosec", 6)


def test_each_peer_is_searched_with_all_models_of_the_comparison():
    for peer in servers.PEERS:
        models = search.models_of(peer)
        assert {"minilm", "magika", "identity-64"} <= set(models)
        assert sum(model.startswith("silero") for model in models) == 2
        assert {duel.client.model for duel in DUELS if duel.peer == peer} <= set(models)
    assert set(DEFAULTS) == set(servers.PEERS)


def test_a_record_is_read_as_it_was_written_and_counts_only_on_its_own_machine(tmp_path):
    path, chosen = tmp_path / "tuned.json", Batching(4, 0, 2, 1)
    assert Record.read(path).batching("mosec", "magika") == DEFAULTS["mosec"]
    record = Record.fresh()
    record.searches["mosec", "magika"] = Search(chosen, "0.9.8", "today", "32 items", (rated(chosen, 120.0), Tried(DEFAULTS["mosec"], reason="x")))
    record.write(path)
    again = Record.read(path)
    assert again.searches == record.searches and again.batching("mosec", "magika") == chosen
    assert again.batching("mosec", "minilm") == DEFAULTS["mosec"]
    again.machine = again.machine | {"cores": 1_000}
    assert again.batching("mosec", "magika") == DEFAULTS["mosec"] and again.search("mosec", "magika") is None
    text = page.page(filled(), tool.FULL, {}, "", record)
    assert "| Mosec | minilm | 1 | 1 | 16 | 1000 | not searched: the default |" in text
    path.write_text("{}")
    with pytest.raises(SystemExit, match="tuned.json is not what loadtest/peers/search writes"):
        Record.read(path)


def test_the_page_says_what_a_search_found():
    record, chosen = Record.fresh(), Batching(4, 0, 2, 1)
    record.searches["mosec", "minilm"] = Search(chosen, "0.9.8", "2026-11-30 06:00 UTC", "32 items", (rated(chosen, 120.0, 1.9),))
    text = page.page(filled(), tool.FULL, {}, "", record)
    assert "| Mosec | minilm | 2 | 1 | 4 | 0 | 1 tried, 2026-11-30 06:00 UTC | 120 | 1.90 |" in text


def test_a_peer_that_cannot_be_installed_does_not_end_the_search_for_others(tmp_path, monkeypatch, capsys):
    def install(name: str) -> None:
        if name == "triton":
            raise Failed("no wheel")

    def tried(_: object, __: str, ___: str, batching: Batching, *____: object) -> tuple[Tried, str]:
        return rated(batching, 100.0), "0.9.8"

    monkeypatch.setattr(servers, "install", install)
    monkeypatch.setattr(tool, "make_models", lambda _: None)
    monkeypatch.setattr(search, "tried", tried)
    path = tmp_path / "tuned.json"
    arguments = argparse.Namespace(
        no_build=True, binaries=None, record=path, peers=["triton", "mosec"], models=["magika"], again=False, rounds=1, seconds=1.0
    )
    assert search._run(bench(tmp_path), arguments) == 1
    assert "triton cannot be installed: no wheel" in capsys.readouterr().err
    assert list(Record.read(path).searches) == [("mosec", "magika")]
    # Recorded settings are not searched for again.
    monkeypatch.setattr(search, "tried", None)
    assert search._run(bench(tmp_path), argparse.Namespace(**vars(arguments) | {"peers": ["mosec"]})) == 0


@pytest.fixture
def shared(monkeypatch):
    """The modules of the peers."""
    monkeypatch.syspath_prepend(str(tool.ROOT / "loadtest/peers/shared"))
    names = ("contracts", "record", "settings")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def test_peers_take_the_tensors_that_they_are_sent(shared):
    contracts = shared["contracts"].CONTRACTS
    assert set(contracts) == set(loads.MODELS)
    datatypes = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}
    for name, model in loads.MODELS.items():
        contract = contracts[name]
        assert contract.kept == model.keeps_state
        # A kept state is not sent.
        taken = [tensor for tensor in contract.inputs if not (contract.kept and tensor.name in contract.state)]
        assert [(tensor.name, datatypes[tensor.dtype.name], tensor.shape) for tensor in taken] == [
            (tensor.name, tensor.datatype, tensor.shape) for tensor in model.inputs
        ]


def test_a_peer_is_asked_only_for_models_that_it_can_serve(shared, monkeypatch, capsys):
    settings = shared["settings"]
    argv = ["serve", "--model", "silero-vad", "--port", "9000", "--threads", "3"]
    monkeypatch.setattr(sys, "argv", argv)
    kept_by_triton = settings.from_arguments("triton", keeps_state=True)
    assert (kept_by_triton.contract.file, kept_by_triton.batching.threads) == ("silero-vad", 3)
    with pytest.raises(SystemExit):
        settings.from_arguments("mosec")
    assert "invalid choice: 'silero-vad'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*argv[:2], "silero-vad-rewritten-stateless", *argv[3:]])
    sent_to_mosec = settings.from_arguments("mosec")
    assert sent_to_mosec.contract.path.endswith("/silero-vad-rewritten.onnx")
    assert [tensor.name for tensor in sent_to_mosec.contract.inputs] == ["input", "state"]


def test_what_a_search_measures_is_recorded_with_the_reason_of_what_did_not_run(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def peer(_: object, name: str, __: str, batching: Batching):
        if batching.workers == 2:
            raise Failed("no memory")
        yield server(name)

    monkeypatch.setattr(servers, "peer", peer)
    monkeypatch.setattr(loads, "load", lambda *_, **__: FOUND)
    ran, version = search.tried(bench(tmp_path), "mosec", "magika", Batching(4, 0), 3, 1.0)
    assert (ran.items_per_s, ran.cores, ran.p99_ms, version) == ((5_000.0,) * 3, 0.4, 2.0, "1")
    behind, _ = search.tried(bench(tmp_path), "mosec", "magika", Batching(4, 0), 3, 1.0, to_beat=5_000.0 / 0.69)
    near, _ = search.tried(bench(tmp_path), "mosec", "magika", Batching(4, 0), 3, 1.0, to_beat=5_000.0 / 0.71)
    assert (len(behind.items_per_s), len(near.items_per_s)) == (1, 3)
    failed, _ = search.tried(bench(tmp_path), "mosec", "magika", Batching(4, 0, 2), 3, 1.0)
    assert (failed.rate, failed.reason) == (0.0, "no memory")


def test_two_versions_are_compared_by_their_medians():
    old, new = [10.0, 30.0, 20.0], [4.0]
    assert versions.compared("lone", "ms", old, new, lower_is_better=True) == ["lone", "ms", "20 (10 to 30)", "4", "5.00"]
    assert versions.compared("full", "items/s", old, new, lower_is_better=False)[-1] == "0.20"
    refused = versions.compared("full", "items/s", Failed("no such flag"), new, lower_is_better=False)
    assert refused == ["full", "items/s", "no such flag", "4", "-"]


def test_what_a_search_for_streams_found_is_the_last_number_that_held():
    steps = [{"factor": 8.0, "streams": 128}, {"factor": 12.0, "streams": 192}, {"factor": 12.0, "streams": 192}, {"factor": 16.0, "streams": 256}]
    assert versions.bearing(json.dumps({"search": {"factor": 12.0}, "steps": steps})) == 192
    for wrong in ({"search": {"factor": None}, "steps": steps}, {"search": None, "steps": []}):
        with pytest.raises(Failed, match="the search found no number of streams"):
            versions.bearing(json.dumps(wrong))


def test_a_peer_is_started_with_what_is_recorded_and_its_command_says_so(tmp_path, monkeypatch):
    typed = []

    @contextlib.contextmanager
    def said_ready(_: object, name: str, __: str, command: list[str]):
        typed.append(command)
        yield server(name)

    monkeypatch.setattr(servers, "_said_ready", said_ready)
    monkeypatch.setattr(servers, "_two_free_ports", lambda: 20_000)
    with servers.peer(bench(tmp_path), "mosec", "magika", Batching(4, 7, 2, 3)) as started:
        assert started.command.endswith("mosec/serve --model magika --max-batch=4 --delay-us=7 --workers=2 --threads=3 --port PORT")
    assert typed[0][-1] == "20000"


def test_the_processor_time_of_a_child_counts_what_it_started():
    burns = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); time.sleep(600)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burns!r}])"
    child = processes.start([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert processes.cpu_s(child.pid) >= 0.2
    processes.stop(child)
    assert processes.cpu_s(child.pid) == 0.0


def test_a_child_that_started_others_leaves_nothing_behind():
    script = "import subprocess, sys; c = subprocess.Popen(['sleep', '600'], start_new_session=True); print(c.pid, flush=True); c.wait()"
    child = processes.start([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert set(processes.family(child.pid)) == {child.pid, grandchild}
    processes.stop(child)
    assert child.returncode is not None
    assert not processes.family(grandchild)


def test_a_child_whose_parent_has_ended_is_found_by_its_session():
    child = processes.start(["sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    orphan = int(child.stdout.readline())
    child.wait()
    assert set(processes.family(child.pid)) == {orphan}
    processes.stop(child)
    assert not processes.family(orphan)


def test_a_program_that_fails_says_why():
    with pytest.raises(Failed, match="ended with 3: no port"):
        processes.run(["sh", "-c", "echo no port >&2; exit 3"], patience_s=10)
    with pytest.raises(Failed, match="ended with 2: error: no such command"):
        processes.run(["sh", "-c", "echo error: no such command >&2; echo try --help >&2; exit 2"], patience_s=10)
    with pytest.raises(Failed, match="cannot start /nowhere"):
        processes.run(["/nowhere"], patience_s=10)
