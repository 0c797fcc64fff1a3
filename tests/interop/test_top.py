"""`tidemill top` shows what feeds drop, by reason, and waits by priority."""

import json
import os
import subprocess
from datetime import timedelta

import messages
import metrics
import places
import synthetic
from messages import pb
from server import PATIENCE_S, await_rest

BURST = 10


def drop(feed) -> None:
    """Sends more than is run, and waits until all of it is answered."""
    feed.send(*synthetic.rows(range(BURST)), messages.feed_flush())
    feed.receive_until("flushed")


def test_drops_are_counted_by_reason(one_lane):
    """Drops go on for as long as `top` watches."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    command = [places.SERVER, "top", "--once", "--json", "--interval", "1s", "--admin", one_lane.admin_address]
    latest = synthetic.feed(one_lane, synthetic.SLOW, overflow=pb.OVERFLOW_POLICY_LATEST, priority=pb.PRIORITY_HIGH)
    stale = synthetic.feed(one_lane, synthetic.SLOW, max_age=timedelta(milliseconds=1), priority=pb.PRIORITY_LOW)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as top:
        try:
            while top.poll() is None:
                drop(latest)
                drop(stale)
            printed, complaints = top.communicate(timeout=PATIENCE_S)
        finally:
            top.kill()
    assert (top.returncode, complaints) == (0, "")
    latest.finish()
    stale.finish()
    after = await_rest(one_lane)

    (line,) = printed.splitlines()
    report = json.loads(line)["top"]
    assert report["admin"] == one_lane.admin_address
    (slow,) = [model for model in report["models"] if model["name"] == synthetic.SLOW]
    dropped = slow["dropped_per_s"]
    assert dropped.keys() == {"overflow", "max_age", "late"}
    assert dropped["overflow"] > 0 and dropped["max_age"] > 0
    # All for the same reason, and no item is counted twice.
    assert abs(sum(dropped.values()) - slow["ended_per_s"]["dropped"]) < 1e-6
    assert 0 < slow["ended_total"]["dropped"] <= after.total(metrics.ITEMS, model=synthetic.SLOW, outcome="dropped")
    assert slow["ended_per_s"]["ok"] > 0
    assert slow["queue_by_priority_s"]["high"]["p50"] is not None
    (quick,) = [model for model in report["models"] if model["name"] == synthetic.QUICK]
    assert quick["dropped_per_s"] == {"overflow": 0, "max_age": 0, "late": 0}
