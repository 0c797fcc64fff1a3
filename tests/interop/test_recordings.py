"""Recordings as ffmpeg and sox write them, to files and to pipes: the same speech is found in all, and what cannot be read is named."""

import json
import struct
import subprocess

import audio
import places
import pytest
import reference
from server import PATIENCE_S

CLIP = places.ASSETS / audio.SHORT_SPEECH
SAMPLES = audio.sample_count(audio.SHORT_SPEECH)

# All of the same speech: ffmpeg's arguments after its input, the file's ending, and by how many samples it may be longer than it was. A
# codec with frames ends with a whole one, unless its file says where the recording ends.
FFMPEG = {
    "wav": ("", "wav", 0),
    "wav of 24 bits": ("-c:a pcm_s24le", "wav", 0),
    "wav of 32 bits": ("-c:a pcm_s32le", "wav", 0),
    "wav of 8 bits": ("-c:a pcm_u8", "wav", 0),
    "wav of floats": ("-c:a pcm_f32le", "wav", 0),
    "wav of doubles": ("-c:a pcm_f64le", "wav", 0),
    "wav of A-law": ("-c:a pcm_alaw", "wav", 0),
    "wav of mu-law": ("-c:a pcm_mulaw", "wav", 0),
    "wav of 44.1 kHz, stereo": ("-ar 44100 -ac 2", "wav", 1),
    "wav of 8 kHz": ("-ar 8000", "wav", 1),
    "wav of 96 kHz, 6 channels": ("-ar 96000 -af pan=5.1|c0=c0|c1=c0|c2=c0|c3=c0|c4=c0|c5=c0 -c:a pcm_s24le", "wav", 1),
    "rf64": ("-rf64 always", "wav", 0),
    "wave64": ("", "w64", 0),
    "aiff": ("", "aiff", 0),
    "aiff-c of floats": ("-c:a pcm_f32be", "aiff", 0),
    "caf": ("", "caf", 0),
    "caf of little-endian samples": ("-c:a pcm_s16le", "caf", 0),
    "caf of A-law": ("-c:a pcm_alaw", "caf", 0),
    "au": ("", "au", 0),
    "flac": ("", "flac", 0),
    "flac of 24 bits and 48 kHz": ("-ar 48000 -sample_fmt s32", "flac", 1),
    "vorbis": ("-c:a libvorbis", "ogg", 0),
    "vorbis of 44.1 kHz, stereo": ("-c:a libvorbis -ar 44100 -ac 2", "ogg", 1),
    "flac in ogg": ("-c:a flac", "oga", 0),
    "mp3": ("-ar 44100", "mp3", 1),
    "mp3 of 16 kHz": ("", "mp3", 32),
    "mp3 without a tag": ("-write_xing 0 -id3v2_version 0", "mp3", 1_200),
    "mp3 with an id3 tag": ("-metadata title=speech -ar 48000 -ac 2", "mp3", 1),
    "m4a": ("-ar 44100", "m4a", 32),
    "m4a of 16 kHz": ("", "m4a", 32),
    "m4a with its index first": ("-ar 48000 -ac 2 -movflags +faststart", "m4a", 32),
    "mp4 in fragments": ("-movflags frag_keyframe+empty_moov", "mp4", 1_024),
    "mp4 of FLAC": ("-c:a flac -strict -2", "mp4", 32),
    "mov of samples": ("-c:a pcm_s16le", "mov", 32),
    "aac": ("-ar 44100", "aac", 1_024),
    "aac of 16 kHz": ("", "aac", 1_024),
}

# What ffmpeg writes to a pipe, where it cannot go back.
FFMPEG_TO_PIPE = {
    "wav": ("-f wav", 0),
    "wave64": ("-f w64", 0),
    "rf64": ("-f wav -rf64 always", 0),
    "aiff": ("-f aiff", 0),
    "au": ("-f au", 0),
    "flac": ("-f flac", 0),
    "vorbis": ("-c:a libvorbis -f ogg", 0),
    "mp3": ("-f mp3", 1_200),
    "aac": ("-f adts", 1_024),
    "mp4 in fragments": ("-f mp4 -movflags frag_keyframe+empty_moov", 1_024),
}

