"""The attacks, one module for each target. A new function with `@attack` is a new test.

Two rules. An attack asserts what depends on answers and codes; memory, gauges, the ledger and the bystander are checked by `trial.py`.
An attack that uses up what everybody shares comes from 127.0.0.2; the clients that must be served come from 127.0.0.3."""

# In the order of the table.
MODULES = ("http2_frames", "http2_streams", "http1_requests", "messages", "shares", "machine", "connections", "web", "websockets")
