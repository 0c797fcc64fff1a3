"""A real Prometheus scrapes the server, promtool finds nothing wrong with its metrics, and the ledger adds up."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from datetime import timedelta

import audio
import messages
import metrics
import places
import pytest
from messages import pb
from server import PATIENCE_S, await_rest, running, wait_until


@pytest.fixture(scope="module")
def counted():
    """A separate server, so that the numbers are known: what it was sent, and the server."""
    with running() as server:
        windows = 0
        for clip in audio.SPEECH[:3]:
            request = pb.ScanRequest(config=messages.config(), pcm_s16le=audio.pcm(clip))
            *_, last = server.inference.Scan(request, timeout=PATIENCE_S)
            windows += last.completed.ok
        late = pb.ScanRequest(
            config=messages.config(default_deadline=timedelta(microseconds=1)), pcm_s16le=audio.pcm(audio.SHORT_SPEECH)
        )
        *_, last = server.inference.Scan(late, timeout=PATIENCE_S)
        assert last.completed.errors > 0
        await_rest(server)
        yield server, {"ok": windows + last.completed.ok, "expired": last.completed.errors}


def test_every_item_has_one_outcome(counted):
    server, expected = counted
    scraped = server.metrics()
    assert scraped.label_values(metrics.ITEMS, "outcome") <= metrics.OUTCOMES
    assert {outcome: scraped.total(metrics.ITEMS, outcome=outcome) for outcome in expected} == expected
    assert scraped.total(metrics.ITEMS) == scraped.total(metrics.ITEMS_RECEIVED) == sum(expected.values())


def test_promtool_finds_nothing(counted):
    server, _ = counted
    check = subprocess.run(
        [places.PROMTOOL, "check", "metrics"], input=server.get("/metrics")[1], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_prometheus_scrapes_it(counted, tmp_path):
    server, expected = counted
    scrape = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "tidemill", "static_configs": [{"targets": [server.admin_address]}]}],
    }
    # All JSON is YAML.
    (tmp_path / "prometheus.yml").write_text(json.dumps(scrape))
    command = [
        places.PROMETHEUS,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        "--web.listen-address=127.0.0.1:0",
        "--log.format=json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        address = next(filter(None, map(listening_address, process.stderr)))
        next(line for line in process.stderr if "Server is ready" in line)

        def items() -> dict[str, float]:
            query = urllib.parse.urlencode({"query": f"sum by (outcome) ({metrics.ITEMS})"})
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=PATIENCE_S) as answer:
                series = json.load(answer)["data"]["result"]
            return {one["metric"]["outcome"]: float(one["value"][1]) for one in series}

        wait_until(lambda: items().items() >= expected.items(), lambda: f"Prometheus has {items()}, expected {expected}")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def listening_address(line: str) -> str | None:
    match = re.search(r'"address":"(127\.0\.0\.1:[1-9]\d*)"', line)
    return match and match[1]
