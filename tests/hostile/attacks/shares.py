"""One client uses up what everybody shares: streams, sequences, the queue, tenants. Others come from another address and are served."""

import collections
import json
import time
from collections.abc import Iterator

import http1
import http2
import wire
from attack import MIB, Report, Target, attack, expect, expect_codes, told
from http2 import Connection
from ledger import scrape, series, total

SECTION = "Shares"
ATTACKER, OTHER = "127.0.0.2", "127.0.0.3"


def others_are_served(target: Target, rounds: int = 10) -> str:
    """Another client's unary calls and feed, while an attack holds what it holds."""
    connection = Connection(target.grpc, source=OTHER)
    codes = collections.Counter(connection.call(wire.EXAMPLE, wire.example(1.0)).code for _ in range(rounds))
    expect(codes == {"0": rounds}, f"another client's calls ended with {told(codes)}")
    feed = connection.open(wire.FEED)
    connection.message(feed, wire.feed_open())
    connection.message(feed, wire.feed_chunk(bytes(4 * wire.WINDOW_BYTES)), True)
    state = connection.wait(feed)
    expect(state.code == "0", f"another client's feed ended with {state.code} {state.message}")
    connection.close()
    return f"another client's {rounds} calls and feed are served"


def open_feeds(connection: Connection, count: int, **opening) -> list[int]:
    feeds = [connection.open(wire.FEED) for _ in range(count)]
    for feed in feeds:
        connection.message(feed, wire.feed_open(**opening))
    return feeds


