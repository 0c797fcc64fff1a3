"""What a web page in a browser on this machine can send, and what a name pointed at loopback can read."""

import collections
import json

from attack import Report, Target, attack, expect, told
from http1 import once

SECTION = "The web"
UNLOAD = "/v2/repository/models/example_model/unload"
LOAD = "/v2/repository/models/example_model/load"
JSON = {"content-type": "application/json"}
CHANGES = (UNLOAD, LOAD, "/v2/systemsharedmemory/region/r/register", "/v2/systemsharedmemory/unregister")
READS = ("/v2", "/v2/models/example_model", "/v2/models/stats", "/v2/health/ready")
GENERATE = "/v2/models/example_model/generate"


def still_there(target: Target) -> None:
    answer = once(target.http, "POST", GENERATE, b'{"inputs": [1]}', JSON)
    expect(answer.status == 200, f"the model is gone: {answer.status} {answer.error}")


@attack(SECTION)
def requests_of_another_site(target: Target) -> Report:
    """`Origin` or `Sec-Fetch-Site` says that this comes from another site: refused, whatever it asks."""
    origins = [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://localhost.evil.example"},
        {"origin": "file://"},
    ]
    found = collections.Counter()
    for headers in origins:
        for path in CHANGES:
            for content_type in (
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
                "application/json",
            ):
                answer = once(target.http, "POST", path, b"{}", headers | {"content-type": content_type})
                expect(answer.status in (403, 415), f"{path} with {headers}, {content_type}: {answer.status} {answer.error}")
                found[answer.status] += 1
        answer = once(target.http, "POST", GENERATE, b'{"inputs": [1]}', headers | JSON)
        expect(answer.status == 403, f"generate with {headers}: {answer.status}")
        found[answer.status] += 1
    still_there(target)
    return Report(f"{found.total()} requests", told(found))


@attack(SECTION)
def forms(target: Target) -> Report:
    """Types that a form sends without asking first change nothing, even without an origin; no type at all means a program."""
    found = collections.Counter()
    for path in CHANGES:
        for content_type in (
            "text/plain",
            "text/plain;charset=UTF-8",
            "Text/Plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ):
            answer = once(target.http, "POST", path, b"{}", {"content-type": content_type})
            expect(answer.status in (403, 415), f"{path} as {content_type}: {answer.status} {answer.error}")
            found[answer.status] += 1
    still_there(target)
    answer = once(target.http, "POST", LOAD, b"{}")
    expect(answer.status == 200, f"a program that sets no Content-Type: {answer.status} {answer.error}")
    found[answer.status] += 1
    return Report(f"{found.total()} requests", told(found))


@attack(SECTION)
def names_that_lead_here(target: Target) -> Report:
    """A `Host` that is neither localhost nor an address nor configured: a name that somebody pointed at this machine."""
    found = collections.Counter()
    port = target.http.rsplit(":", 1)[1]
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@localhost",
        "localhost:80:80",
        "[::1",
        "",
    ):
        for path in READS:
            answer = once(target.http, "GET", path, host=host)
            expect(answer.status in (0, 400, 403, 421), f"{path} for {host!r}: {answer.status}")
            found[answer.status] += 1
        answer = once(target.http, "POST", UNLOAD, b"{}", JSON, host=host)
        expect(answer.status in (0, 400, 403, 421), f"unload for {host!r}: {answer.status}")
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", "127.0.0.1", f"[::1]:{port}", "LOCALHOST"):
        answer = once(target.http, "GET", "/v2", host=host)
        expect(answer.status == 200, f"/v2 for {host!r}: {answer.status} {answer.error}")
        found[answer.status] += 1
    for host in ("evil.example", f"evil.example:{port}"):
        answer = once(target.admin, "GET", "/metrics", host=host)
        found[answer.status] += 1
    still_there(target)
    return Report(f"{found.total()} requests", told(found))


@attack(SECTION)
def same_site_pages(target: Target) -> Report:
    """A page served from this server's own address, and a program that sends its Origin, are not another site."""
    origin = f"http://{target.http}"
    answer = once(
        target.http,
        "POST",
        GENERATE,
        b'{"inputs": [1]}',
        JSON | {"origin": origin, "sec-fetch-site": "same-origin"},
        host=target.http,
    )
    expect(answer.status == 200, f"{answer.status} {answer.error}")
    answer = once(target.http, "GET", "/v2", headers={"sec-fetch-site": "none"})
    expect(answer.status == 200, f"typed into the address bar: {answer.status}")
    preflight = once(
        target.http,
        "OPTIONS",
        GENERATE,
        headers={
            "origin": "http://evil.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )
    expect("access-control-allow-origin" not in preflight.headers, json.dumps(preflight.headers))
    return Report("3 requests", f"200, 200, {preflight.status} without CORS")
