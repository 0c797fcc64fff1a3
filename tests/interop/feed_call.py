"""A `Feed` whose two directions a test drives by hand."""

import queue

import grpc
from messages import feed_open
from server import PATIENCE_S


class FeedCall:
    """An open call: `send` what goes in, `receive` what comes out."""

    def __init__(self, stub, *messages, timeout_s: float = PATIENCE_S, metadata=None) -> None:
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self.send(*messages)
        self.call = stub.Feed(iter(self._requests.get, None), timeout=timeout_s, metadata=metadata)

    def send(self, *messages) -> None:
        for message in messages:
            self._requests.put(message)

    def half_close(self) -> None:
        self._requests.put(None)

    def cancel(self) -> None:
        self.call.cancel()
        self.half_close()

    def receive(self):
        """The next event."""
        return next(self.call)

    def receive_until(self, kind: str, count: int = 1) -> list:
        """Events up to the `count`-th of a kind."""
        events = []
        while count > 0:
            events.append(self.receive())
            count -= events[-1].WhichOneof("event") == kind
        return events

    def finish(self) -> list:
        """Closes the sending side and returns all remaining events."""
        self.half_close()
        return list(self.call)

    def failure(self) -> grpc.RpcError:
        """The status that ends the call; events before it are ignored."""
        try:
            events = list(self.call)
        except grpc.RpcError as error:
            return error
        finally:
            self.half_close()
        raise AssertionError(f"the stream ended well, with {events[-1:]}")


def opened(stub, *messages, **fields) -> FeedCall:
    """A feed that the server has acknowledged, with its `limits`."""
    feed = FeedCall(stub, feed_open(**fields), *messages)
    first = feed.receive()
    assert first.WhichOneof("event") == "opened"
    feed.limits = first.opened.limits
    return feed
