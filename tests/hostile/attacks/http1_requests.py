"""HTTP/1.1: heads, bodies, lengths, JSON."""

import collections
import json
import time

import http1
import wire
from attack import MIB, Report, Target, attack, expect, told
from http1 import Client, once, raw, request

SECTION = "HTTP/1.1"
INFER = "/v2/models/example_model/infer"
GENERATE = "/v2/models/example_model/generate"
STREAM = "/v2/models/example_model/generate_stream"
PATHS = (
    INFER,
    GENERATE,
    STREAM,
    "/v2/models/silero-vad/infer",
    "/v2/repository/index",
    "/v2/systemsharedmemory/region/r/register",
)


def close_all(clients: list[Client]) -> None:
    for client in clients:
        client.close()


def statuses(clients: list[Client], patience: float) -> collections.Counter:
    """What each of them is answered, and no more."""
    found = collections.Counter(client.answer(patience).status for client in clients)
    close_all(clients)
    return found


def drip(clients: list[Client], byte: bytes, seconds: float) -> int:
    """Sends a byte now and then to whoever still takes it; how many have had no answer when the time is over."""
    waiting, until = clients, time.monotonic() + seconds
    while waiting and time.monotonic() < until:
        waiting = [client for client in waiting if not client.poll() and client.send(byte)]
        time.sleep(0.4)
    return len(waiting)


@attack(SECTION)
def slow_heads(target: Target) -> Report:
    clients = [Client(target.http) for _ in range(target.times(1_000, 60))]
    head = b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nx-slow: "
    for client in clients:
        client.send(head)
    waiting = drip(clients, b"a", target.clocks["header"] + 5)
    expect(not waiting, f"{waiting} heads are still being read after {target.clocks['header'] + 5} s")
    return Report(f"{len(clients)} heads, 2 bytes a second", told(statuses(clients, 1)), units=8 * len(clients))


@attack(SECTION, patience_s=150)
def slow_bodies(target: Target) -> Report:
    clients = [Client(target.http) for _ in range(target.times(500, 40))]
    for client in clients:
        client.send(request("POST", INFER, headers={"content-length": "1000"}) + b"{")
    drip(clients, b" ", target.clocks["body"] + 6)
    found = statuses(clients, 1)
    expect(set(found) == {408}, f"answers: {told(found)}")
    return Report(f"{len(clients)} bodies, 2 bytes a second", told(found), units=8 * len(clients))


@attack(SECTION, held_max=576 * MIB, patience_s=120)
def bodies_that_stop_a_byte_short(target: Target) -> Report:
    body = b"{" + b" " * (16 * MIB - 3)
    clients = []
    for _ in range(target.times(120, 44)):
        client = Client(target.http, source="127.0.0.2")
        client.wire.socket.settimeout(0.4)
        client.send(request("POST", INFER, headers={"content-length": str(16 * MIB)}) + body)
        clients.append(client)
    small = once(target.http, "POST", GENERATE, b'{"inputs": [1]}', source="127.0.0.3")
    expect(small.status == 200, f"a small request from another client is answered {small.status} {small.error}")
    close_all(clients)
    return Report(
        f"{len(clients)} bodies of 16 MiB less a byte", "a small request from another client is served", units=8 * len(clients)
    )


@attack(SECTION)
def chunked_bodies(target: Target) -> Report:
    head = request("POST", INFER, headers={"transfer-encoding": "chunked"})
    kinds: dict[str, tuple[bytes, tuple[int, ...]]] = {
        "many chunks": (b"1\r\n \r\n" * target.times(1_000_000, 50_000) + b"0\r\n\r\n", (400,)),
        "extensions": (b"1;" + b"e" * 10_000 + b"\r\n \r\n" + b"0\r\n\r\n", (400, 0)),
        "many extensions": (b"1;a=b\r\n \r\n" * 50_000 + b"0\r\n\r\n", (400, 0)),
        "2^64": (b"10000000000000000\r\n ", (400, 0)),
        "2^63": (b"8000000000000000\r\n ", (400, 413, 408)),
        "not a number": (b"xyz\r\n \r\n", (400, 0)),
        "negative": (b"-1\r\n \r\n", (400, 0)),
        "trailers": (b"0\r\n" + b"x-trailer: a\r\n" * 2_000 + b"\r\n", (400, 431, 0)),
        "17 MiB": (b"%x\r\n" % (17 * MIB) + b" " * (17 * MIB) + b"\r\n0\r\n\r\n", (413, 0)),
        "chunks cut": (b"5\r\n{}", (408, -1)),
    }
    found = collections.Counter()
    for name, (body, allowed) in kinds.items():
        client = Client(target.http)
        client.send(head + body)
        status = client.answer(target.clocks["body"] + 6 if name == "chunks cut" else 20).status
        expect(status in allowed, f"{name}: {status}, allowed: {allowed}")
        found[status] += 1
        client.close()
    return Report(f"{len(kinds)} kinds", told(found), inflated=17 * MIB)


