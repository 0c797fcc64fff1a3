"""The server under attack: a child process on ports of its choosing, whose memory is watched, and which is killed if it takes too much."""

import contextlib
import functools
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import http1
import http2
import places
import wire

PATIENCE_S = 60
ANY_PORTS = ("--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0")
LISTENING = re.compile(rb"listening grpc=(\S+) http=(\S+) admin=(\S+)")
ANSI = re.compile(rb"\x1b\[[0-9;]*m")
# A server that takes more is killed: it would take the machine down with it.
RSS_MAX = 5 << 30
CACHE = tempfile.TemporaryDirectory(prefix="tidemill-hostile-")


def resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def set_options(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@functools.cache
def tls_options() -> tuple[str, ...]:
    """What encrypts all ports, if this run is over TLS: a certificate that is made once."""
    if not places.over_tls():
        return ()
    folder = pathlib.Path(CACHE.name) / "tls"
    given = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    subprocess.run([places.SERVER, "tls", "self-signed", folder], env=given, stdout=subprocess.DEVNULL, check=True)
    return tuple(set_options(f"tls.cert={folder}/server.pem", f"tls.key={folder}/server.key"))


class Server:
    """A running `tidemill serve`.

    Its log goes to a file, or to `stderr`; then its ports must be given, as they cannot be read from the log."""

    def __init__(
        self,
        *arguments: str,
        stderr: int | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        ports: Sequence[str] = ANY_PORTS,
        environment: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
        prefix: Sequence[str] = (),
        waits: bool = True,
        rss_max: int = RSS_MAX,
        working_folder: str | None = None,
        cache: str | None = None,
    ) -> None:
        given = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        given |= {"XDG_CACHE_HOME": cache or CACHE.name, "NO_COLOR": "1"} | (environment or {})
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="log-", dir=CACHE.name)[1])
        command = [*prefix, str(places.SERVER), "serve", *ports, *tls_options(), *arguments]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=given,
                stdin=stdin,
                stdout=stdout,
                stderr=log if stderr is None else stderr,
                preexec_fn=before,
                cwd=working_folder,
            )
        self.ended_for_memory = False
        self.most = 0
        self._rss_max = rss_max
        self._watched = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self.grpc = self.http = self.admin = ""
        if stderr is not None or ports is not ANY_PORTS:
            self.grpc, self.http, self.admin = (ports[at] for at in (1, 3, 5))
            waits and self.await_ready()
        elif waits:
            try:
                self.await_listening()
            except BaseException:
                self.kill()
                raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def await_listening(self) -> None:
        """Until the log names the ports, which it does once everything is loaded."""
        found = None

        def named() -> bool:
            nonlocal found
            found = LISTENING.search(ANSI.sub(b"", self.log_path.read_bytes()))
            return bool(found) or not self.is_running()

        wait_until(named, "the server never listens", PATIENCE_S)
        assert found, f"the server ended with {self.process.returncode}:\n{self.log()}"
        self.grpc, self.http, self.admin = (part.decode() for part in found.groups())

    def await_ready(self) -> None:
        def ready() -> bool:
            assert self.is_running(), f"the server ended with {self.process.returncode}:\n{self.log()}"
            with contextlib.suppress(OSError):
                return http1.once(self.admin, "GET", "/readyz").status == 200
            return False

        wait_until(ready, "the server is never ready", PATIENCE_S)

    def log(self) -> str:
        return ANSI.sub(b"", self.log_path.read_bytes()).decode(errors="replace")

    def is_running(self) -> bool:
        return self.process.poll() is None

    def resident(self) -> int:
        return resident(self.pid)

    def begin_watch(self) -> int:
        """Forgets the most memory that it took, and returns what it takes now."""
        now = self.resident()
        self.most = now
        return now

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def processor_s(self) -> float:
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def panics(self) -> int:
        return self.log().count("panicked at")

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, patience: float = PATIENCE_S) -> int:
        """The exit code after a signal; a negative one is the signal that killed it."""
        if self.is_running():
            self.send_signal(number)
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the server does not end within {patience} s of signal {number}:\n{self.log()[-2_000:]}"
            ) from None

    def wait(self, patience: float = PATIENCE_S) -> int:
        return self.process.wait(patience)

    def kill(self) -> None:
        self._watched.set()
        if self.is_running():
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(PATIENCE_S)

    def serves(self) -> str:
        """Asks the example model over both protocols, and the speech model; empty if all of them answer correctly."""
        try:
            answer = http1.once(self.http, "POST", "/v2/models/example_model/generate", b'{"inputs": [1, 2.5]}')
            if answer.status != 200 or b"5" not in answer.body:
                return f"HTTP answers {answer.status} {answer.body[:200]!r}"
            connection = http2.Connection(self.grpc)
            try:
                for path, message in ((wire.EXAMPLE, wire.example(1.0, 2.0)), (wire.PREDICT, wire.predict_audio())):
                    state = connection.call(path, message)
                    if state.code != "0":
                        return f"{path} ends with {state.code} {state.message}"
            finally:
                connection.close()
        except OSError as error:
            return f"cannot be reached: {error}"
        return ""

    def _watch(self) -> None:
        while not self._watched.wait(0.02):
            now = self.resident()
            self.most = max(self.most, now)
            if now > self._rss_max and self.is_running():
                self.ended_for_memory = True
                self.process.kill()
                return


@contextlib.contextmanager
def running(*arguments: str, **options) -> Iterator[Server]:
    server = Server(*arguments, **options)
    try:
        yield server
    finally:
        server.kill()


def wait_until(condition: Callable[[], bool], otherwise: str | Callable[[], str], patience: float = PATIENCE_S) -> None:
    """Polls until `condition` holds: for states that cannot be subscribed to."""
    give_up_at = time.monotonic() + patience
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(0.02)


def free_ports(count: int = 3) -> list[int]:
    """Ports that are free at this moment, for servers whose log nobody reads."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def fixed_ports() -> tuple[str, ...]:
    grpc, http, admin = free_ports()
    return "--grpc-addr", f"127.0.0.1:{grpc}", "--http-addr", f"127.0.0.1:{http}", "--admin-addr", f"127.0.0.1:{admin}"
