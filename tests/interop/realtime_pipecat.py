"""A pipeline with Pipecat's OpenAIRealtimeSTTService. Prints the names of the frames about turns, as a JSON list.

Usage: python realtime_pipecat.py URL KEY FILE_OF_PCM_16_KHZ
"""

import asyncio
import json
import pathlib
import sys

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService
from pipecat.workers.runner import WorkerRunner

PATIENCE_S = 30
RATE_HZ = 16_000
TURNS = (ProposedUserStartedSpeakingFrame, ProposedUserStoppedSpeakingFrame, ErrorFrame)


class Listener(FrameProcessor):
    """Notes the frames about turns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.stopped = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TURNS):
            self.names.append(type(frame).__name__)
        if isinstance(frame, ProposedUserStoppedSpeakingFrame):
            self.stopped.set()
        await self.push_frame(frame, direction)


async def main(url: str, key: str, path: str) -> None:
    audio = pathlib.Path(path).read_bytes()
    service = OpenAIRealtimeSTTService(
        api_key=key,
        base_url=url,
        turn_detection={"type": "server_vad", "silence_duration_ms": 300},
        settings=OpenAIRealtimeSTTService.Settings(model="silero-vad"),
    )
    listener = Listener()
    worker = PipelineWorker(Pipeline([service, listener]), params=PipelineParams(audio_in_sample_rate=RATE_HZ))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    piece = RATE_HZ // 50 * 2
    for start in range(0, len(audio) - piece, piece):
        await worker.queue_frame(InputAudioRawFrame(audio[start : start + piece], RATE_HZ, 1))
        await asyncio.sleep(0.001)
    await listener.stopped.wait()
    await worker.queue_frame(EndFrame())
    await running
    print(json.dumps(listener.names))


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), PATIENCE_S))
