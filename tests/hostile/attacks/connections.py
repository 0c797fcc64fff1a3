"""Connections themselves: headers of proxies that never end, and more connections than an address may make.

The proxy is 127.0.0.2, and so is the crowd: 127.0.0.1 and 127.0.0.3 are neither."""

import collections
import time

import http1
from attack import Report, Target, attack, expect, told
from http1 import Client, once

SECTION = "Connections"
LIVE = "/v2/health/live"
PROXIED = ("server.proxies=127.0.0.2", "server.proxy_protocol=on", "tls.handshake_timeout_s=2")


def others_are_served(target: Target) -> None:
    answer = once(target.http, "GET", LIVE, source="127.0.0.3", patience=5)
    expect(answer.status == 200, f"others are not served: {answer.status}")


@attack(SECTION, *PROXIED)
def proxy_headers_that_drip(target: Target) -> Report:
    """A byte now and then of a header that never ends: the connection closes when the time for it is up."""
    clients = [Client(target.http, source="127.0.0.2", encrypts=False) for _ in range(target.times(400, 100))]
    for piece in (b"PROXY ", b"TCP4 ", b"1", b"9", b"2", b"."):
        for client in clients:
            client.send(piece)
        others_are_served(target)
        time.sleep(0.2)
    left = sum(not client.is_closed_by_server(10) for client in clients)
    for client in clients:
        client.close()
    expect(left == 0, f"{left} are still open")
    return Report(f"{len(clients)} headers, 5 bytes a second", "closed in time; others are served", units=8 * len(clients))


@attack(SECTION, *PROXIED)
def proxy_headers_that_are_wrong(target: Target) -> Report:
    """Too long, cut short, of no version, or not there at all: closed without an answer."""
    second = b"\r\n\r\n\0\r\nQUIT\n"
    headers = [
        b"PROXY UNKNOWN " + b"x" * 4_000,
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP9 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY \r\n" + b"\0" * 100,
        second + b"\x21\x11\xff\xff" + b"\0" * 65_535,
        second + b"\x21\x11\0\x01\0" + b"\0" * 100,
        second + b"\x31\x11\0\x0c" + b"\0" * 12,
        http1.request("GET", LIVE),
    ]
    found = collections.Counter()
    for _ in range(target.times(200, 10)):
        for header in headers:
            # The header comes before the handshake, if there is one.
            client = Client(target.http, source="127.0.0.2", encrypts=False)
            client.send(header)
            found[client.answer(patience=10).status] += 1
            client.close()
    expect(set(found) == {0}, f"answered with {told(found)}")
    # What a stranger says first is a request like any other.
    stranger = Client(target.http, source="127.0.0.3")
    stranger.send(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + http1.request("GET", LIVE))
    status = stranger.answer(patience=10).status
    stranger.close()
    expect(status in (0, 400), f"a stranger's header: {status}")
    others_are_served(target)
    return Report(f"{found.total():,} headers", "closed", units=64)


@attack(SECTION, "server.new_connections_per_peer_per_s=50", "server.max_connections_per_peer=100")
def connections_without_end(target: Target) -> Report:
    """One address makes connections as fast as it can, and keeps those that it gets."""
    kept = []
    found = collections.Counter()
    for _ in range(target.times(4_000, 600)):
        try:
            client = Client(target.http, source="127.0.0.2")
        except OSError:
            # Refused in its handshake.
            found[0] += 1
            continue
        client.send(http1.request("GET", LIVE))
        status = client.answer(patience=10).status
        found[status] += 1
        if status == 200:
            kept.append(client)
        else:
            client.close()
    others_are_served(target)
    for client in kept:
        client.close()
    expect(set(found) == {0, 200}, f"answered with {told(found)}")
    expect(found[200] <= 100, f"{found[200]} were open at once; 100 are allowed")
    return Report(f"{found.total():,} connects", told(found) + "; others are served", units=8 * len(kept))