# What sox writes to a file and to a pipe, by its own names for types.
SOX = {
    "wav": ("-t wav", 0),
    "wav of 24 bits": ("-t wav -b 24", 0),
    "wav of floats": ("-t wav -e floating-point -b 32", 0),
    "wav of mu-law": ("-t wav -e mu-law", 0),
    "aiff": ("-t aiff", 0),
    "au": ("-t au", 0),
    "flac": ("-t flac", 0),
    "vorbis": ("-t vorbis", 0),
    "mp3": ("-t mp3", 1_200),
    "wav of 44.1 kHz, stereo": ("-t wav -r 44100 -c 2", 1),
}

# Formats that are known but cannot be read: how they are made, and what they are called.
REFUSED = {
    "opus": ("-c:a libopus -ar 48000", "ogg", "Opus in Ogg"),
    "opus in webm": ("-c:a libopus -ar 48000", "webm", "Matroska or WebM"),
    "matroska": ("-c:a flac", "mka", "Matroska or WebM"),
    "windows media": ("-c:a wmav2 -ar 44100", "wma", "Windows Media"),
    "speex": ("-c:a libspeex", "spx", "Speex in Ogg"),
    "layer II": ("-c:a mp2", "mp2", "MPEG audio layer II"),
    "alac": ("-c:a alac", "m4a", "Apple Lossless (ALAC) in an MP4 file"),
    "opus in mp4": ("-c:a libopus -ar 48000", "mp4", "Opus in an MP4 file"),
    "wavpack": ("-c:a wavpack", "wv", "WavPack"),
    "adpcm": ("-c:a adpcm_ima_wav", "wav", "IMA ADPCM (format 0x0011)"),
    "ac-3 in mp4": ("-c:a ac3 -ar 48000", "mp4", "Dolby AC-3 in an MP4 file"),
}


def ffmpeg(arguments: str, target: str, **options) -> subprocess.CompletedProcess:
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-i", CLIP, *arguments.split(), target]
    return subprocess.run(command, check=True, timeout=PATIENCE_S, **options)


def sox(arguments: str, target: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["sox", "-D", CLIP, *arguments.split(), target], check=True, timeout=PATIENCE_S, **options)


class Sent:
    """How a client command handled a recording."""

    def __init__(self, server, command: str, source, piped: bytes | None = None, stdin=subprocess.DEVNULL) -> None:
        arguments = [places.SERVER, command, source, "--json", "--addr", server.address]
        options = {"stdin": stdin} if piped is None else {"input": piped}
        done = subprocess.run(arguments, capture_output=True, timeout=PATIENCE_S, **options)
        self.exit_code, self.notes = done.returncode, done.stderr.decode()
        records = [json.loads(line) for line in done.stdout.splitlines()]
        self.segments = [record["segment"] for record in records if "segment" in record]
        self.error = next((record["error"]["message"] for record in records if "error" in record), None)
        self.samples = next((record["summary"]["samples"] for record in records if "summary" in record), None)


@pytest.fixture(scope="module")
def expected(server) -> list[dict]:
    """The segments of the original recording."""
    sent = Sent(server, "feed", CLIP)
    assert (sent.exit_code, sent.samples, sent.notes) == (0, SAMPLES, "")
    assert sent.segments
    return sent.segments


def check(sent: Sent, expected: list[dict], longer_by: int) -> None:
    assert (sent.exit_code, sent.error) == (0, None), sent.notes
    assert SAMPLES - min(longer_by, 1) <= sent.samples <= SAMPLES + longer_by, sent.samples
    assert len(sent.segments) == len(expected), sent.segments
    for found, segment in zip(sent.segments, expected, strict=True):
        for end in ("start_sample", "end_sample"):
            assert abs(found[end] - segment[end]) <= reference.WINDOW_SAMPLES, (found, segment)


@pytest.mark.parametrize("name", FFMPEG)
def test_what_ffmpeg_writes_is_read_from_a_file_and_a_pipe(server, expected, tmp_path, name):
    arguments, ending, longer_by = FFMPEG[name]
    # The name says nothing.
    made, recording = tmp_path / f"speech.{ending}", tmp_path / "speech.raw"
    ffmpeg(arguments, made)
    made.rename(recording)
    by_file = Sent(server, "feed", recording)
    check(by_file, expected, longer_by)
    by_pipe = Sent(server, "feed", "-", recording.read_bytes())
    check(by_pipe, expected, longer_by)
    assert (by_pipe.samples, by_pipe.segments) == (by_file.samples, by_file.segments)
    with recording.open("rb") as opened:
        redirected = Sent(server, "feed", "-", stdin=opened)
    assert (redirected.samples, redirected.segments) == (by_file.samples, by_file.segments)


