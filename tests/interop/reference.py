"""What the model says when Python's onnxruntime runs it alone, window by window: the truth that the server is checked against."""

import functools

import audio
import numpy as np
import onnxruntime
import places

WINDOW_SAMPLES = 512
CONTEXT_SAMPLES = 64
TOLERANCE = 1e-3


@functools.cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(places.ASSETS / "silero_vad.onnx"), options, ["CPUExecutionProvider"])


def windows(data: bytes) -> list[np.ndarray]:
    """The model's inputs for `pcm_s16le`: f32 [576] each, context first, the last one padded with zeros."""
    fresh = audio.samples(data)
    fresh = np.pad(fresh, (CONTEXT_SAMPLES, -len(fresh) % WINDOW_SAMPLES))
    starts = range(0, len(fresh) - CONTEXT_SAMPLES, WINDOW_SAMPLES)
    return [fresh[start : start + CONTEXT_SAMPLES + WINDOW_SAMPLES] for start in starts]


def run(inputs: list[np.ndarray]) -> np.ndarray:
    """The probabilities of a stream of inputs, with the state carried from each to the next."""
    state = np.zeros((2, 1, 128), np.float32)
    rate = np.array(audio.SAMPLE_RATE_HZ, np.int64)
    probabilities = []
    for window in inputs:
        output, state = _session().run(None, {"input": window[np.newaxis], "state": state, "sr": rate})
        probabilities.append(output[0, 0])
    return np.array(probabilities, np.float32)


@functools.cache
def of_clip(clip: str) -> np.ndarray:
    """Probabilities of a clip's windows."""
    return run(windows(audio.pcm(clip)))


def assert_equal(probabilities: list[float], expected: np.ndarray) -> None:
    assert len(probabilities) == len(expected)
    np.testing.assert_allclose(np.array(probabilities), expected, rtol=0, atol=TOLERANCE)
