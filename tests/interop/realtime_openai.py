"""A session by the PyPI package openai. Prints the events that came, as a JSON list of lists, one for each way to connect.

Usage: python realtime_openai.py BASE_URL KEY FILE_OF_PCM_24_KHZ
"""

import asyncio
import base64
import json
import pathlib
import sys

import openai

PATIENCE_S = 30
PIECE_BYTES = 4_800


async def talk(key: str, base_url: str, audio: bytes, turns: int) -> list[dict]:
    """The events of a session until so many items are done. Each was checked by the package's own types."""
    client = openai.AsyncOpenAI(api_key=key, base_url=base_url)
    heard = []
    async with client.realtime.connect(model="silero-vad") as connection:
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24_000},
                        "transcription": {"model": "silero-vad", "language": "en"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
                    }
                },
            }
        )
        for start in range(0, len(audio), PIECE_BYTES):
            piece = audio[start : start + PIECE_BYTES]
            await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        async for event in connection:
            heard.append(event.to_dict())
            if sum(event["type"] == "conversation.item.done" for event in heard) == turns:
                break
    return heard


async def main(base_url: str, key: str, path: str) -> None:
    audio = pathlib.Path(path).read_bytes()
    client = openai.AsyncOpenAI(api_key=key, base_url=base_url)
    secret = await client.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60}, session={"type": "transcription"}
    )
    told = [await talk(key, base_url, audio, 1), await talk(secret.value, base_url, audio, 1)]
    try:
        await talk("tm_" + "0" * 64, base_url, audio, 1)
        refused = "none"
    except Exception as error:  # noqa: BLE001: its kind is the package's business
        refused = str(error)
    print(json.dumps({"sessions": told, "refused": refused}))


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), PATIENCE_S))