def rounds_of(connection: Connection, feeds: list[int], data: bytes, seconds: float) -> Iterator[None]:
    """Sends this on each of the feeds that has room for it, and takes in what has come, until the time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not connection.closed:
        for feed in feeds:
            connection.data(feed, data, patience=0)
        connection.pump()
        yield


@attack(SECTION, "session.max_streams=2000", "sequence.idle_timeout_s=60", rest_s=30, patience_s=120)
def unary_sequences_that_never_end(target: Target) -> Report:
    """Sequences over unary calls: a share of the streams at most, and gone soon after the connection is."""
    connections = [Connection(target.grpc, source=ATTACKER) for _ in range(2)]
    codes: collections.Counter = collections.Counter()
    for index, connection in enumerate(connections):
        numbers = range(1 + index * 10_000, 1 + index * 10_000 + 1_100)
        codes += connection.calls(wire.INFER, (wire.sequence_step(number, start=True) for number in numbers))
    did = f"{expect_codes(codes, '0', '8')}; {others_are_served(target)}"
    expect(codes["8"], f"2,200 sequences with session.max_streams=2000: {told(codes)}")
    for connection in connections:
        connection.close()
    return Report("2,200 sequences begun, 2,000 streams allowed", did, units=8 * codes["0"])


@attack(SECTION, "session.max_streams=2000", "sequence.idle_timeout_s=60", rest_s=30)
def sequences_of_many_connections(target: Target) -> Report:
    """Each begins on its own connection, which then closes: `Connection: close` between the steps is allowed, abandoning them is not."""

    def step(sequence: int, **marks: bool) -> int:
        parameters = {"sequence_id": sequence} | {f"sequence_{name}": value for name, value in marks.items()}
        document = {
            "parameters": parameters,
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 576], "data": [0] * 576}],
        }
        body = json.dumps(document).encode()
        return http1.once(
            target.http,
            "POST",
            "/v2/models/silero-vad/infer",
            body,
            {"connection": "close", "content-type": "application/json"},
            source=ATTACKER,
        ).status

    kept = [step(1, start=True), step(1), step(1, end=True)]
    expect(kept == [200, 200, 200], f"a sequence whose steps each have their own connection: {kept}")
    codes = collections.Counter(step(number, start=True) for number in range(2, target.times(400, 60)))
    expect(set(codes) <= {200, 429}, told(codes))
    return Report(
        f"{codes.total()} sequences, a connection each", f"{told(codes)}; {others_are_served(target)}", units=8 * codes.total()
    )


@attack(SECTION)
def sequences_of_one_step(target: Target) -> Report:
    connection = Connection(target.grpc, source=ATTACKER)
    count = target.times(60_000, 500)
    codes = connection.calls(
        wire.INFER, (wire.sequence_step(10**9 + number, start=True, end=True) for number in range(count)), patience=60
    )
    connection.close()
    return Report(f"{count:,} sequences", expect_codes(codes, "0", "8"), units=count)


@attack(SECTION)
def sequences_of_one_stream(target: Target) -> Report:
    connection = Connection(target.grpc, source=ATTACKER)
    stream = connection.open(wire.STREAM_INFER)
    for number in range(1, 1_101):
        connection.message(stream, wire.sequence_step(number, start=True))
    connection.wait_until(lambda: len(connection.streams[stream].messages) >= 1_100, 30)
    refused = [message for message in connection.streams[stream].messages if b"sequence.max_per_stream" in message]
    expect(len(refused) == 76, f"{len(refused)} of 1,100 were refused by sequence.max_per_stream (1,024)")
    connection.close()
    return Report("1,100 sequences", "1,024, then the limit by name", units=8 * 1_100)


@attack(SECTION, "session.max_streams=2000")
def silent_feeds(target: Target) -> Report:
    """More feeds than allowed, which open and say nothing more."""
    connections = [Connection(target.grpc, source=ATTACKER) for _ in range(3)]
    block = http2.header_block(http2.call_fields(wire.FEED))
    opening = wire.framed(wire.feed_open())
    for connection in connections:
        for _ in range(7):
            streams = [connection.new_stream() for _ in range(100)]
            connection.send(
                b"".join(http2.headers(stream, block) + http2.frame(http2.DATA, 0, stream, opening) for stream in streams)
            )
            connection.pump()
    for connection in connections:
        connection.wait_until(
            lambda connection=connection: all(stream.messages or stream.ended for stream in connection.streams.values())
        )
    did = others_are_served(target)
    codes = sum((connection.codes() for connection in connections), collections.Counter())
    expect(set(codes) <= {"open", "8"} and codes["8"], told(codes))
    for connection in connections:
        connection.close()
    return Report("2,100 feeds on 3 connections, 2,000 streams allowed", f"{told(codes)}; {did}", units=8 * 2_100)


@attack(SECTION, "session.max_streams=2000", "session.tenant_metadata=x-tenant")
def feeds_of_many_tenants(target: Target) -> Report:
    """A name for each stream does not gain a bigger share."""
    connection = Connection(target.grpc, source=ATTACKER)
    opening = wire.framed(wire.feed_open())
    for number in range(2_100):
        stream = connection.open(wire.FEED, (("x-tenant", f"tenant-{number}"),))
        connection.send(http2.frame(http2.DATA, 0, stream, opening))
        connection.pump()
    connection.wait_until(lambda: all(stream.messages or stream.ended for stream in connection.streams.values()))
    did = others_are_served(target)
    codes = connection.codes()
    expect(codes["8"], told(codes))
    connection.close()
    return Report("2,100 feeds of as many tenants", f"{told(codes)}; {did}", units=8 * 2_100)


@attack(SECTION, "session.tenant_metadata=x-tenant")
def tenants_without_number(target: Target) -> Report:
    connection = Connection(target.grpc, source=ATTACKER)
    count = target.times(200_000, 2_000)
    codes: collections.Counter = collections.Counter()
    for number in range(0, count, 100):
        streams = []
        for index in range(100):
            stream = connection.open(wire.EXAMPLE, (("x-tenant", f"tenant-{number + index}"),))
            connection.message(stream, wire.example(1.0), True)
            streams.append(stream)
        codes += connection.wait_all(streams)
        for stream in streams:
            del connection.streams[stream]
    connection.close()
    return Report(f"{count:,} names", expect_codes(codes, "0"), units=count // 10)


def fill_the_queue(target: Target, priority: int) -> Report:
    """80 feeds of one connection with windows of 1,024: more than the queue holds. Other clients' calls to another model succeed."""
    connection = Connection(target.grpc, source=ATTACKER, keeps_messages=False)
    feeds = open_feeds(connection, 80, window=1_024, priority=priority)
    chunk = wire.framed(wire.feed_chunk(bytes(64 * wire.WINDOW_BYTES)))
    other = Connection(target.grpc, source=OTHER)
    codes: collections.Counter = collections.Counter()
    for _ in rounds_of(connection, feeds, chunk, max(3, target.seconds)):
        codes[other.call(wire.EXAMPLE, wire.example(1.0), patience=20).code] += 1
    expect(connection.goaway is None, f"GOAWAY {connection.goaway} {connection.goaway_text}")
    connection.close()
    other.close()
    expect(set(codes) == {"0"}, f"another client's calls to another model: {told(codes)}")
    return Report("80 feeds with windows of 1,024", f"{codes.total()} calls from another client are served", units=65_536 + 8 * 80)


