"""Recordings as bodies of `POST …/upload`: what ffmpeg writes gives the samples and segments that the client commands get from it."""

import http.client
import json
from collections.abc import Iterator

import pytest
from server import PATIENCE_S
from test_recordings import CLIP, FFMPEG, FFMPEG_TO_PIPE, REFUSED, Sent, ffmpeg

PATH = "/tidemill/v1/models/silero-vad/upload"
# Of no format's pieces.
PIECE_BYTES = 7_001


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def upload(server, body: bytes, chunked: bool = False, path: str = PATH) -> tuple[int, dict, http.client.HTTPMessage]:
    """Status, JSON and headers of the answer; the body in one go with its length, or in pieces without."""
    connection = http.client.HTTPConnection(server.http_address, timeout=PATIENCE_S)
    try:
        connection.request("POST", path, pieces(body) if chunked else body, encode_chunked=chunked, headers={"transfer-encoding": "chunked"} if chunked else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers
    finally:
        connection.close()


def check(server, made: bytes) -> None:
    """Both ways give what the command gets from a pipe."""
    expected = Sent(server, "feed", "-", made)
    assert expected.exit_code == 0, expected.notes
    for chunked in (False, True):
        status, answer, headers = upload(server, made, chunked)
        assert (status, headers["content-type"]) == (200, "application/json"), answer
        assert int(answer["summary"]["samples"]) == expected.samples
        found = [(int(segment["startSample"]), int(segment["endSample"])) for segment in answer["segments"]]
        assert found == [(segment["start_sample"], segment["end_sample"]) for segment in expected.segments]


@pytest.mark.parametrize("name", FFMPEG)
def test_a_file(server, tmp_path, name):
    arguments, ending, _ = FFMPEG[name]
    ffmpeg(arguments, tmp_path / f"speech.{ending}")
    check(server, (tmp_path / f"speech.{ending}").read_bytes())


@pytest.mark.parametrize("name", FFMPEG_TO_PIPE)
def test_what_is_written_to_a_pipe(server, name):
    check(server, ffmpeg(FFMPEG_TO_PIPE[name][0], "-", capture_output=True).stdout)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named(server, tmp_path, name):
    arguments, ending, called = REFUSED[name]
    ffmpeg(arguments, tmp_path / f"speech.{ending}")
    status, answer, _ = upload(server, (tmp_path / f"speech.{ending}").read_bytes())
    assert (status, answer["code"]) == (400, 3)
    assert called in answer["message"]


def test_a_picture_before_the_samples_or_after_them(server, tmp_path):
    """Tags may be far longer than what is looked at first, and than what a decoder needs at once."""
    ffmpeg("-write_xing 0 -id3v2_version 0", tmp_path / "speech.mp3")
    mp3 = (tmp_path / "speech.mp3").read_bytes()
    length = 900_000
    sizes = bytes(length >> shift & 0x7F for shift in (21, 14, 7, 0))
    check(server, b"ID3\x04\x00\x00" + sizes + bytes(length) + mp3)
    picture = b"LIST" + length.to_bytes(4, "little") + bytes(length)
    check(server, CLIP.read_bytes() + picture)


def test_a_file_that_is_cut_off(server):
    status, answer, headers = upload(server, CLIP.read_bytes()[:50_000])
    assert status == 200 and int(answer["summary"]["samples"]) == (50_000 - 44) // 2
    assert "is cut off" in headers["x-tidemill-warning"]
