#!/usr/bin/env python3
"""Checks that the models inside the binary give what Silero VAD's official file gives, over an hour of sound. To be run by hand.

    .cache/venv/bin/python tests/silero_equality.py
    .cache/venv/bin/python tests/silero_equality.py --minutes 5 --voices 4
    .cache/venv/bin/python tests/silero_equality.py --recordings FOLDER

For both sampling rates and both engines, one stream of that length goes through a server that has the official file next to the
embedded model: every probability must agree to 1e-4, and none may be on the other side of 0.5. Then Python's onnxruntime runs the
exported file and the official one for 100,000 steps of one stream and for 120 steps at every batch size from 1 to 64, where states
must agree to 5e-4 too.

The sound is speech, louder and quieter, faster and slower, several voices at once, in noise and in echo, with pauses of silence and of
noise between: the recordings of the tests, a minute; those of a folder of WAV files (mono, 16 bits) if one is named, such as two hours of
prompts in Debian's asterisk-core-sounds-en-wav, es, fr, it and ru; and if espeak-ng is installed, voices of 20 languages.

After `tests/run setup` and a build; TIDEMILL_SERVER names a binary other than that of the debug build."""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator

INTEROP = pathlib.Path(__file__).resolve().parent / "interop"
sys.path[:0] = [str(INTEROP), str(INTEROP.parents[1] / ".cache/stubs")]

import audio  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import places  # noqa: E402
from messages import config, probability  # noqa: E402
from server import Server, running  # noqa: E402
from tidemill.v1 import inference_pb2 as pb  # noqa: E402

PROBABILITY_TOLERANCE = 1e-4
STATE_TOLERANCE = 5e-4
LONG_STEPS = 100_000
BATCH_STEPS = 120
BATCHES = range(1, 65)
OFFICIAL = "official"
# Name of the embedded model, by its sampling rate.
EMBEDDED = {16_000: "silero-vad", 8_000: "silero-vad-8k"}
TEXTS = (
    "The tide turns twice a day, and with it turns the mill.",
    "Seventy-three, four hundred and eleven, zero point five; and so on.",
    "Anyone speaking in this room is heard in the next one!",
    "Fish, chips, shoes, thieves, judges: hissing sounds and stops.",
)
LANGUAGES = "en-us en-gb de fr es it pt pl ru tr fi hu el cs nl sv hi vi ar sw".split()


def recordings(folder: pathlib.Path) -> Iterator[np.ndarray]:
    """The recordings of a folder, at 16 kHz. Shorter ones are tones and silence, not speech."""
    for path in sorted(folder.rglob("*.wav")):
        with wave.open(str(path)) as recording:
            channels, width, rate, samples = recording.getparams()[:4]
            if (channels, width) == (1, 2) and samples >= rate:
                yield resampled(audio.samples(recording.readframes(samples)), rate / 16_000).astype(np.float32)


def voices(limit: int, folder: pathlib.Path | None) -> Iterator[np.ndarray]:
    """Speech at 16 kHz in [-1, 1)."""
    for clip in audio.SPEECH:
        yield audio.samples(audio.pcm(clip))
    if folder is not None:
        yield from recordings(folder)
    program = shutil.which("espeak-ng")
    if program is None:
        print("espeak-ng is not installed: the only voices are those of the recordings", file=sys.stderr)
        return
    for at in range(limit):
        language, text = LANGUAGES[at % len(LANGUAGES)], TEXTS[at % len(TEXTS)]
        voice = f"{language}+{'mf'[at % 2]}{1 + at % 4}"
        command = [program, "--stdout", "-v", voice, "-s", str(110 + 7 * (at % 20)), "-p", str(20 + 3 * (at % 20)), text]
        spoken = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout[44:], "<i2") / 32_768
        yield resampled(spoken, 22_050 / 16_000)


def resampled(sound: np.ndarray, step: float) -> np.ndarray:
    """Every `step`-th sample, interpolated in straight lines."""
    return np.interp(np.arange(0, len(sound) - 1, step), np.arange(len(sound)), sound)


