"""The recordings: 16 kHz mono 16-bit samples."""

import functools
import wave

import numpy as np
import places

SAMPLE_RATE_HZ = 16_000

SPEECH = (
    "sense_and_sensibility_01_austen_64kb-0870.wav",
    "sense_and_sensibility_01_austen_64kb-0880.wav",
    "sense_and_sensibility_01_austen_64kb-0890.wav",
    "sense_and_sensibility_01_austen_64kb-0920.wav",
    "sense_and_sensibility_01_austen_64kb-0930.wav",
    "003.wav",
    "005.wav",
    "goforward.raw",
    "something.raw",
    "numbers.raw",
)
LONG_SPEECH, SHORT_SPEECH = SPEECH[0], SPEECH[1]
NOISE = "noise_16khz.wav"
CLIPS = (*SPEECH, NOISE)


@functools.cache
def pcm(clip: str) -> bytes:
    """The clip as `pcm_s16le`."""
    path = places.ASSETS / clip
    if path.suffix == ".raw":
        return path.read_bytes()
    with wave.open(str(path)) as recording:
        assert recording.getparams()[:3] == (1, 2, SAMPLE_RATE_HZ), clip
        return recording.readframes(recording.getnframes())


def sample_count(clip: str) -> int:
    return len(pcm(clip)) // 2


def samples(data: bytes) -> np.ndarray:
    """Samples of `pcm_s16le` as f32 in [-1, 1)."""
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32_768)


def chunks(data: bytes, *sizes: int) -> list[bytes]:
    """`data` cut into chunks whose sizes go round in `sizes`."""
    cut, position = [], 0
    while position < len(data):
        size = sizes[len(cut) % len(sizes)]
        cut.append(data[position : position + size])
        position += size
    return cut


def random_chunks(data: bytes, seed: int, size_max: int = 20_000) -> list[bytes]:
    """`data` cut into chunks of random sizes, the same ones for the same seed."""
    sizes = np.random.default_rng(seed).integers(1, size_max, size=len(data) // 2 + 1)
    return chunks(data, *sizes.tolist())
