"""One event loop for everything that runs on grpcio's asyncio. It has one queue of events for the process: what a
call of a closed loop leaves in it breaks the next loop, whose calls then wait for ever."""

import asyncio
import atexit
from collections.abc import Coroutine
from typing import TypeVar

from server import PATIENCE_S

Result = TypeVar("Result")

_LOOP = asyncio.new_event_loop()
atexit.register(_LOOP.close)


def run(coroutine: Coroutine[None, None, Result]) -> Result:
    """Like `asyncio.run`. Gives up when several steps, each with its own limit, hang."""
    return _LOOP.run_until_complete(asyncio.wait_for(coroutine, 4 * PATIENCE_S))
