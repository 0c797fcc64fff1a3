"""The attacks, one module for each place that they aim at. A new function with `@attack` is a new test.

Two rules. An attack asserts what depends on answers and codes; memory, gauges, the ledger and the bystander are looked at by `trial.py`.
And an attack that takes what all share comes from 127.0.0.2, while those who must be served come from 127.0.0.3."""

# In the order of the table.
MODULES = ("http2_frames", "http2_streams", "http1_requests", "messages", "shares", "machine", "web")
