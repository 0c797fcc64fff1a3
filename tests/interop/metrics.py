"""Reads the Prometheus text that the server exposes. The names of the metrics that the tests use are here."""

import re

ITEMS_RECEIVED = "tidemill_items_received_total"
ITEMS = "tidemill_items_ended_total"
ITEMS_DROPPED = "tidemill_items_dropped_total"
ITEMS_QUEUED = "tidemill_items_queued"
ITEMS_IN_FLIGHT = "tidemill_items_in_flight"
# Items in calls that have ended.
ITEMS_RUN = "tidemill_batch_size_sum"
# Items whose results left for the transport.
ITEMS_HANDED_OUT = "tidemill_item_seconds_count"
STREAMS_OPEN = "tidemill_streams_open"
STREAMS_ENDED = "tidemill_streams_ended_total"
STREAMS_STALLED = "tidemill_streams_stalled"
STREAMS_UNREAD = "tidemill_streams_unread"
RESULTS_SKIPPED = "tidemill_results_skipped_total"
FAULTS = "tidemill_faults_total"
INPUT_ELEMENTS = "tidemill_input_elements_total"
PADDING_ELEMENTS = "tidemill_padding_elements_total"

OUTCOMES = {"ok", "refused", "dropped", "expired", "cancelled", "failed"}

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._samples = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                match = _SAMPLE.match(line)
                assert match, f"not a sample: {line!r}"
                self._samples.append((match["name"], dict(_LABEL.findall(match["labels"] or "")), float(match["value"])))

    def total(self, name: str, **labels: str) -> float:
        """Sum over the samples that have these labels."""
        return sum(value for found, own, value in self._samples if found == name and labels.items() <= own.items())

    def grown(self, before: "Metrics", name: str, **labels: str) -> float:
        """How much a counter has grown since an earlier scrape."""
        return self.total(name, **labels) - before.total(name, **labels)

    def label_values(self, name: str, label: str) -> set[str]:
        return {own[label] for found, own, _ in self._samples if found == name}

    def is_at_rest(self, streams: int = 0) -> bool:
        """Whether this many streams are open and every item that was received has its one outcome."""
        return self.total(STREAMS_OPEN) == streams and self.total(ITEMS) == self.total(ITEMS_RECEIVED)
