"""Converts a 48 kHz mono 16-bit recording to the 16 kHz that the speech model takes."""

import sys
import wave

import numpy as np

FACTOR = 3
# The taps on either side of a windowed sinc that cuts off just below the new Nyquist frequency.
HALF_TAPS = 96
CUT_OFF = 0.95


def main(source: str, target: str) -> None:
    with wave.open(source) as recording:
        assert recording.getparams()[:3] == (1, 2, 48_000), f"{source}: not 48 kHz mono 16-bit audio"
        samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2").astype(np.float64)
    taps = np.sinc(np.arange(-HALF_TAPS, HALF_TAPS + 1) / FACTOR * CUT_OFF) * np.hamming(2 * HALF_TAPS + 1)
    low_passed = np.convolve(samples, taps / taps.sum(), "same")[::FACTOR]
    with wave.open(target, "wb") as recording:
        recording.setparams((1, 2, 16_000, 0, "NONE", None))
        recording.writeframes(np.clip(np.rint(low_passed), -32_768, 32_767).astype("<i2").tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
