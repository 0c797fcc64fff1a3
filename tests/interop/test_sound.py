"""Audio at other rates and in other formats: what the server makes of it is what sox makes of it."""

import subprocess

import audio
import numpy as np
import places
import pytest
from messages import config, of_kind, pb
from server import PATIENCE_S, running

RATE_HZ = 16_000
WINDOW_SAMPLES = 800
ECHO = "windows"

# A model that gives back its windows.
MANIFEST = f"""
engine = "synthetic"
inputs = [{{ name = "x", datatype = "FP32", dims = ["batch", {WINDOW_SAMPLES}] }}]
outputs = [{{ name = "y", datatype = "FP32", dims = ["batch", {WINDOW_SAMPLES}] }}]

[framing]
kind = "pcm_s16le"
sample_rate_hz = {RATE_HZ}
window_samples = {WINDOW_SAMPLES}

[synthetic]
kind = "identity"
"""

FORMATS = {
    pb.AUDIO_FORMAT_PCM_S16LE: "-e signed-integer -b 16",
    pb.AUDIO_FORMAT_PCM_F32LE: "-e floating-point -b 32",
    pb.AUDIO_FORMAT_MULAW: "-e mu-law -b 8",
    pb.AUDIO_FORMAT_ALAW: "-e a-law -b 8",
}

S16 = FORMATS[pb.AUDIO_FORMAT_PCM_S16LE]


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    (models / ECHO).mkdir()
    (models / ECHO / "model.toml").write_text(MANIFEST)
    with running("--models", str(models), "--set", "models.embedded=false") as server:
        yield server.inference


def sox(source: bytes, before: str, after: str, effects: str = "") -> bytes:
    """Raw mono audio from one format to another, without dither."""
    command = ["sox", "-D", "-t", "raw", "-c", "1", *before.split(), "-", "-t", "raw", *after.split(), "-", *effects.split()]
    return subprocess.run(command, input=source, capture_output=True, check=True, timeout=PATIENCE_S).stdout


def speech(rate_hz: int) -> bytes:
    """Loud speech at this rate, without what lies at the edge of any filter between it and 16 kHz."""
    edge_hz = 0.85 * min(rate_hz, RATE_HZ) / 2
    effects = f"gain -n -3 sinc -{edge_hz} rate -v {rate_hz}"
    return sox(audio.pcm(audio.SHORT_SPEECH), f"-r {RATE_HZ} {S16}", f"-r {rate_hz} {S16}", effects)


def heard(inference, sent: bytes, rate_hz: int, audio_format: int) -> tuple[np.ndarray, pb.Summary]:
    """The samples that the model gets, in steps of 16 bits."""
    request = pb.ScanRequest(config=config(model=ECHO, sample_rate_hz=rate_hz, audio_format=audio_format), pcm_s16le=sent)
    events = list(inference.Scan(request, timeout=PATIENCE_S))
    windows = [np.frombuffer(result.outputs.tensors[0].data, "<f4") for result in of_kind(events, "result")]
    (summary,) = of_kind(events, "completed")
    return np.concatenate(windows)[: summary.samples] * 32_768, summary


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * np.log10(np.mean(signal**2) / max(np.mean(noise**2), 1e-9))


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 24_000, 8_000, 22_050, 11_025, 96_000])
def test_resampled_speech_is_that_of_sox(echo, rate_hz):
    sent = speech(rate_hz)
    found, summary = heard(echo, sent, rate_hz, pb.AUDIO_FORMAT_UNSPECIFIED)
    expected = np.frombuffer(sox(sent, f"-r {rate_hz} {S16}", f"-r {RATE_HZ} {S16}", f"rate -v {RATE_HZ}"), "<i2").astype(float)
    assert summary.payload_bytes == len(sent)
    assert abs(summary.samples - len(sent) / 2 * RATE_HZ / rate_hz) <= 0.5
    # The ends are steps, at which every filter rings in its own way.
    inner = slice(400, min(len(found), len(expected)) - 400)
    ratio = decibels(expected[inner], found[inner] - expected[inner])
    # Both are rounded to 16 bits, which leaves some 90 dB; neither is moved.
    assert ratio > 85, f"{ratio:.1f} dB"


@pytest.mark.parametrize("audio_format", FORMATS, ids=pb.AudioFormat.Name)
def test_every_format_is_decoded_as_sox_decodes_it(echo, audio_format):
    written = FORMATS[audio_format]
    sent = sox(speech(RATE_HZ), f"-r {RATE_HZ} {S16}", f"-r {RATE_HZ} {written}")
    found, summary = heard(echo, sent, RATE_HZ, audio_format)
    expected = np.frombuffer(sox(sent, f"-r {RATE_HZ} {written}", f"-r {RATE_HZ} {S16}"), "<i2").astype(float)
    assert summary.samples == len(expected)
    assert np.array_equal(found, expected)
