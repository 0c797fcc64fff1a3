"""The real server as a child process: started on ports of its choosing, watched until it serves, stopped by a signal."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import places
from grpc_health.v1 import health_pb2, health_pb2_grpc
from metrics import Metrics
from tidemill.v1 import inference_pb2_grpc, model_pb2_grpc

# How long anything may take before the test gives it up as hung. No test's result depends on it in any other way.
PATIENCE_S = 30

def any_ports(address: str = "127.0.0.1") -> list[str]:
    """Flags for free ports of this address."""
    return [part for flag in ("--grpc-addr", "--http-addr", "--admin-addr") for part in (flag, f"{address}:0")]


ANY_PORTS = any_ports()
LISTENING = re.compile(r"listening grpc=(\S+) http=(\S+) admin=(\S+)")
ALARM = re.compile(r"\b(WARN|ERROR)\b|panicked at")
ANSI = re.compile(r"\x1b\[[0-9;]*m")

CACHE = tempfile.TemporaryDirectory()

CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Server:
    """A running `tidemill serve`."""

    def __init__(self, *arguments: str, start_s: float = PATIENCE_S, address: str = "127.0.0.1") -> None:
        # The tests' variables are not settings of the server, and it refuses what it does not know.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        # A server's findings about a model are kept for the next server of this run, not for the user of this machine.
        environment["XDG_CACHE_HOME"] = CACHE.name
        command = [places.SERVER, "serve", *any_ports(address), *arguments]
        self.log: list[str] = []
        self._log_is_complete = False
        self._logged = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self.address, self.http_address, self.admin_address = self._await_log(LISTENING, start_s).groups()
            self.channel = self.connect()
            self.await_health("", health_pb2.HealthCheckResponse.SERVING)
        except BaseException:
            self.kill()
            raise
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)

    def connect(self) -> grpc.Channel:
        """A channel with its own connection."""
        return grpc.insecure_channel(self.address, [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)])

    def await_health(self, service: str, wanted: int) -> None:
        """Watches the health of `service` until it is `wanted`."""
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(
            health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S, wait_for_ready=True
        )
        assert any(answer.status == wanted for answer in watch), f"health of {service!r} never became {wanted}"
        watch.cancel()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the admin port."""
        try:
            with urllib.request.urlopen(f"http://{self.admin_address}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> Metrics:
        status, text = self.get("/metrics")
        assert status == 200, text
        return Metrics(text)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once the process has ended and its log has been read."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        if hasattr(self, "channel"):
            self.channel.close()

    def alarms(self, expected: tuple[str, ...] = ()) -> list[str]:
        """The lines of the log that an operator would look at, without those that match an expected pattern."""
        lines = [line for line in self.log if ALARM.search(line)]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in expected)]

    def _read_log(self) -> None:
        for line in self._process.stderr:
            with self._logged:
                self.log.append(ANSI.sub("", line.rstrip("\n")))
                self._logged.notify_all()
        with self._logged:
            self._process.stderr.close()
            self._process.wait(PATIENCE_S)
            self._log_is_complete = True
            self._logged.notify_all()

    def _await_log(self, pattern: re.Pattern, patience_s: float) -> re.Match:
        def found() -> re.Match | None:
            return next(filter(None, map(pattern.search, self.log)), None)

        with self._logged:
            self._logged.wait_for(lambda: found() or self._log_is_complete, patience_s)
            match = found()
        assert match, f"no line {pattern.pattern!r} in the server's log:\n" + "\n".join(self.log)
        return match


@contextlib.contextmanager
def running(
    *arguments: str,
    expected_alarms: tuple[str, ...] = (),
    start_s: float = PATIENCE_S,
    address: str = "127.0.0.1",
    kind: type[Server] = Server,
) -> Iterator[Server]:
    """A server for the length of a `with`, which may take `start_s` to load its models. At the end it must have answered every item
    that it took in, stop on SIGTERM with exit code 0 (unless the test has ended it already), and have logged no warning or error
    that was not expected."""
    server = kind(*arguments, start_s=start_s, address=address)
    try:
        yield server
        if server.is_running():
            await_rest(server)
            server.signal()
            assert server.wait() == 0
        alarms = server.alarms(expected_alarms)
        assert not alarms, "\n".join(alarms)
    finally:
        server.kill()


def wait_until(condition: Callable[[], bool], otherwise: str | Callable[[], str]) -> None:
    """Polls until `condition` holds: for states that cannot be subscribed to."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(0.02)


def await_rest(server: Server, streams: int = 0) -> Metrics:
    """Waits until this many streams are open and every item has its outcome, and returns the metrics of that moment."""
    scraped: list[Metrics] = []

    def rests() -> bool:
        scraped.append(server.metrics())
        return scraped[-1].is_at_rest(streams)

    wait_until(rests, lambda: f"items or streams are left:\n{server.get('/metrics')[1]}")
    return scraped[-1]