QUEUE = "scheduler.max_queued_items=2048", "scheduler.max_queued_items_per_model=2048"


@attack(SECTION, *QUEUE)
def a_queue_filled_at_low(target: Target) -> Report:
    return fill_the_queue(target, wire.LOW)


@attack(SECTION, *QUEUE)
def a_queue_filled_at_normal(target: Target) -> Report:
    return fill_the_queue(target, wire.NORMAL)


@attack(SECTION, *QUEUE)
def a_queue_filled_at_high(target: Target) -> Report:
    return fill_the_queue(target, wire.HIGH)


@attack(SECTION)
def feeds_that_do_not_read(target: Target) -> Report:
    connection = Connection(target.grpc, window=0, source=ATTACKER)
    item = wire.framed(wire.part(2, wire.item(wire.tensor("inputs", [8_192], bytes(65_536), 12))))
    feeds = open_feeds(connection, target.times(60, 12), model=wire.NUMBERS, payload=wire.TENSORS, window=1_024)
    sent = sum(connection.data(feed, item * 16, patience=0.2) for feed in feeds)
    did = others_are_served(target)
    connection.close()
    return Report(f"{len(feeds)} feeds, {sent >> 20} MiB taken", did, units=1_024)


@attack(SECTION)
def large_items(target: Target) -> Report:
    body = wire.predict_item(wire.item(wire.tensor("inputs", [524_288], bytes(4 * MIB), 12)), wire.NUMBERS)
    connections = [Connection(target.grpc, source=ATTACKER, keeps_messages=False) for _ in range(4)]
    found: collections.Counter = collections.Counter()
    until = time.monotonic() + target.seconds
    while time.monotonic() < until and found.total() < target.times(1_400, 12):
        streams = [(connection, connection.open(wire.PREDICT)) for connection in connections]
        for connection, stream in streams:
            connection.message(stream, body, True)
        found.update(connection.wait(stream, 20).code for connection, stream in streams)
    for connection in connections:
        connection.close()
    return Report(f"{found.total()} items of 4 MiB by 4 callers", expect_codes(found, "0", "8"), units=4)


