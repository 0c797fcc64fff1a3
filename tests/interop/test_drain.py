"""SIGTERM under load: nothing new begins, what is in flight ends with a reason, and the process ends well."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import audio
import event_loop
import grpc
import messages
import metrics
import pytest
import raw_http2
import reference
from faults import of_call
from grpc_health.v1 import health_pb2, health_pb2_grpc
from messages import kinds, of_kind, pb
from server import CHANNEL_OPTIONS, PATIENCE_S, await_rest, running, wait_until
from tidemill.v1 import inference_pb2_grpc

FEEDS = 32
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.contextmanager
def stalled_feed(server) -> Iterator[raw_http2.RawCall]:
    """A client with results to come that lets the server send almost nothing: while it lives, a drain cannot end."""
    with raw_http2.call(server.address, "Feed", window_bytes=1) as call:
        call.send(raw_http2.framed(messages.feed_open().SerializeToString()))
        call.send(raw_http2.framed(messages.feed_chunks([audio.pcm(audio.SHORT_SPEECH)[:10_240]])[0].SerializeToString()))
        call.receive_headers()
        wait_until(lambda: server.metrics().total(metrics.STREAMS_OPEN) == 1, "the stream never opened")
        yield call


def await_draining(server) -> None:
    wait_until(lambda: server.get("/readyz")[0] == 503, "/readyz never became 503")


def check_end(events: list, error: grpc.RpcError | None) -> None:
    """A feed ended well, or with a reason; either way its results are the model's, and none is missing in between."""
    results = of_kind(events, "result")
    assert [result.seq for result in results] == list(range(len(results)))
    expected = reference.of_clip(audio.LONG_SPEECH)[: len(results)]
    reference.assert_equal(messages.probabilities(results[: len(expected)]), expected)
    if error is None:
        assert kinds(events)[-1] == "completed"
    elif error.details() == "Internal error from Core":
        # What grpcio says when the stream ended while it still had something to send: it has lost the server's status.
        assert error.code() == grpc.StatusCode.INTERNAL
    else:
        of_call(error).check(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "drain")


def test_streams_end_with_a_reason_and_the_process_with_zero():
    async def feed(stub, opened: asyncio.Event, draining: asyncio.Event) -> tuple[list, grpc.RpcError | None]:
        async def requests():
            yield messages.feed_open()
            for chunk in audio.chunks(audio.pcm(audio.LONG_SPEECH), 2048):
                yield pb.FeedRequest(chunk=chunk)
            await draining.wait()

        events, error = [], None
        try:
            async for event in stub.Feed(requests(), timeout=PATIENCE_S):
                events.append(event)
                if len(of_kind([event], "result")) == 1:
                    opened.set()
        except grpc.RpcError as failure:
            error = failure
        return events, error

    async def not_serving(channel, service: str) -> None:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
        async for answer in watch:
            if answer.status == NOT_SERVING:
                watch.cancel()
                return
        raise AssertionError(f"the health of {service!r} never became NOT_SERVING")

    async def scenario(server) -> None:
        async with grpc.aio.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            watches = [asyncio.create_task(not_serving(channel, service)) for service in ("", messages.MODEL)]
            opened = [asyncio.Event() for _ in range(FEEDS)]
            draining = asyncio.Event()
            feeds = [asyncio.create_task(feed(stub, event, draining)) for event in opened]
            await asyncio.gather(*(event.wait() for event in opened))
            server.signal()
            await asyncio.gather(*watches)
            draining.set()
            for events, error in await asyncio.gather(*feeds):
                check_end(events, error)

    with running() as server, stalled_feed(server) as stalled:
        event_loop.run(scenario(server))
        await_draining(server)
        await_rest(server, streams=1)
        stalled.open_window(65_535)
        headers = stalled.receive()
        assert headers["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0]), headers
        assert "drain" in raw_http2.message_of(headers)
        assert server.wait() == 0


def test_a_draining_server_takes_no_new_stream():
    with running() as server, stalled_feed(server) as stalled:
        server.signal()
        await_draining(server)
        with pytest.raises(grpc.RpcError) as raised:
            list(server.inference.Feed(iter([messages.feed_open()]), timeout=PATIENCE_S))
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        stalled.vanish()
        assert server.wait() == 0


def test_a_second_signal_ends_the_process_at_once():
    with running() as server, stalled_feed(server):
        server.signal()
        await_draining(server)
        assert server.is_running()
        server.signal()
        assert server.wait() != 0


def test_an_idle_server_stops_on_an_interrupt_too():
    with running() as server:
        server.signal(signal.SIGINT)
        assert server.wait() == 0
