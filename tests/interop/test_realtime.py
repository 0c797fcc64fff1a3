"""Realtime sessions by the clients that people use, with real speech: each finds the turns, by its own means."""

import json
import os

import audio
import numpy as np
import places
import pytest
from encrypted import Credentials, serving
from programs import run
from server import Server, running

SESSION = ["session.created", "session.updated"]
TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]
SILENCE_S = 1


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A server over TLS, its credentials and a key."""
    credentials = Credentials(tmp_path_factory.mktemp("realtime"))
    key = credentials.new_key("alice", "infer")
    with running(*credentials.settings(security__tokens="true"), kind=serving(credentials)) as server:
        yield server, credentials, key


@pytest.fixture(scope="module")
def plain():
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> dict[int, str]:
    """A file of speech with silence after it, by rate."""
    samples = np.frombuffer(audio.pcm("goforward.raw"), "<i2")
    samples = np.concatenate([samples, np.zeros(SILENCE_S * audio.SAMPLE_RATE_HZ, np.int16)])
    folder, files = tmp_path_factory.mktemp("speech"), {}
    for rate_hz in (16_000, 24_000):
        positions = np.arange(len(samples) * rate_hz // 16_000) * (16_000 / rate_hz)
        wanted = np.interp(positions, np.arange(len(samples)), samples).astype("<i2")
        (folder / str(rate_hz)).write_bytes(wanted.tobytes())
        files[rate_hz] = str(folder / str(rate_hz))
    return files


def environment(credentials: Credentials) -> dict[str, str]:
    ca = credentials.path("ca.pem")
    return os.environ | {"SSL_CERT_FILE": ca, "NODE_EXTRA_CA_CERTS": ca, "NODE_PATH": str(places.NODE_MODULES)}


def localhost(server: Server) -> str:
    return f"localhost:{server.http_address.rsplit(':', 1)[1]}"


def voice(script: str, *arguments: str, **options) -> object:
    """What a script with the clients of speech prints."""
    return json.loads(run(places.VOICE_PYTHON, "-W", "ignore", places.ROOT / "tests/interop" / script, *arguments, **options))


def test_openai_for_python(secured, speech):
    server, credentials, key = secured
    url = f"https://{localhost(server)}/v1"
    told = voice("realtime_openai.py", url, key, speech[24_000], env=environment(credentials))
    for heard in told["sessions"]:
        assert [event["type"] for event in heard] == SESSION + TURN
        started, stopped, committed, added, done = heard[2:]
        item = started["item_id"]
        assert {stopped["item_id"], committed["item_id"], added["item"]["id"], done["item"]["id"]} == {item}
        assert 0 <= started["audio_start_ms"] < stopped["audio_end_ms"] <= 4_000
        assert committed.get("previous_item_id") is None
    assert told["sessions"][0][2]["audio_start_ms"] == told["sessions"][1][2]["audio_start_ms"]
    assert "401" in told["refused"]


def test_openai_for_node(secured, speech):
    server, credentials, key = secured
    url = f"https://{localhost(server)}/v1"
    told = run("node", places.ROOT / "tests/interop/realtime.cjs", url, key, speech[24_000], env=environment(credentials))
    assert json.loads(told) == {"node": SESSION + TURN, "browser": SESSION + TURN}


def test_livekit(plain, speech):
    url = f"http://{plain.http_address}/v1"
    kinds = voice("realtime_livekit.py", url, "any", speech[24_000])
    assert kinds == ["start_of_speech", "end_of_speech"]


def test_pipecat(plain, speech):
    url = f"ws://{plain.http_address}/v1/realtime"
    quiet = os.environ | {"LOGURU_LEVEL": "ERROR"}
    names = voice("realtime_pipecat.py", url, "any", speech[16_000], env=quiet)
    assert names == ["ProposedUserStartedSpeakingFrame", "ProposedUserStoppedSpeakingFrame"]
