"""Bytes of protobuf, gRPC and compression, written by hand: libraries would refuse to write most of what is sent here."""

import gzip
import struct
import zlib

FLOAT = struct.Struct("<f")

# Methods, by the names that the attacks use.
FEED = "/tidemill.v1.InferenceService/Feed"
SCAN = "/tidemill.v1.InferenceService/Scan"
UPLOAD = "/tidemill.v1.InferenceService/Upload"
PREDICT = "/tidemill.v1.InferenceService/Predict"
LIST_MODELS = "/tidemill.v1.ModelService/ListModels"
GET_MODEL = "/tidemill.v1.ModelService/GetModel"
EXAMPLE = "/model.ModelInference/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def open_inference(method: str) -> str:
    return f"/inference.GRPCInferenceService/{method}"


SPEECH = "silero-vad"
NUMBERS = "example_model"
# New samples and bytes of one window of the speech model.
WINDOW_SAMPLES = 512
WINDOW_BYTES = 2 * WINDOW_SAMPLES
SPEECH_INPUT = 576

TENSORS, PCM = 1, 2
FP32, BYTES = 11, 14
HIGH, NORMAL, LOW = 1, 2, 3

MESSAGE_BYTES_MAX = 16 << 20


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes | str) -> bytes:
    """A member with a length: a message, a string or bytes."""
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def members(message: bytes) -> dict[int, list]:
    """The members of a message by field: numbers, or bytes."""
    found: dict[int, list] = {}
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(message):
        key = read()
        match key & 7:
            case 0:
                value = read()
            case 1:
                value, at = message[at : at + 8], at + 8
            case 2:
                length = read()
                value, at = message[at : at + length], at + length
            case 5:
                value, at = message[at : at + 4], at + 4
            case kind:
                raise ValueError(f"wire type {kind} of field {key >> 3}")
        found.setdefault(key >> 3, []).append(value)
    return found


# ---- gRPC -----------------------------------------------------------------------------------------------------------------


def framed(message: bytes, compressed: bool = False, announced: int | None = None) -> bytes:
    """A message with its prefix, which may announce a length other than its own."""
    return struct.pack(">BI", compressed, len(message) if announced is None else announced) + message