@pytest.mark.parametrize("name", FFMPEG_TO_PIPE)
def test_what_ffmpeg_writes_to_a_pipe_is_read(server, expected, name):
    arguments, longer_by = FFMPEG_TO_PIPE[name]
    made = ffmpeg(arguments, "-", capture_output=True).stdout
    check(Sent(server, "feed", "-", made), expected, longer_by)


@pytest.mark.parametrize("name", SOX)
def test_what_sox_writes_is_read_from_a_file_and_a_pipe(server, expected, tmp_path, name):
    arguments, longer_by = SOX[name]
    recording = tmp_path / "speech"
    sox(arguments, recording)
    check(Sent(server, "feed", recording), expected, longer_by)
    piped = sox(arguments, "-", capture_output=True).stdout
    check(Sent(server, "feed", "-", piped), expected, longer_by)


@pytest.mark.parametrize("command", ["scan", "upload"])
@pytest.mark.parametrize("name", ["wav of 44.1 kHz, stereo", "mp3", "m4a"])
def test_all_commands_read_alike(server, expected, tmp_path, command, name):
    arguments, ending, longer_by = FFMPEG[name]
    recording = tmp_path / f"speech.{ending}"
    ffmpeg(arguments, recording)
    sent = Sent(server, command, recording)
    check(sent, expected, longer_by)
    assert "resampled to 16000 Hz" in sent.notes


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named_with_a_command_that_converts_it(server, expected, tmp_path, name):
    arguments, ending, called = REFUSED[name]
    recording = tmp_path / f"speech.{ending}"
    ffmpeg(arguments, recording)
    for sent in (Sent(server, "feed", recording), Sent(server, "feed", "-", recording.read_bytes())):
        assert sent.exit_code == 2
        assert called in sent.error
        assert "ffmpeg -i" in sent.error
    sent = Sent(server, "feed", recording)
    # The command does what it says.
    command = sent.error.split("convert it: ")[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)
    converted = Sent(server, "feed", tmp_path / "converted.wav")
    assert (converted.exit_code, converted.error, len(converted.segments)) == (0, None, len(expected))