def noise(samples: int, chance: np.random.Generator) -> np.ndarray:
    """White, brown, humming, or that of the recordings."""
    white = chance.standard_normal(samples)
    kind = chance.integers(4)
    if kind == 0:
        return white / 3
    if kind == 1:
        brown = np.cumsum(white)
        brown -= np.linspace(brown[0], brown[-1], samples)
        return brown / (np.abs(brown).max() + 1e-9)
    if kind == 2:
        time = np.arange(samples) / 16_000
        return sum(np.sin(2 * np.pi * 50 * over * time) / over for over in range(1, 8)) / 2 + white / 100
    recorded = audio.samples(audio.pcm(audio.NOISE))
    return np.resize(recorded, samples) * 3


def spoken(all_voices: list[np.ndarray], chance: np.random.Generator) -> np.ndarray:
    """One stretch of sound: a voice or two, altered, in noise, and a pause."""
    sound = resampled(all_voices[chance.integers(len(all_voices))], chance.uniform(0.8, 1.25))
    if chance.random() < 0.2:
        other = all_voices[chance.integers(len(all_voices))]
        length = min(len(sound), len(other))
        sound[:length] += chance.uniform(0.2, 1.0) * other[:length]
    if chance.random() < 0.2:
        echo = np.exp(-np.arange(4_800) / 1_200) * chance.standard_normal(4_800) * 0.05
        sound = sound + np.convolve(sound, echo)[: len(sound)]
    pause = np.zeros(int(16_000 * chance.uniform(0.1, 2.0)))
    sound = np.concatenate([sound / (np.abs(sound).max() + 1e-9), pause]) * 10 ** chance.uniform(-2.5, 0)
    if chance.random() < 0.7:
        sound = sound + noise(len(sound), chance) * 10 ** chance.uniform(-4, -0.3)
    return sound


def sounds(minutes: float, limit: int, folder: pathlib.Path | None) -> np.ndarray:
    """This many minutes of sound at 16 kHz, the same each time."""
    chance = np.random.default_rng(2_026)
    all_voices = list(voices(limit, folder))
    parts, samples = [], int(minutes * 60 * 16_000)
    while sum(map(len, parts)) < samples:
        parts.append(spoken(all_voices, chance) if chance.random() < 0.8 else noise(int(chance.uniform(0.5, 5) * 16_000), chance))
    return np.clip(np.concatenate(parts)[:samples], -1, 32_767 / 32_768)