class Messages:
    """Takes messages out of the bytes of a stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def push(self, data: bytes) -> list[bytes]:
        self._bytes += data
        out = []
        while len(self._bytes) >= 5:
            end = 5 + int.from_bytes(self._bytes[1:5], "big")
            if len(self._bytes) < end:
                break
            out.append(bytes(self._bytes[5:end]))
            del self._bytes[:end]
        return out


# ---- Messages -------------------------------------------------------------------------------------------------------------


def tensor(name: str, shape: list[int], data: bytes, datatype: int = FP32) -> bytes:
    return part(1, name) + number(2, datatype) + part(3, b"".join(map(varint, shape))) + part(4, data)


def item(*tensors: bytes, id: str = "", deadline_ns: int | None = None) -> bytes:
    out = part(1, id) if id else b""
    out += b"".join(part(2, one) for one in tensors)
    if deadline_ns is not None:
        out += part(3, duration(deadline_ns))
    return out


def duration(nanoseconds: int) -> bytes:
    seconds, rest = divmod(nanoseconds, 10**9)
    return number(1, seconds) + number(2, rest)


def speech_item(**fields) -> bytes:
    return item(tensor("input", [SPEECH_INPUT], bytes(4 * SPEECH_INPUT)), **fields)


def stream_config(model: str = SPEECH, payload: int = PCM, window: int = 0, priority: int = 0, version: str = "") -> bytes:
    out = part(1, model) + number(3, payload)
    out += part(2, version) if version else b""
    out += number(5, window) if window else b""
    return out + (number(10, priority) if priority else b"")


def feed_open(**fields) -> bytes:
    return part(1, stream_config(**fields))


def feed_chunk(samples: bytes) -> bytes:
    return part(3, samples)


FLUSH = part(4, b"")
KEEPALIVE = part(5, b"")


def predict_audio(samples: bytes = bytes(WINDOW_BYTES), model: str = SPEECH) -> bytes:
    return part(1, model) + part(4, samples)


def predict_item(one: bytes, model: str = SPEECH) -> bytes:
    return part(1, model) + part(3, one)


def scan_audio(samples: bytes, model: str = SPEECH) -> bytes:
    return part(1, stream_config(model)) + part(3, samples)


def example(*numbers: float) -> bytes:
    return part(1, NUMBERS) + part(2, struct.pack(f"<{len(numbers)}d", *numbers))


def parameter(name: str, **value) -> bytes:
    """An entry of a map of parameters: `boolean`, `integer` or `text`."""
    match value:
        case {"boolean": choice}:
            content = number(1, choice)
        case {"integer": choice}:
            content = number(2, choice)
        case {"text": choice}:
            content = part(3, choice)
    return part(1, name) + part(2, content)


def infer(
    model: str, shape: list[int], data: bytes, *, name: str = "input", id: str = "", parameters: tuple[bytes, ...] = ()
) -> bytes:
    """A ModelInferRequest with raw contents."""
    one = part(1, name) + part(2, "FP32") + part(3, b"".join(map(varint, shape)))
    out = part(1, model) + (part(3, id) if id else b"") + b"".join(part(4, entry) for entry in parameters)
    return out + part(5, one) + part(7, data)


def sequence_step(sequence: int, start: bool = False, end: bool = False) -> bytes:
    """A step of a sequence of the speech model."""
    marks = (
        parameter("sequence_id", integer=sequence),
        parameter("sequence_start", boolean=start),
        parameter("sequence_end", boolean=end),
    )
    return infer(SPEECH, [1, SPEECH_INPUT], bytes(4 * SPEECH_INPUT), parameters=marks)


# ---- Compression ----------------------------------------------------------------------------------------------------------

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 << 10


def zstd_repeated(pattern: bytes, count: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A Zstandard frame of `before`, `count` times `pattern`, and `after`, taking a few bytes for each 128 KiB.

    The whole is cut into blocks of the same one byte (RLE), or of a pattern and a match that copies it on. No library is asked for
    it: what they write is not known to be this small."""
    # No content size, no checksum; a window as large as a block.
    out = bytearray(_ZSTD_MAGIC + bytes([0, 7 << 3]))
    blocks = [(0, before)] if before else []
    left = len(pattern) * count
    while left:
        size = min(left, _ZSTD_BLOCK - _ZSTD_BLOCK % len(pattern))
        blocks.append(_zstd_repetition(pattern, size))
        left -= size
    if after:
        blocks.append((0, after))
    for index, (kind, content) in enumerate(blocks):
        size = len(content)
        if kind == 1:
            content, size = content[:1], int.from_bytes(content[1:], "little")
        header = (size << 3) | (kind << 1) | (index == len(blocks) - 1)
        out += header.to_bytes(3, "little") + content
    return bytes(out)


def _zstd_repetition(pattern: bytes, size: int) -> tuple[int, bytes]:
    """A block of `size` bytes: its kind, and its content."""
    if len(set(pattern)) == 1:
        return 1, pattern[:1] + size.to_bytes(4, "little")
    extra_bits = {
        52: (65_539, 16),
        51: (32_771, 15),
        50: (16_387, 14),
        49: (8_195, 13),
        48: (4_099, 12),
        47: (2_051, 11),
        46: (1_027, 10),
    }
    match = size - len(pattern)
    code = next((code for code, (base, _) in extra_bits.items() if base <= match), None)
    if code is None or len(pattern) > 15:
        return 0, pattern * (size // len(pattern))
    base, bits = extra_bits[code]
    literals = bytes([len(pattern) << 3]) + pattern
    # One sequence whose three codes are each the only one in their tables: the bit stream holds nothing but its extra bits. Literal lengths
    # below 16 are their own codes; an offset is written as itself plus three.
    offset = len(pattern) + 3
    offset_code = offset.bit_length() - 1
    stream = (match - base) | (offset - (1 << offset_code)) << bits
    marked = stream | 1 << (bits + offset_code)
    sequence = bytes([1, 0b01_01_01_00, len(pattern), offset_code, code])
    return 2, literals + sequence + marked.to_bytes((marked.bit_length() + 7) // 8, "little")


def zeros(size: int, encoding: str) -> bytes:
    """This many zeros, as small as possible."""
    match encoding:
        case "zstd":
            return zstd_repeated(b"\0", size)
        case "gzip":
            return _deflated(size, 31)
        case "deflate":
            return _deflated(size, 15)
    raise ValueError(encoding)


def _deflated(size: int, window_bits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    block = bytes(1 << 20)
    out = [packer.compress(block[: min(len(block), size - at)]) for at in range(0, size, len(block))]
    return b"".join(out) + packer.flush()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)
