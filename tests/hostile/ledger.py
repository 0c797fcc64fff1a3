"""What a scrape says about unfinished work: gauges that must return to zero, and an account that must balance."""

import re

import http1

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_GAUGE = re.compile(r"^# TYPE (tidemill_\w+) gauge$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# The gauges of things that exist because a client does, or did: those with one of these words.
_OF_CLIENTS = re.compile(r"open|queued|in_flight|stalled|unread|waiting|arriv|inflat|pending|held|aside|sequence|transfer")


def scrape(admin: str, patience: float = 10) -> str:
    answer = http1.once(admin, "GET", "/metrics", patience=patience)
    assert answer.status == 200, f"/metrics answers {answer.status} {answer.body[:200]!r}"
    return answer.body.decode()


def samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = _SAMPLE.match(line)
            assert match, f"not a sample: {line!r}"
            found.append((match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return found


def total(text: str, name: str, **labels: str) -> float:
    return sum(value for found, own, value in samples(text) if found == name and labels.items() <= own.items())


def imbalance(text: str) -> dict[str, object]:
    """What is open or unaccounted for."""
    gauges = {name for name in _GAUGE.findall(text) if _OF_CLIENTS.search(name) and not name.endswith(("_max", "_limit"))}
    wrong: dict[str, object] = {}
    received: dict[tuple[str, str], float] = {}
    ended: dict[tuple[str, str], float] = {}
    for name, labels, value in samples(text):
        if name in gauges and value:
            wrong[f"{name} {labels}"] = value
        account = {"tidemill_items_received_total": received, "tidemill_items_ended_total": ended}.get(name)
        if account is not None:
            model = labels["model"], labels["version"]
            account[model] = account.get(model, 0) + value
    for model, count in received.items():
        if count != ended.get(model, 0):
            wrong[f"items of {model}"] = f"{count:.0f} received, {ended.get(model, 0):.0f} ended"
    return wrong


def series(text: str) -> int:
    return len(samples(text))
