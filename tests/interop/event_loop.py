"""One event loop for all that runs on grpcio's asyncio. Its queue of events is one for the process: what a call of a loop that is
closed has left in it breaks the next loop, whose calls then wait for ever."""

import asyncio
import atexit
from collections.abc import Coroutine
from typing import TypeVar

from server import PATIENCE_S

Result = TypeVar("Result")

_LOOP = asyncio.new_event_loop()
atexit.register(_LOOP.close)


def run(coroutine: Coroutine[None, None, Result]) -> Result:
    """Like `asyncio.run`. Gives up where several steps, each with a limit of its own, hang."""
    return _LOOP.run_until_complete(asyncio.wait_for(coroutine, 4 * PATIENCE_S))