@pytest.mark.parametrize("name", ["wav", "aiff", "caf", "au", "flac", "vorbis", "m4a with its index first", "rf64", "wave64"])
def test_what_there_is_of_a_recording_that_is_cut_off_is_sent_with_a_warning(server, tmp_path, name):
    arguments, ending, _ = FFMPEG[name]
    recording = tmp_path / f"speech.{ending}"
    ffmpeg(arguments, recording)
    cut = recording.read_bytes()
    cut = cut[: len(cut) * 3 // 4]
    recording.write_bytes(cut)
    for sent in (Sent(server, "feed", recording), Sent(server, "feed", "-", cut)):
        assert (sent.exit_code, sent.error) == (1, None), sent.notes
        assert "warning: " in sent.notes and "is cut off" in sent.notes
        # With Ogg, in whole pages of a second.
        assert SAMPLES * 0.3 < sent.samples < SAMPLES * 0.95


# The object type of the decoder's configuration, and the mark of an extension that it ends with.
@pytest.mark.parametrize("changed", [b"\x2c\x08\x56\xe5\x00", b"\x14\x08\x56\xe5\x80"])
def test_he_aac_is_refused_by_name(server, tmp_path, changed):
    """No free encoder writes it, so the header of an AAC-LC file is made to say so."""
    recording, plain = tmp_path / "speech.m4a", b"\x14\x08\x56\xe5\x00"
    ffmpeg("", recording)
    header = recording.read_bytes()
    assert header.count(plain) == 1
    recording.write_bytes(header.replace(plain, changed))
    sent = Sent(server, "feed", recording)
    assert sent.exit_code == 2
    assert "is HE-AAC, which cannot be read; convert it: ffmpeg -i" in sent.error


def packets_of(adts: bytes) -> list[bytes]:
    """The packets of AAC in frames, without the headers."""
    packets = []
    while adts:
        length = (adts[3] & 3) << 11 | adts[4] << 3 | adts[5] >> 5
        packets.append(adts[7:length])
        adts = adts[length:]
    return packets


def with_band_replication(adts: bytes) -> bytes:
    """Frames of AAC, each with a fill element, as would hold spectral band replication, before its end."""
    extended = b""
    for frame in packets_of(adts):
        # Three ones end a frame, and zeros fill its last byte.
        bits = f"{int.from_bytes(frame):0{8 * len(frame)}b}".rstrip("0").removesuffix("111")
        bits += "110" + f"{9:04b}" + f"{13:04b}" + "10" * 34 + "111"
        bits += "0" * (-len(bits) % 8)
        frame, header = int(bits, 2).to_bytes(len(bits) // 8), bytearray(HEADER_OF_16_KHZ)
        length = 7 + len(frame)
        header[3] |= length >> 11
        header[4] = length >> 3 & 0xFF
        header[5] |= length << 5 & 0xFF
        extended += header + frame
    return extended


# For AAC-LC in frames, mono; the length has to be filled in.
HEADER_OF_16_KHZ = b"\xff\xf1\x60\x40\x00\x1f\xfc"


def test_he_aac_that_does_not_say_so_is_refused_too(server, tmp_path):
    recording = tmp_path / "speech.aac"
    ffmpeg("", recording)
    extended = with_band_replication(recording.read_bytes())
    # Unchanged to a decoder that does not know about it.
    subprocess.run(["ffmpeg", "-v", "error", "-xerror", "-f", "aac", "-i", "-", "-f", "null", "-"], input=extended, check=True)
    sent = Sent(server, "feed", "-", extended)
    assert sent.exit_code == 2
    assert "is HE-AAC (AAC with spectral band replication), which cannot be read" in sent.error


def caf_of_aac(adts: bytes, m4a: bytes) -> bytes:
    """What Apple's programs write: the table of packets comes after them, and the decoder's configuration is as in an M4A file."""
    packets, at = packets_of(adts), m4a.index(b"esds")
    configuration = m4a[at + 8 : at - 4 + int.from_bytes(m4a[at - 4 : at])]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack(">q", len(content)) + content

    def size(packet: bytes) -> bytes:
        return bytes([0x80 | len(packet) >> 7, len(packet) & 0x7F])

    priming = 1_024
    counts = struct.pack(">qqii", len(packets), SAMPLES, priming, len(packets) * 1_024 - priming - SAMPLES)
    return (
        b"caff\0\1\0\0"
        + chunk(b"desc", struct.pack(">d4sIIIII", 16_000, b"aac ", 2, 0, 1_024, 1, 0))
        + chunk(b"kuki", configuration)
        + chunk(b"data", b"\0\0\0\0" + b"".join(packets))
        + chunk(b"pakt", counts + b"".join(map(size, packets)))
    )


def test_aac_in_caf_is_read_though_its_table_of_packets_comes_last(server, expected, tmp_path):
    ffmpeg("", tmp_path / "speech.aac")
    ffmpeg("", tmp_path / "speech.m4a")
    caf = caf_of_aac(*((tmp_path / f"speech.{ending}").read_bytes() for ending in ("aac", "m4a")))
    recording = tmp_path / "speech.caf"
    recording.write_bytes(caf)
    check(Sent(server, "feed", recording), expected, 0)
    check(Sent(server, "feed", "-", caf), expected, 0)


def test_several_recordings_in_a_row_are_one(server, expected, tmp_path):
    """Formats that have no beginning, and Ogg, which has several."""
    for arguments, ending in (("", "mp3"), ("-c:a libvorbis", "ogg"), ("", "aac")):
        recording = tmp_path / f"speech.{ending}"
        ffmpeg(arguments, recording)
        sent = Sent(server, "feed", "-", recording.read_bytes() * 2)
        assert (sent.exit_code, len(sent.segments)) == (0, 2 * len(expected)), (ending, sent.notes)
        assert 2 * SAMPLES <= sent.samples <= 2 * SAMPLES + 4_096, ending