@attack(SECTION)
def a_chunk_size_of_endless_zeros(target: Target) -> Report:
    """Refused at once: the server must not wait for the end of a number that has none."""
    clients = []
    for _ in range(target.times(100, 10)):
        client = Client(target.http)
        client.send(request("POST", INFER, headers={"transfer-encoding": "chunked"}))
        client.send(b"0" * 100_000)
        clients.append(client)
    found = statuses(clients, 8)
    expect(set(found) <= {400, 413, 431, 0}, f"not refused, but waited for: {told(found)}")
    return Report(f"{len(clients)} chunk sizes of 100,000 zeros", told(found), units=8 * len(clients))


@attack(SECTION)
def lengths_and_smuggling(target: Target) -> Report:
    """No request can hide in another: one answer, or a refusal and the end of the connection."""
    hidden = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"

    def head(*lines: bytes, verb: bytes = b"POST " + GENERATE.encode() + b" HTTP/1.1") -> bytes:
        return b"\r\n".join((verb, b"host: localhost", *lines)) + b"\r\n\r\n"

    body = b'{"inputs": [1]}'
    length = b"content-length: %d" % len(body)
    kinds: dict[str, bytes] = {
        "length and chunked": head(length, b"transfer-encoding: chunked") + b"0\r\n\r\n" + hidden,
        "chunked and length": head(b"transfer-encoding: chunked", length) + b"0\r\n\r\n" + hidden,
        "two lengths": head(length, b"content-length: 0") + body + hidden,
        "a list of lengths": head(b"content-length: 15, 0") + body + hidden,
        "length +15": head(b"content-length: +15") + body + hidden,
        "length 0x0f": head(b"content-length: 0x0f") + body + hidden,
        "length 15 15": head(b"content-length: 15 15") + body,
        "length -1": head(b"content-length: -1") + body,
        "length 2^64": head(b"content-length: 18446744073709551616") + body,
        "a space before the colon": head(length.replace(b":", b" :")) + body + hidden,
        "a tab in the name": head(b"content\t-length: 15") + body + hidden,
        "a fold": head(b"x-folded: a\r\n b", length) + body,
        "chunked twice": head(b"transfer-encoding: chunked", b"transfer-encoding: chunked") + b"0\r\n\r\n" + hidden,
        "xchunked": head(b"transfer-encoding: xchunked") + b"0\r\n\r\n" + hidden,
        "chunked, identity": head(b"transfer-encoding: chunked, identity") + b"0\r\n\r\n" + hidden,
        "gzip, chunked": head(b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n" + hidden,
        "a vertical tab": head(b"transfer-encoding:\x0bchunked") + b"0\r\n\r\n" + hidden,
        "HTTP/1.0 chunked": head(b"transfer-encoding: chunked", verb=b"POST / HTTP/1.0") + b"0\r\n\r\n" + hidden,
        "h2c": head(b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__", length) + body,
        "two hosts": b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nhost: elsewhere\r\n\r\n",
        "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
        "bare newlines": b"GET /v2 HTTP/1.1\nhost: localhost\n\n",
        "a NUL in the path": b"GET /v2\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "HTTP/3.0": b"GET /v2 HTTP/3.0\r\nhost: localhost\r\n\r\n",
        "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": bytes.fromhex("160301020001"),
        "nothing but newlines": b"\r\n" * 5_000,
        "a method of 10 KB": b"G" * 10_000 + b" / HTTP/1.1\r\n\r\n",
        "101 headers": head(*(b"x-%d: 1" % index for index in range(101)), verb=b"GET /v2 HTTP/1.1"),
        "a header of 20 KB": head(b"x: " + b"a" * 20_000, verb=b"GET /v2 HTTP/1.1"),
    }
    # Chunked, in other words: what follows is a separate request.
    plain = {"chunked twice", "gzip, chunked"}
    refused = {"two hosts", "no host", "two lengths", "a list of lengths", "length -1", "length 2^64"}
    found = collections.Counter()
    for name, sent in kinds.items():
        client = Client(target.http)
        client.send(sent)
        first = client.answer(3)
        second = client.answer(0.3) if first.status > 0 else first
        smuggled = second.status == 200 and hidden in sent and first.status >= 400 and name not in plain
        expect(not smuggled, f"{name}: {first.status}, and the request hidden behind it was answered")
        if name in refused:
            expect(first.status in (0, 400), f"{name}: {first.status}")
        found[first.status] += 1
        client.close()
    return Report(f"{len(kinds)} kinds", told(found))


@attack(SECTION)
def pipelining(target: Target) -> Report:
    one = request("GET", "/v2/health/live")
    count = target.times(10_000, 500)
    client = Client(target.http)
    client.send(one * count)
    answered = sum(client.answer(10).status == 200 for _ in range(count))
    expect(answered == count, f"{answered} of {count} answered")
    client.close()
    unread = [Client(target.http, receive_buffer=4_096) for _ in range(target.times(100, 10))]
    sent = 0
    for client in unread:
        sent += max(0, client.wire.send_what_fits(one * 20_000)) // len(one)
    time.sleep(1)
    close_all(unread)
    return Report(f"{count:,} read, {sent:,} unread on {len(unread)} connections", f"{answered:,} answers", units=8 * len(unread))


@attack(SECTION, patience_s=120)
def compressed_bodies(target: Target) -> Report:
    size = target.times(1 << 30, 64 * MIB)
    found = collections.Counter()
    for path in PATHS:
        for encoding in ("gzip", "deflate"):
            answer = once(
                target.http,
                "POST",
                path,
                wire.zeros(size, encoding),
                {"content-encoding": encoding, "content-type": "application/json"},
                patience=20,
            )
            expect(answer.status == 413, f"{encoding} to {path}: {answer.status} {answer.error}")
            found[answer.status] += 1
    clients = [Client(target.http) for _ in range(target.times(150, 20))]
    bomb = request("POST", INFER, wire.zeros(size, "gzip"), {"content-encoding": "gzip"})
    for client in clients:
        client.send(bomb)
    found += statuses(clients, 30)
    expect(set(found) <= {413, 429, 0}, told(found))
    return Report(f"{found.total()} of {size >> 20} MiB each", told(found), inflated=len(clients) * 16 * MIB)


@attack(SECTION, patience_s=120)
def inflating_for_its_own_sake(target: Target) -> Report:
    """Bodies within every limit, 15 MiB from 15 KB, as fast as they are answered."""
    body = wire.gzipped(b"[" + b" " * (15 * MIB) + b"]")
    clients = [Client(target.http, source="127.0.0.2") for _ in range(4)]
    one = request("POST", INFER, body, {"content-encoding": "gzip"})
    found, until = collections.Counter(), time.monotonic() + target.seconds
    while time.monotonic() < until and found.total() < target.times(800, 20):
        for client in clients:
            client.send(one)
        found.update(client.answer(20).status for client in clients)
    close_all(clients)
    expect(set(found) <= {400, 413, 429}, told(found))
    return Report(f"{found.total()} of {len(body) >> 10} KB", told(found), inflated=4 * 16 * MIB)


def documents(target: Target) -> dict[str, bytes]:
    def many(count: int) -> int:
        return target.times(count, count // 20)

    nested = many(100_000)
    flat = {"name": "inputs", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}

    def of(**changes) -> bytes:
        return json.dumps({"inputs": [flat | changes]}).encode()

    return {
        "nested lists": b"[" * nested + b"]" * nested,
        "nested objects": b'{"a":' * nested + b"1" + b"}" * nested,
        "8 M brackets": b"[" * many(8 * MIB),
        "a million keys": b"{" + b",".join(b'"k%d":1' % index for index in range(many(300_000))) + b"}",
        "the same key": b'{"inputs":[],"inputs":[],"id":"a","id":"b"}',
        "a number of 4 MB": b'{"inputs":[{"name":"inputs","datatype":"FP64","shape":[1],"data":['
        + b"1" * many(4_000_000)
        + b"]}]}",
        "an exponent": of(data=[1]).replace(b"[1]}", b"[1e999999999]}"),
        "NaN": of(data=[1]).replace(b"[1]}", b"[NaN]}"),
        "a lone surrogate": b'{"id":"\\ud800","inputs":[]}',
        "not UTF-8": b'{"id":"\xff\xfe","inputs":[]}',
        "UTF-16": '{"inputs":[]}'.encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf{}",
        "a NUL": b'{"id":"a\0b"}',
        "shape overflows": of(shape=[2**62, 2**62]),
        "shape negative": of(shape=[-1]),
        "shape of 100,000": of(shape=[1] * 100_000),
        "data of the wrong length": of(data=[1]),
        "data nested 10,000 deep": b'{"inputs":[{"name":"inputs","datatype":"FP64","shape":[1],"data":'
        + b"[" * 10_000
        + b"1"
        + b"]" * 10_000
        + b"}]}",
        "many empty inputs": b'{"inputs":[' + b",".join([b"{}"] * many(500_000)) + b"]}",
        "many outputs": b'{"inputs":[],"outputs":[' + b",".join([b'{"name":"x"}'] * many(300_000)) + b"]}",
        "many parameters": b'{"parameters":{'
        + b",".join(b'"p%d":1' % index for index in range(many(300_000)))
        + b'},"inputs":[]}',
        "an id of 8 MB": json.dumps({"id": "i" * many(8_000_000), "inputs": []}).encode(),
        "escapes": b'{"id":"' + b"\\u0041" * many(1_000_000) + b'","inputs":[]}',
        "nothing": b"",
        "a word": b"null",
        "cut": b'{"inputs":[{"name":"inp',
    }


@attack(SECTION, patience_s=120, held_max=384 * MIB)
def json_documents(target: Target) -> Report:
    found = collections.Counter()
    for path in (INFER, GENERATE):
        # To `generate`, no inputs at all are inputs without elements.
        allowed = (400, 413) if path == INFER else (200, 400, 413)
        for name, body in documents(target).items():
            answer = once(target.http, "POST", path, body, {"content-type": "application/json"}, patience=20)
            expect(answer.status in allowed, f"{name} to {path}: {answer.status} {answer.error[:200]}")
            found[answer.status] += 1
    return Report(f"{found.total()} documents", told(found), inflated=16 * MIB)


def numbers_document(items: int, elements: int) -> bytes:
    row = b"[" + b",".join([b"0.123456789"] * elements) + b"]"
    return b'{"inputs":[' + b",".join([row] * items) + b"]}"


@attack(SECTION, held_max=512 * MIB)
def events_that_nobody_reads(target: Target) -> Report:
    body = numbers_document(64, 2_000)
    clients = [Client(target.http, receive_buffer=4_096) for _ in range(target.times(200, 20))]
    for client in clients:
        client.send(request("POST", STREAM, body))
    time.sleep(target.seconds / 3)
    close_all(clients)
    return Report(f"{len(clients)} of {len(body) >> 10} KB", "held back", units=64 * len(clients))


@attack(SECTION, held_max=512 * MIB)
def answers_that_nobody_reads(target: Target) -> Report:
    """Large JSON answers to clients that do not take them: counted as unread, within one budget for all."""
    count = 600_000
    body = (
        b'{"inputs":[{"name":"inputs","datatype":"FP64","shape":[%d],"data":[' % count
        + b",".join([b"0.123456789"] * count)
        + b"]}]}"
    )
    clients = [Client(target.http, receive_buffer=4_096) for _ in range(target.times(60, 4))]
    for client in clients:
        client.wire.socket.settimeout(2)
        client.send(request("POST", INFER, body))
    time.sleep(2)
    close_all(clients)
    return Report(f"{len(clients)} of {len(body) >> 20} MiB", "held back", units=8 * len(clients))


@attack(SECTION)
def paths_and_names(target: Target) -> Report:
    paths = [
        "/v2/models/..%2f..%2fetc%2fpasswd/ready",
        "/v2/models/../../../etc/passwd",
        "/v2/models/%00/ready",
        "/v2/models/%0d%0aset-cookie:%20a/ready",
        "/v2/models/%2e%2e/config",
        "/v2/models/" + "n" * 5_000 + "/ready",
        "/v2/models/a%ff/ready",
        "/v2/models//ready",
        "//v2",
        "/v2/models/example_model/versions/../ready",
        "/v2/models/example_model/versions/-1/ready",
        "/v2/models/example_model/versions/" + "9" * 400 + "/ready",
        "/v2/repository/models/..%2f/load",
        "/v2/repository/models/*/unload",
        "http://elsewhere/v2",
        "*",
        "/?" + "q" * 10_000,
        "/%",
        "/%zz",
        "/livez",
        "/metrics",
    ]
    found = collections.Counter()
    for path in paths:
        for verb in ("GET", "POST"):
            answer = once(target.http, verb, path, b"{}" if verb == "POST" else b"", {"content-type": "application/json"})
            expect(
                answer.status in (0, 400, 403, 404, 405, 414, 421, 431, 501, 503)
                or path in ("//v2", "http://elsewhere/v2")
                or path.startswith("/?"),
                f"{verb} {path[:60]}: {answer.status}",
            )
            if answer.body and "json" in answer.headers.get("content-type", ""):
                json.loads(answer.body)
            found[answer.status] += 1
    return Report(f"{found.total()} requests", told(found))


@attack(SECTION)
def binary_tensors(target: Target) -> Report:
    """Lengths of the binary extension that contradict each other."""
    head = json.dumps(
        {"inputs": [{"name": "inputs", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}]}
    ).encode()

    def sized(size: object, data: bytes = bytes(16), length: object = None) -> tuple[bytes, object]:
        text = json.dumps(
            {"inputs": [{"name": "inputs", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": size}}]}
        ).encode()
        return text + data, len(text) if length is None else length

    kinds = {
        "size 2^63-1": sized(2**63 - 1),
        "size -1": sized(-1),
        "size 2^64": sized(2**64),
        "size as text": sized("16"),
        "too little": sized(16, bytes(8)),
        "too much": sized(16, bytes(24)),
        "length beyond the body": sized(16, length=10_000),
        "length -1": sized(16, length=-1),
        "length as a word": sized(16, length="many"),
        "length within the JSON": sized(16, length=5),
        "length twice": (head + bytes(16), f"{len(head)}, {len(head)}"),
        "elements of BYTES": (
            json.dumps(
                {"inputs": [{"name": "inputs", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}]}
            ).encode()
            + b"\xff\xff\xff\xffabcd",
            None,
        ),
    }
    found = collections.Counter()
    for name, (body, length) in kinds.items():
        header = str(len(body) - 8 if length is None else length)
        answer = once(
            target.http,
            "POST",
            INFER,
            body,
            {"inference-header-content-length": header, "content-type": "application/octet-stream"},
        )
        expect(answer.status == 400, f"{name}: {answer.status} {answer.error[:200]}")
        found[answer.status] += 1
    return Report(f"{len(kinds)} kinds", told(found))


@attack(SECTION)
def trailers_of_chunked_bodies(target: Target) -> Report:
    """Trailers after a good body: at most as much as a head."""
    body = b'{"inputs": [1, 2]}'
    head = request("POST", GENERATE, headers={"transfer-encoding": "chunked"})
    found = collections.Counter()
    for trailers in (
        b"x-a: b\r\n",
        b"x: " + b"a" * 60_000 + b"\r\n",
        b"x: a\r\n" * 10_000,
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    ):
        answer = raw(target.http, head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n" + trailers + b"\r\n")
        expect(answer.status in (200, 400, 431, 0), answer)
        found[answer.status] += 1
    return Report("4 kinds", told(found))


@attack(SECTION, "http.max_connections=60")
def idle_http_connections(target: Target) -> Report:
    """As many as allowed, all silent: another address is let in within the time of a head."""
    kept = []
    for _ in range(70):
        try:
            kept.append(Client(target.http, source="127.0.0.2"))
        except OSError:
            break
    answer = once(target.http, "GET", "/v2/health/live", source="127.0.0.3", patience=8)
    expect(answer.status == 200, f"with {len(kept)} silent connections from 127.0.0.2, 127.0.0.3 is answered {answer.status}")
    for client in kept:
        client.close()
    return Report(f"{len(kept)} silent connections, 60 allowed", "another address is served", units=8 * len(kept))


@attack(SECTION)
def nested_json_of_generate(target: Target) -> Report:
    """Lists within lists, one element at each level: the depth is the number of dimensions."""
    found = collections.Counter()
    for depth in (10, 64, 200, 1_000, 100_000):
        answer = once(target.http, "POST", GENERATE, b'{"inputs":' + b"[" * depth + b"1" + b"]" * depth + b"}", patience=20)
        expect(answer.status in ((200, 400) if depth < 200 else (400,)), f"{depth} deep: {answer.status}")
        found[answer.status] += 1
    wide = b'{"inputs":[' + b"[]," * target.times(1_000_000, 50_000) + b"[]]}"
    answer = once(target.http, "POST", GENERATE, wide, patience=30)
    expect(answer.status in (400, 413), f"a million empty lists: {answer.status}")
    return Report("5 depths, a million empty lists", told(found), inflated=4 * MIB)


@attack(SECTION, held_max=384 * MIB)
def large_bodies_of_events(target: Target) -> Report:
    """Server-sent events for large bodies, read a byte at a time."""
    body = numbers_document(target.times(1_000, 100), 500)
    clients = [http1.Client(target.http, receive_buffer=4_096) for _ in range(target.times(40, 6))]
    for client in clients:
        client.wire.socket.settimeout(3)
        client.send(request("POST", STREAM, body))
    until = time.monotonic() + target.seconds / 2
    while time.monotonic() < until:
        for client in clients:
            client.wire.receive(0, 1)
        time.sleep(0.05)
    close_all(clients)
    return Report(f"{len(clients)} of {len(body) >> 20} MiB", "held back", units=1_000 * len(clients))
