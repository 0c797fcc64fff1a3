"""A stream of LiveKit's STT. Prints the kinds of its events, as a JSON list.

Usage: python realtime_livekit.py BASE_URL KEY FILE_OF_PCM_24_KHZ
"""

import asyncio
import json
import pathlib
import sys

from livekit import rtc
from livekit.agents import stt as agents_stt
from livekit.agents.utils import http_context
from livekit.plugins import openai

PATIENCE_S = 30
RATE_HZ = 24_000


async def main(base_url: str, key: str, path: str) -> None:
    audio = pathlib.Path(path).read_bytes()
    http_context._new_session_ctx()
    recognizer = openai.STT(use_realtime=True, base_url=base_url, api_key=key, model="silero-vad")
    stream = recognizer.stream()
    kinds = []

    async def listen() -> None:
        async for event in stream:
            kinds.append(event.type.value)
            if event.type == agents_stt.SpeechEventType.END_OF_SPEECH:
                return

    listening = asyncio.create_task(listen())
    piece = RATE_HZ // 50 * 2
    for start in range(0, len(audio) - piece, piece):
        stream.push_frame(rtc.AudioFrame(audio[start : start + piece], RATE_HZ, 1, piece // 2))
        await asyncio.sleep(0)
    await listening
    await stream.aclose()
    await recognizer.aclose()
    await http_context._close_http_ctx()
    print(json.dumps(kinds))


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), PATIENCE_S))