def at_rate(sound: np.ndarray, rate: int) -> bytes:
    """The sound as `pcm_s16le` at this rate."""
    taken = sound if rate == 16_000 else (sound[: len(sound) // 2 * 2].reshape(-1, 2).mean(axis=1))
    return (taken * 32_768).astype("<i2").tobytes()


def fed(server: Server, model: str, pcm: bytes) -> np.ndarray:
    """The probabilities of a feed's windows."""

    def requests() -> Iterator[pb.FeedRequest]:
        yield pb.FeedRequest(open=config(model=model))
        yield from (pb.FeedRequest(chunk=pcm[at : at + 32_768]) for at in range(0, len(pcm), 32_768))

    events = server.inference.Feed(requests())
    return np.array([probability(event.result.outputs) for event in events if event.WhichOneof("event") == "result"])


def write_official(folder: pathlib.Path, rate: int, manifest: str) -> None:
    model = folder / f"{OFFICIAL}-{rate}"
    (model / "6").mkdir(parents=True)
    shutil.copy(places.ASSETS / "silero_vad.onnx", model / "6/model.onnx")
    (model / "model.toml").write_text(manifest)


class Verdict:
    """What was compared, and whether all of it agreed."""

    def __init__(self) -> None:
        self.agrees = True

    def take(self, what: str, steps: int, probabilities: tuple[np.ndarray, np.ndarray], states: float = 0.0) -> None:
        wanted, found = probabilities
        apart = float(np.abs(wanted - found).max())
        flips = int(((wanted > 0.5) != (found > 0.5)).sum())
        agrees = apart <= PROBABILITY_TOLERANCE and states <= STATE_TOLERANCE and flips == 0
        self.agrees &= agrees
        speech = float((wanted > 0.5).mean())
        print(
            f"{'agrees' if agrees else 'DIFFERS'}  {what}: {steps:,} steps, {speech:.0%} speech, probabilities within {apart:.1e}"
            f"{f', states within {states:.1e}' if states else ''}, {flips} on the other side of 0.5",
            flush=True,
        )


def through_servers(sound: np.ndarray, folder: pathlib.Path, verdict: Verdict) -> None:
    for rate, name in EMBEDDED.items():
        manifest = INTEROP.parents[1] / f"src/registry/{name}.toml"
        write_official(folder, rate, manifest.read_text())
    for engine in ("rten", "onnxruntime"):
        settings = ["models.embedded_8khz=true", "models.example=false", f"engine.default={engine}"]
        arguments = ["--models", str(folder), "--onnxruntime", places.onnxruntime()]
        arguments += [word for setting in settings for word in ("--set", setting)]
        with running(*arguments, start_s=120) as server:
            for rate, name in EMBEDDED.items():
                pcm = at_rate(sound, rate)
                probabilities = (fed(server, f"{OFFICIAL}-{rate}", pcm), fed(server, name, pcm))
                verdict.take(f"{rate:,} Hz through a server on {engine}", len(probabilities[0]), probabilities)


def session(file: pathlib.Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])


def directly(sound: np.ndarray, folder: pathlib.Path, steps: int, verdict: Verdict) -> None:
    for rate, name in EMBEDDED.items():
        exported = folder / f"{name}.onnx"
        subprocess.run([places.SERVER, "models", "export", name, exported], check=True, stdout=subprocess.DEVNULL)
        sessions = [session(places.ASSETS / "silero_vad.onnx"), session(exported)]
        window, context = rate * 32 // 1_000, rate * 4 // 1_000
        fresh = np.frombuffer(at_rate(sound, rate), "<i2").astype(np.float32) / np.float32(32_768)
        fresh = np.pad(fresh, (context, 0))
        count = (len(fresh) - context) // window

        def run(batch: int, steps: int) -> tuple[tuple[np.ndarray, np.ndarray], float]:
            states = [np.zeros((2, batch, 128), np.float32) for _ in sessions]
            probabilities = ([], [])
            # Streams begin at different places in the sound.
            places_in_it = (np.arange(batch) * 7_919) % count
            for step in range(steps):
                starts = (places_in_it + step) % count * window
                inputs = np.stack([fresh[start : start + context + window] for start in starts])
                for at, one in enumerate(sessions):
                    output, states[at] = one.run(None, {"input": inputs, "state": states[at], "sr": np.array(rate)})
                    probabilities[at].append(output)
            return tuple(map(np.array, probabilities)), float(np.abs(states[0] - states[1]).max())

        verdict.take(f"{rate:,} Hz, one stream in Python's onnxruntime", steps, *run(1, steps))
        of_batches = [run(batch, BATCH_STEPS) for batch in BATCHES]
        probabilities = tuple(np.concatenate([found[0][at].ravel() for found in of_batches]) for at in range(2))
        states = max(found[1] for found in of_batches)
        verdict.take(f"{rate:,} Hz, batches of 1 to 64", BATCH_STEPS, probabilities, states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of sound [default: 60]")
    parser.add_argument("--voices", type=int, default=80, help="that espeak-ng speaks with [default: 80]")
    parser.add_argument("--recordings", type=pathlib.Path, metavar="FOLDER", help="of WAV files with more speech")
    arguments = parser.parse_args()
    sound = sounds(arguments.minutes, arguments.voices, arguments.recordings)
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as folder:
        models = pathlib.Path(folder, "models")
        models.mkdir()
        through_servers(sound, models, verdict)
        directly(sound, pathlib.Path(folder), int(LONG_STEPS * min(1, arguments.minutes / 60)), verdict)
    sys.exit(0 if verdict.agrees else 1)


if __name__ == "__main__":
    main()
