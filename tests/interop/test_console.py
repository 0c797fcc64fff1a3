"""The console, in a browser: what it shows, what it finds in speech, and whether everybody can use it."""

import json
import urllib.error
import urllib.request

import audio
import encrypted
import places
import pytest
from programs import run, run_node
from server import PATIENCE_S, running

CLIP = places.ASSETS / audio.LONG_SPEECH


def front(address: str, accept: str = "text/html") -> tuple[int, str, str]:
    """Status, type and text of `/`."""
    request = urllib.request.Request(f"http://{address}/", headers={"accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


def scanned(server, *options) -> list[list[int]]:
    """The segments that `tidemill scan` finds in the clip, in milliseconds."""
    printed = run(places.SERVER, "scan", CLIP, "--json", "--addr", server.address, *options)
    found = [json.loads(line) for line in printed.splitlines()]
    return [[one["segment"]["start_ms"], one["segment"]["end_ms"]] for one in found if "segment" in one]


@pytest.fixture(scope="module")
def found(server) -> dict:
    """What a person finds there."""
    return json.loads(run_node("console.cjs", f"http://{server.http_address}/", CLIP))


def test_it_runs_without_a_complaint_and_calls_nobody_else(server, found):
    assert (found["complaints"], found["violations"], found["heardComplaints"]) == ([], [], [])
    assert found["origins"] == [f"http://{server.http_address}"]


def test_it_lists_the_models_and_does_not_jump(found):
    assert found["models"] == ["example_model/1", "silero-vad/6"]
    assert found["shifted"] < 0.05


def test_a_dropped_recording_has_the_segments_that_scan_finds(server, found):
    assert found["dropped"] == scanned(server) != []
    count = len(found["dropped"])
    assert ("1 segment:" if count == 1 else f"{count} segments:") in found["drawing"]


def test_the_sample_is_played_and_has_two(found):
    assert len(found["sample"]) == 2
    assert dict(found["buttons"]) == {"microphone": True, "choose": True, "sample": True, "stop": False}


def test_the_microphone_yields_a_segment(found):
    assert found["heard"]


def test_tensors_are_sent_and_answered(found):
    assert found["response"] == [2, 5]


def test_a_model_is_described_and_there_is_code_to_copy(found):
    assert len(found["plots"]) == 2 and found["plots"][0].startswith("Time of a call")
    assert "16000 Hz" in found["about"]
    assert len(found["code"]) == 3 and all("silero-vad" in code for code in found["code"])


def test_everybody_can_use_it(found):
    assert (found["light"], found["dark"], found["walk"]["unseen"]) == ([], [], [])
    order = found["walk"]["order"]
    assert order[0] == "Skip to the content"
    wanted = ["key-button", "scope", "tab-try", "microphone", "choose", "sample", "aloud"]
    assert [name for name in order if name in wanted] == wanted
    dark, light = found["brightness"]
    assert dark < 60 < 200 < light


def test_it_fits_a_telephone_and_says_when_the_server_is_gone(found):
    assert found["overflow"] <= 0
    assert "cannot be reached" in found["notice"]


def test_a_key_is_asked_for_used_and_kept_nowhere(tmp_path):
    credentials = encrypted.Credentials(tmp_path)
    key = credentials.new_key("person", "infer", "models:read")
    with running(*credentials.settings(security__tokens="true"), kind=encrypted.serving(credentials)) as server:
        found = json.loads(run_node("console.cjs", f"https://{server.http_address}/", CLIP, key))
        reach = ["--addr", f"https://{server.address}", "--ca", credentials.path("ca.pem"), "--api-key", key]
        printed = run(places.SERVER, "scan", CLIP, "--json", *reach)
    assert found["withoutKey"] == "Needs a key" and "key" in found["wrongKey"]
    assert (found["faults"], found["complaints"], found["violations"]) == ([], [], [])
    segments = [json.loads(line)["segment"] for line in printed.splitlines() if "segment" in json.loads(line)]
    assert found["dropped"] == [[one["start_ms"], one["end_ms"]] for one in segments] != []
    assert found["kept"][:3] == [0, 0, ""] and key not in found["kept"][3] and not found["shown"]


def test_programs_get_a_list_of_what_there_is(server):
    status, media_type, text = front(server.http_address, "*/*")
    assert (status, media_type, json.loads(text)["open_inference"]) == (200, "application/json", "/v2")


@pytest.mark.parametrize(("address", "setting", "shown"), [("127.0.0.1", "off", False), ("0.0.0.0", "auto", False), ("0.0.0.0", "on", True)])
def test_it_can_be_off(address, setting, shown):
    alarms = ("is open to other machines",)
    settings = ("--set", f"http.console={setting}", "--set", f"security.allow_anonymous={str(address == '0.0.0.0').lower()}")
    with running(*settings, address=address, expected_alarms=alarms) as server:
        status, media_type, text = front(server.http_address.replace("0.0.0.0", "127.0.0.1"))
    assert status == (200 if shown else 404)
    assert media_type.startswith("text/html" if shown else "application/json")
    assert shown or "http.console" in text
