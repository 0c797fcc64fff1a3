"""Four live microphones on their own connection: a chunk every 32 ms, timed from the moment when it was due.

`bystander.py GRPC [SOURCE]`. Prints `live` once all of them are answered, ends with its standard input, then prints what it saw
as JSON. Every chunk is a window, so every chunk has a result; a late answer does not delay later chunks."""

import heapq
import json
import select
import sys
import time

import http2
import wire

FEEDS = 4
INTERVAL_S = wire.WINDOW_SAMPLES / 16_000
# Chunks of each feed that are not timed: connections and caches warm up.
WARM_UP = 16
# A feed is live after this many answers.
LIVE = 3
LAST_WORD_S = 20


def main(address: str, source: str = "127.0.0.1") -> None:
    connection = http2.Connection(address, source=source)
    feeds = [connection.open(wire.FEED) for _ in range(FEEDS)]
    for feed in feeds:
        connection.message(feed, wire.feed_open())
    chunk = wire.feed_chunk(bytes(wire.WINDOW_BYTES))
    begin = time.monotonic() + 0.05
    # Not all at one moment: four people do not speak in step.
    due = [(begin + index * INTERVAL_S / FEEDS, index) for index in range(FEEDS)]
    heapq.heapify(due)
    dues: list[list[float]] = [[] for _ in feeds]
    latencies: list[float] = []
    answered = [0] * FEEDS
    errors = late = 0
    poller = select.poll()
    poller.register(connection.wire.socket, select.POLLIN)
    poller.register(sys.stdin, select.POLLIN | select.POLLHUP)
    live = said = False
    stop = False

    def take() -> None:
        nonlocal errors
        now = time.monotonic()
        for index, feed in enumerate(feeds):
            state = connection.streams[feed]
            for message in state.messages:
                for result in wire.members(message).get(2, ()):
                    found = wire.members(result)
                    number = found.get(1, [0])[0]
                    answered[index] += 1
                    errors += 4 not in found
                    if number >= WARM_UP:
                        latencies.append(now - dues[index][number])
            state.messages.clear()

    while not stop and not connection.closed:
        moment, index = due[0]
        wait = moment - time.monotonic()
        if wait <= 0:
            heapq.heapreplace(due, (moment + INTERVAL_S, index))
            dues[index].append(moment)
            late += wait < -0.001
            connection.message(feeds[index], chunk, patience=0)
            continue
        for descriptor, _ in poller.poll(wait * 1_000):
            if descriptor == sys.stdin.fileno():
                stop = True
            elif connection.pump():
                take()
        live = live or min(answered) > LIVE
        if live and not said:
            said = True
            print("live", flush=True)
    for feed in feeds:
        connection.data(feed, b"", True)
    connection.wait_until(lambda: all(connection.streams[feed].ended for feed in feeds), LAST_WORD_S)
    take()
    latencies.sort()

    def quantile(share: float) -> float | None:
        return round(1_000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))], 2) if latencies else None

    seen = {"offered": sum(map(len, dues)), "answered": sum(answered), "errors": errors, "late_sends": late}
    seen |= {"codes": sorted({connection.streams[feed].code for feed in feeds}), "goaway": connection.goaway}
    seen |= {"p50_ms": quantile(0.5), "p99_ms": quantile(0.99), "max_ms": quantile(1.0)}
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