@attack(SECTION)
def small_messages_of_a_client_that_keeps_all_rules(target: Target) -> Report:
    """Messages of 30 to 700 bytes, each in its own frame, within all windows; the client does not read yet: the connection stays."""
    done = []
    for feeds, size in ((5, 30), (60, 700)):
        connection = Connection(target.grpc, window=0, source=ATTACKER)
        streams = open_feeds(connection, feeds, model=wire.NUMBERS, payload=wire.TENSORS)
        elements = max(1, (size - 22) // 8)
        one = wire.framed(wire.part(2, wire.item(wire.tensor("inputs", [elements], bytes(8 * elements), 12))))
        sent, until, more = 0, time.monotonic() + 15, True
        while time.monotonic() < until and more and not connection.closed:
            before = sent
            for feed in streams:
                for _ in range(200):
                    sent += connection.data(feed, one, patience=0) == len(one)
            more = sent > before or connection.pump(0.5)
            connection.pump()
            expect(
                connection.goaway is None,
                f"{feeds} feeds of {len(one)} bytes lost their connection after {sent:,}: GOAWAY {connection.goaway} {connection.goaway_text}",
            )
        done.append(f"{feeds} x {sent // feeds:,} of {len(one)} bytes")
        connection.close()
    return Report("; ".join(done), "held back, nothing lost", units=64 * 64)


@attack(SECTION)
def many_stalled_streams_read_all_the_time(target: Target) -> Report:
    """64 feeds of small messages on one connection, whose client reads everything, as grpcio does."""
    connection = Connection(target.grpc, source=ATTACKER)
    streams = open_feeds(connection, 64, model=wire.NUMBERS, payload=wire.TENSORS, window=1_024)
    one = wire.framed(wire.part(2, wire.item(wire.tensor("inputs", [4], bytes(32), 12))))
    sent = dict.fromkeys(streams, 0)
    until = time.monotonic() + max(4, 1.5 * target.seconds)
    while time.monotonic() < until and not connection.closed:
        for feed in streams:
            for _ in range(30):
                sent[feed] += connection.data(feed, one, patience=0) == len(one)
        connection.pump()
    expect(
        connection.goaway is None, f"GOAWAY {connection.goaway} {connection.goaway_text} after {sum(sent.values()):,} messages"
    )
    for feed in streams:
        connection.data(feed, b"", True)
    codes = connection.wait_all(streams, 60)
    answered = {feed: sum(2 in wire.members(message) for message in connection.streams[feed].messages) for feed in streams}
    connection.close()
    expect(
        codes == {"0": 64} and answered == sent, f"{told(codes)}; {sum(answered.values()):,} of {sum(sent.values()):,} answered"
    )
    return Report(f"64 feeds, {sum(sent.values()):,} messages of {len(one)} bytes", "every one answered", units=64 * 1_024)


@attack(SECTION, patience_s=90)
def silent_reflection_and_watches(target: Target) -> Report:
    """Streams other than feeds are counted too, and each of them ends."""
    count = target.times(5_000, 200)
    connection = Connection(target.grpc, source=ATTACKER)
    for path in (wire.REFLECTION, wire.HEALTH_WATCH):
        block = http2.header_block(http2.call_fields(path))
        body = b"" if path == wire.REFLECTION else wire.framed(b"")
        for _ in range(0, count, 100):
            streams = [connection.new_stream() for _ in range(100)]
            frames = (
                http2.headers(stream, block) + (http2.frame(http2.DATA, http2.END_STREAM, stream, body) if body else b"")
                for stream in streams
            )
            connection.send(b"".join(frames))
            connection.pump()
    connection.wait_until(lambda: all(stream.fields or stream.ended for stream in connection.streams.values()), 30)
    text = scrape(target.admin)
    counted = max(total(text, name) for name in ("tidemill_streams_open", "tidemill_calls_open"))
    live = sum(not stream.ended for stream in connection.streams.values())
    did = others_are_served(target)
    connection.close()
    expect(counted >= 0.9 * live, f"{live} streams are open, {counted:.0f} are counted")
    return Report(f"{count} of either", f"{live} open, {counted:.0f} counted; {did}", units=16 * count)


@attack(SECTION, held_max=256 * MIB)
def watches_of_long_names(target: Target) -> Report:
    connection = Connection(target.grpc, source=ATTACKER)
    body = wire.part(1, "n" * (4 * MIB - 100))
    count = target.times(200, 20)
    for _ in range(count):
        connection.message(connection.open(wire.HEALTH_WATCH), body, True, patience=5)
    codes = connection.wait_all(patience=3)
    connection.close()
    return Report(f"{count} names of 4 MiB", told(codes), units=8 * count)


@attack(SECTION)
def reflection_questions(target: Target) -> Report:
    connection = Connection(target.grpc, source=ATTACKER, keeps_messages=False)
    stream = connection.open(wire.REFLECTION)
    block = wire.framed(wire.part(4, "inference.GRPCInferenceService")) * 50
    sent, until = 0, time.monotonic() + target.seconds
    while (
        time.monotonic() < until
        and sent < target.times(70_000)
        and not connection.closed
        and not connection.streams[stream].ended
    ):
        if connection.data(stream, block, patience=2) < len(block):
            break
        sent += 50
    expect(connection.streams[stream].code in ("open", "0", "8", "12"), connection.streams[stream].code)
    connection.close()
    return Report(f"{sent:,} questions", connection.streams[stream].code)


@attack(SECTION)
def watches_that_come_and_go(target: Target) -> Report:
    connection = Connection(target.grpc, source=ATTACKER)
    rounds = target.times(20_000, 400)
    for _ in range(0, rounds, 20):
        streams = [connection.open(wire.HEALTH_WATCH) for _ in range(20)]
        for stream in streams:
            connection.message(stream, wire.part(1, wire.SPEECH), True)
        connection.wait_until(
            lambda streams=streams: all(
                connection.streams[stream].messages or connection.streams[stream].ended for stream in streams
            ),
            5,
        )
        connection.send(b"".join(map(http2.reset, streams)))
        if connection.closed or connection.goaway:
            break
    expect(connection.goaway in (None, http2.ENHANCE_YOUR_CALM), connection.goaway)
    connection.close()
    return Report(f"{rounds:,} watches", "answered and dropped", units=64)


@attack(SECTION)
def unknown_names(target: Target) -> Report:
    """Names that clients make up become labels of no metric."""
    connection = Connection(target.grpc, source=ATTACKER)
    # Series that begin with their first value exist from now on.
    connection.call(wire.PREDICT, wire.predict_audio(model="nobody"))
    connection.call(wire.INFER, wire.infer("nobody", [1], bytes(4)))
    connection.call("/nobody.Service/Nothing", b"")
    http1.once(target.http, "GET", "/v2/models/nobody/ready")
    before = series(scrape(target.admin))
    count = target.times(3_000, 100)
    codes = connection.calls(wire.PREDICT, (wire.predict_audio(model=f"model-{number}") for number in range(count)))
    codes += connection.calls(wire.INFER, (wire.infer(f"model-{number}", [1], bytes(4)) for number in range(count)))
    for number in range(count // 3):
        codes[connection.call(f"/nobody.Service{number}/Method{number}", b"").code] += 1
        http1.once(target.http, "GET", f"/v2/models/model-{number}/ready")
    connection.close()
    after = series(scrape(target.admin))
    expect(after == before, f"{before} series before, {after} after")
    return Report(f"{codes.total():,} names", f"{told(codes)}; {after} series before and after", units=64)


@attack(SECTION)
def documents_of_models(target: Target) -> Report:
    connection = Connection(target.grpc, source=ATTACKER, keeps_messages=False)
    asked = [
        (wire.LIST_MODELS, b""),
        (wire.GET_MODEL, wire.part(1, wire.SPEECH)),
        (wire.open_inference("ModelConfig"), wire.part(1, wire.SPEECH)),
    ]
    asked += [(wire.open_inference("ModelStatistics"), b""), (wire.open_inference("RepositoryIndex"), b"")]
    codes: collections.Counter = collections.Counter()
    for path, message in asked:
        codes += connection.calls(path, (message for _ in range(target.times(4_500, 100))))
    connection.close()
    return Report(f"{codes.total():,} calls of 5 methods", expect_codes(codes, "0", "8"), units=codes.total())


def floods_of_feeds(target: Target, priority: int) -> Report:
    connection = Connection(target.grpc, source=ATTACKER, keeps_messages=False)
    feeds = open_feeds(connection, 64, window=1_024, priority=priority)
    chunk = wire.framed(wire.feed_chunk(bytes(16 * wire.WINDOW_BYTES)))
    rounds = sum(1 for _ in rounds_of(connection, feeds, chunk, target.seconds))
    expect(connection.goaway is None, connection.goaway)
    connection.close()
    return Report("64 feeds at full speed", f"{rounds} rounds", units=65_536)


# The attacker has 64 of 68 streams, and the matching share of the lanes.
@attack(SECTION, timed=False)
def a_flood_at_normal(target: Target) -> Report:
    return floods_of_feeds(target, wire.NORMAL)


@attack(SECTION, timed=False)
def a_flood_at_high(target: Target) -> Report:
    return floods_of_feeds(target, wire.HIGH)


@attack(SECTION)
def huge_windows_that_are_never_read(target: Target) -> Report:
    """Feeds with the largest HTTP/2 windows, from a client that never reads its socket."""
    connection = Connection(target.grpc, source=ATTACKER, receive_buffer=4_096)
    feeds = []
    for _ in range(target.times(64, 12)):
        feed = connection.open(wire.FEED)
        connection.send(http2.frame(http2.DATA, 0, feed, wire.framed(wire.feed_open(window=1_024))))
        feeds.append(feed)
    chunk = wire.framed(wire.feed_chunk(bytes(14 * wire.WINDOW_BYTES)))
    until = time.monotonic() + target.seconds / 2
    while time.monotonic() < until and not connection.closed:
        for feed in feeds:
            # Within the windows that every server opens with.
            if connection.streams[feed].window >= len(chunk) and connection.window >= len(chunk):
                connection.streams[feed].window -= len(chunk)
                connection.window -= len(chunk)
                connection.wire.send_what_fits(http2.frame(http2.DATA, 0, feed, chunk))
        time.sleep(0.02)
    did = others_are_served(target)
    connection.close()
    return Report(f"{len(feeds)} feeds", did, units=65_536)


@attack(SECTION)
def uploads_that_stop(target: Target) -> Report:
    """Half an upload, then silence; the stream has an idle limit and holds little."""
    connection = Connection(target.grpc, source=ATTACKER)
    for _ in range(target.times(400, 40)):
        stream = connection.open(wire.UPLOAD)
        connection.message(stream, wire.part(1, wire.part(1, wire.stream_config())))
        connection.message(stream, wire.part(2, bytes(40 * wire.WINDOW_BYTES)), patience=2)
    connection.pump(0.5)
    did = others_are_served(target)
    live = sum(not stream.ended for stream in connection.streams.values())
    connection.close()
    return Report(f"{live} uploads of 40 KB", did, units=48 * max(1, live))
