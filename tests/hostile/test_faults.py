"""Faults in what surrounds the server: its log, disk, descriptors, memory, signals, folders. It goes on or says why not; it is never killed
by them, and never claims to be well when it is not."""

import contextlib
import fcntl
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import time

import http1
import http2
import ledger
import places
import pytest
import scenes
import trial
import wire
from attacks import messages
from scenes import FAILS, PANICS, ask, expect_well
from server import Server, fixed_ports, free_ports, running, set_options, wait_until

F_SETPIPE_SZ = 1031
# Failing calls: each may be worth a line in the log.
CALLS = 6


def stops_well(server: Server) -> None:
    assert server.stop() == 0, server.log()[-2_000:]


# ---- The log ----------------------------------------------------------------------------------------------------------------


def run_with_a_log(tmp_path: pathlib.Path, stderr: int, harm=lambda: None) -> None:
    """Failing calls and a panic, each of which would log something; then a reload and the end."""
    folder = scenes.models(tmp_path / "models")
    with running("--models", str(folder), stderr=stderr, ports=fixed_ports()) as server:
        harm()
        # Two lanes: two failing calls are enough to end both.
        assert [ask(server, FAILS) for _ in range(CALLS)] == [500] * CALLS
        assert ask(server, PANICS) == 500
        assert ask(server, 1.0) == 200
        server.send_signal(signal.SIGHUP)
        expect_well(server)
        stops_well(server)


def test_the_reader_of_the_log_goes_away(tmp_path):
    """`serve 2>&1 | head`: lines are lost, nothing else."""
    reader, writer = os.pipe()
    try:
        run_with_a_log(tmp_path, writer, lambda: os.close(reader))
    finally:
        os.close(writer)


def test_the_log_is_a_full_device(tmp_path):
    """It starts, serves and stops with a log that takes no lines."""
    with open("/dev/full", "wb") as full:
        run_with_a_log(tmp_path, full.fileno())


def test_the_disk_of_the_log_fills_up(tmp_path):
    """A log on a small disk that has just run out of room."""
    with scenes.small_disk(tmp_path / "disk", "64k") as disk, (disk / "log").open("wb") as log:
        run_with_a_log(tmp_path, log.fileno(), lambda: scenes.fill(disk))


def test_the_log_reaches_the_largest_allowed_file(tmp_path):
    """RLIMIT_FSIZE: the signal that a write beyond it sends does not end the server."""
    folder = scenes.models(tmp_path / "models")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, 8_192))

    cache = tmp_path / "cache"
    with running("--models", str(folder), "--set", "log.filter=debug", before=small_files, cache=str(cache)) as server:
        for _ in range(40):
            assert ask(server, FAILS) == 500
        expect_well(server)
        stops_well(server)


def test_the_log_file_is_rotated_away(tmp_path):
    """Renamed and removed, as by a clumsy rotation."""
    path = tmp_path / "log"
    with path.open("wb") as log:
        run_with_a_log(tmp_path, log.fileno(), lambda: path.rename(tmp_path / "log.1").unlink())


def test_nobody_reads_the_log(tmp_path):
    """A full pipe holds nothing up; once it is read, a line says how many are missing."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4_096)
    os.set_blocking(writer, True)
    folder = scenes.models(tmp_path / "models")
    try:
        # A few hundred lines for each call.
        arguments = ["--models", str(folder), "--set", "log.filter=trace,h2=trace"]
        with running(*arguments, stderr=writer, ports=fixed_ports()) as server:
            for _ in range(20):
                assert ask(server, FAILS) == 500
            connection = http2.Connection(server.grpc)
            assert connection.calls(wire.EXAMPLE, (wire.example(1.0) for _ in range(500))) == {"0": 500}
            connection.close()
            expect_well(server)
            said = scenes.read_what_there_is(reader)
            ask(server, FAILS)
            said += scenes.read_until(reader, b" lines ")
            assert b" lines " in said, f"nothing says that lines were dropped:\n{said[-1_000:].decode(errors='replace')}"
            expect_well(server)
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_standard_streams_are_closed():
    """No stdin, no stdout, no stderr: descriptors 0 to 2 do not become somebody's sockets."""
    with running(before=lambda: [os.close(number) for number in (0, 1, 2)], ports=fixed_ports()) as server:
        expect_well(server)
        stops_well(server)


@pytest.mark.parametrize("backtrace", ["0", "1"])
def test_only_some_engine_panics_are_logged(tmp_path, backtrace):
    """Each panic is answered, and so are its neighbours; only some of them get a line in the log."""
    folder = scenes.models(tmp_path / "models")
    with running("--models", str(folder), environment={"RUST_BACKTRACE": backtrace}) as server:
        quiet = len(server.log())
        answers = [ask(server, (PANICS, 1.0)[number % 2]) for number in range(300)]
        assert answers == [500, 200] * 150
        told = len(server.log()) - quiet
        assert server.panics() < 75 and told < 100_000, f"{server.panics()} of 150 panics were logged, {told:,} bytes"
        expect_well(server)
        stops_well(server)


def test_what_clients_say_is_not_in_the_log():
    """Not even at its most talkative; and no client can write a line of it."""
    secret, mark, fake = "Bearer-s3cr3t-0123456789", "payload-mark-9876", "ERROR a line that is not the server's"
    with running("--set", "log.filter=trace,h2=info,hyper=info") as server:
        connection = http2.Connection(server.grpc)
        for path in (wire.EXAMPLE, "/nobody.Service/M", wire.FEED):
            connection.call(path, wire.part(1, mark), (("authorization", secret),), patience=2)
        connection.close()
        name = f"a%0a{fake.replace(' ', '%20')}"
        body = json.dumps({"inputs": [{"name": f"{mark}\n{fake}", "datatype": "X", "shape": [1]}]}).encode()
        for path in (f"/v2/models/{name}/infer", f"/v2/repository/models/{name}/load", "/v2/models/example_model/infer"):
            http1.once(server.http, "POST", path, body, {"authorization": secret, "content-type": "application/json"})
        http1.raw(server.http, b"GET /\x1b[31m\n" + fake.encode() + b" HTTP/1.1\r\n\r\n", 2)
        expect_well(server)
        text = server.log_path.read_bytes()
        assert secret.encode() not in text and mark.encode() not in text
        assert not any(line.startswith(fake.encode()) for line in text.splitlines())
        stops_well(server)


# ---- Signals and the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "SIGPIPE", "SIGWINCH", "SIGHUP"])
def test_a_signal_that_means_nothing(name):
    """It lives on, or stops in good order and names the signal."""
    with running() as server:
        server.send_signal(getattr(signal, name))
        # A signal that kills does so before anything else is answered.
        if server.serves() == "":
            stops_well(server)
        else:
            assert server.wait() == 0, f"{name} ended it with {server.process.returncode}"
            assert name in server.log()


def test_it_is_stopped_and_goes_on():
    """SIGSTOP, SIGCONT: nothing is lost."""
    with running() as server:
        bystander = trial.Bystander(server)
        server.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        server.send_signal(signal.SIGCONT)
        expect_well(server)
        assert trial.complaints(bystander.stop()) == []
        wait_until(
            lambda: not ledger.imbalance(ledger.scrape(server.admin)), lambda: str(ledger.imbalance(ledger.scrape(server.admin)))
        )
        stops_well(server)


@pytest.mark.parametrize("hold", scenes.HOLDERS, ids=lambda hold: hold.__name__)
def test_nobody_holds_up_the_end(hold):
    """SIGTERM while clients hold something open: exit 0, at the deadline at the latest."""
    with running("--drain-deadline", "2") as server:
        held = hold(server)
        stops_well(server)
        for one in held:
            one.close()


def test_the_end_under_a_storm_of_connections():
    with running("--drain-deadline", "2") as server:
        held = scenes.feeds(server, 20)
        knocks = 0
        server.send_signal(signal.SIGTERM)
        give_up_at = time.monotonic() + 30
        while server.is_running() and time.monotonic() < give_up_at:
            with contextlib.suppress(OSError):
                http2.Connection(server.grpc).close(reset=True)
            knocks += 1
        assert server.wait() == 0, knocks
        for connection in held:
            connection.close()


def test_a_second_signal_ends_it_at_once():
    with running("--drain-deadline", "60") as server:
        held = scenes.unread_feeds(server)
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in server.log(), "it never drains")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 1
        for connection in held:
            connection.close()


def test_a_signal_while_it_starts():
    with running(waits=False) as server:
        assert server.stop() in (0, -signal.SIGTERM)


def test_it_is_killed_and_started_on_the_same_ports():
    ports = fixed_ports()
    with running(ports=ports) as server:
        held = scenes.feeds(server, 100)
        server.process.kill()
        server.wait()
        with running(ports=ports) as next_one:
            expect_well(next_one)
            stops_well(next_one)
        for connection in held:
            connection.close()


def test_two_servers_on_one_port():
    ports = fixed_ports()
    with running(ports=ports) as server, running(ports=ports, waits=False) as other:
        assert other.wait() == 2
        assert "cannot listen on" in other.log()
        expect_well(server)
        stops_well(server)


@pytest.mark.long
def test_the_default_deadline_of_a_drain():
    """30 seconds with a feed that nobody reads."""
    with running() as server:
        held = scenes.unread_feeds(server)
        stops_well(server)
        assert "drain.deadline_s" in server.log()
        for connection in held:
            connection.close()


# ---- Limits of the system ---------------------------------------------------------------------------------------------------


def test_clients_use_up_the_descriptors():
    """Probes and scrapes have some reserved; everybody is served again once the clients go."""
    with running(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))) as server:
        kept = []
        for number in range(120):
            with contextlib.suppress(OSError):
                kept.append((http2.Connection if number % 2 else http1.Client)((server.grpc, server.http)[number % 2 == 0]))
        for path in ("/livez", "/metrics", "/livez", "/metrics"):
            assert http1.once(server.admin, "GET", path, patience=5).status == 200, path
        for one in kept:
            one.close()
        wait_until(lambda: server.serves() == "", server.serves)
        expect_well(server)
        stops_well(server)


@pytest.mark.parametrize("gibibytes", [3, 2])
def test_little_address_space(gibibytes):
    """RLIMIT_AS: prefixes that announce 16 MiB do not end the server."""
    limit = gibibytes << 30
    with running(before=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))) as server:
        connection = http2.Connection(server.grpc)
        for _ in range(500):
            connection.data(connection.open(wire.PREDICT), wire.framed(b"\n", announced=wire.MESSAGE_BYTES_MAX))
        connection.pump(0.2)
        connection.close()
        expect_well(server)
        stops_well(server)


def cgroup(limit: int) -> pathlib.Path:
    """A group of processes with this much memory; the test is skipped where none can be made."""
    for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = pathlib.Path(root) / f"tidemill-hostile-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir(exist_ok=True)
            (group / name).write_text(str(limit))
            return group
    pytest.skip("no control group with a memory limit can be made here")


def test_a_container_of_one_gigabyte():
    """The largest requests for their size, in a control group of 1 GB: shed, not killed."""
    group = cgroup(1 << 30)
    try:
        enter = (group / "cgroup.procs").open("w")
        with enter, running(before=lambda: (enter.write(str(os.getpid())), enter.flush())) as server:
            connection = http2.Connection(server.grpc, window=0)
            for _ in range(4):
                stream = connection.open(wire.SCAN, messages.ZSTD)
                connection.message(stream, messages.empty_items(8_000_000), True, True)
            almost = wire.framed(bytes(wire.MESSAGE_BYTES_MAX - 1), announced=wire.MESSAGE_BYTES_MAX)
            for _ in range(90):
                connection.data(connection.open(wire.PREDICT), almost, patience=0.2)
            connection.close()
            expect_well(server)
            stops_well(server)
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


@pytest.mark.parametrize("threads", [4, 8, 10, 11, 12, 14, 16, 24])
def test_few_threads(threads):
    """RLIMIT_NPROC, as a user whose limit counts: it says that the system does not allow more threads, or serves."""
    if os.geteuid() != 0 or not os.access(places.SERVER, os.X_OK):
        pytest.skip("becoming another user needs root")
    user = 64_000 + threads

    def become() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)

    try:
        with running(
            "--set",
            "scheduler.lanes=2",
            before=become,
            waits=False,
            environment={"HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere"},
        ) as server:
            wait_until(lambda: not server.is_running() or "listening" in server.log(), server.log)
            if server.is_running():
                server.await_listening()
                assert server.serves() == ""
                stops_well(server)
            else:
                assert server.process.returncode == 2, f"{server.process.returncode}:\n{server.log()[-1_000:]}"
                assert "panicked" not in server.log()
    except PermissionError:
        pytest.skip("the binary cannot be run by another user")


def test_a_crowd_that_knocks_while_it_loads():
    grpc, http, admin = free_ports()
    ports = ("--grpc-addr", f"127.0.0.1:{grpc}", "--http-addr", f"127.0.0.1:{http}", "--admin-addr", f"127.0.0.1:{admin}")
    with running(ports=ports, waits=False) as server:
        crowd: list[socket.socket] = []

        def bound() -> bool:
            with contextlib.suppress(OSError):
                crowd.append(socket.create_connection(("127.0.0.1", grpc), 1))
            return bool(crowd)

        wait_until(bound, "the port is never bound")
        for _ in range(400):
            crowd.append(socket.create_connection(("127.0.0.1", grpc), 10))
        server.await_ready()
        expect_well(server)
        for one in crowd:
            one.close()
        stops_well(server)


# ---- Files ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/dev/full", "a FIFO", "a folder", "/nowhere/recording"])
def test_the_recording_has_nowhere_to_go(tmp_path, path):
    """`--record`: it says so and does not start, or it starts and goes on without one; it does not wait for a reader."""
    named = {"a FIFO": tmp_path / "fifo", "a folder": tmp_path}.get(path, pathlib.Path(path))
    if path == "a FIFO":
        os.mkfifo(named)
    with running("--record", str(named), waits=False) as server:
        wait_until(
            lambda: not server.is_running() or "listening" in server.log(),
            lambda: f"neither served nor refused:\n{server.log()}",
            20,
        )
        if server.is_running():
            server.await_listening()
            for connection in scenes.feeds(server, 20, 64):
                connection.close()
            expect_well(server)
            stops_well(server)
        else:
            assert server.process.returncode == 2 and "scheduler.record" in server.log(), server.log()


def test_the_disk_of_the_recording_fills_up(tmp_path):
    with scenes.small_disk(tmp_path / "disk", "256k") as disk, running("--record", str(disk / "recording")) as server:
        scenes.fill(disk)
        for connection in scenes.feeds(server, 50, 64):
            connection.close()
        expect_well(server)
        stops_well(server)


@pytest.mark.parametrize("kind", ["a full disk", "a read-only folder", "a file", "/proc", "a link to nowhere"])
def test_proofs_have_nowhere_to_go(tmp_path, kind):
    """A `models.cache_dir` that cannot be written to costs the stored proofs, not the start."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "cache"
        match kind:
            case "a full disk":
                disk = stack.enter_context(scenes.small_disk(tmp_path / "disk", "16k"))
                scenes.fill(disk)
                folder = disk / "proofs"
            case "a read-only folder":
                disk = stack.enter_context(scenes.small_disk(tmp_path / "disk", "64k"))
                subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
                folder = disk / "proofs"
            case "a file":
                folder.write_text("not a folder")
            case "/proc":
                folder = pathlib.Path("/proc/proofs")
            case "a link to nowhere":
                folder.symlink_to("/nowhere/at/all")
        with running("--set", f"models.cache_dir={folder}") as server:
            expect_well(server)
            # On a full disk the folder can be made, and each proof reports that it cannot be kept.
            assert "proof" in server.log()
            stops_well(server)


def test_the_disk_of_the_proofs_fills_up(tmp_path):
    with scenes.small_disk(tmp_path / "disk", "64k") as disk:
        folder = disk / "proofs"
        folder.mkdir(mode=0o700)
        with running("--models", str(scenes.models(tmp_path / "models")), "--set", f"models.cache_dir={folder}") as server:
            scenes.fill(disk)
            answer = http1.once(
                server.http,
                "POST",
                f"/v2/repository/models/{scenes.BROKEN}/load",
                b"{}",
                {"content-type": "application/json"},
                patience=30,
            )
            assert answer.status == 200, answer
            expect_well(server)
            stops_well(server)


def index(server: Server) -> dict[str, str]:
    """The state of each model, with its reason."""
    answer = http1.once(server.http, "POST", "/v2/repository/index", b"{}", {"content-type": "application/json"})
    assert answer.status == 200, answer
    return {entry["name"]: f"{entry['state']} {entry.get('reason', '')}" for entry in json.loads(answer.body)}


def test_odd_files_in_the_models_folder(tmp_path):
    """FIFOs, folders for files, loops, devices, names with newlines and escapes: each with its reason; no line is faked, nothing hangs."""
    folder = scenes.models(tmp_path / "models", "good")
    fake = b"ERROR a line that is not the server's"

    def place(name: str) -> pathlib.Path:
        (folder / name / "1").mkdir(parents=True)
        return folder / name / "1" / "model.onnx"

    with running("--models", str(folder)) as server:
        os.mkfifo(place("fifo"))
        place("folder").mkdir()
        place("loop").symlink_to("model.onnx")
        place("passwd").symlink_to("/etc/passwd")
        place("zero").symlink_to("/dev/zero")
        place("empty").write_bytes(b"")
        place("garbage").write_bytes(os.urandom(10_000))
        with place("sparse").open("wb") as file:
            file.truncate(3 << 30)
        (folder / "manifest-fifo").mkdir()
        os.mkfifo(folder / "manifest-fifo/model.toml")
        (folder / "manifest-huge").mkdir()
        (folder / "manifest-huge/model.toml").write_bytes(b"#" * (8 << 20))
        (folder / "self").symlink_to("self")
        (folder / "dot").symlink_to(".")
        (folder / "proc").symlink_to("/proc/self")
        os.mkdir(bytes(folder) + b"/bad\n" + fake + b"\x1b[31m")
        os.mkdir(bytes(folder) + b"/\xff\xfe")
        (folder / ("n" * 200)).mkdir()
        (folder / "later").mkdir()
        (folder / "later/model.toml").write_text(scenes.manifest("came later"))
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: index(server).get("later", "").startswith("READY"), lambda: f"never looked through: {index(server)}")
        states = index(server)
        for name in ("fifo", "folder", "loop", "passwd", "zero", "empty", "garbage", "sparse"):
            assert not states.get(name, "").startswith("READY"), (name, states[name])
        text = server.log_path.read_bytes()
        assert not any(line.startswith(fake) for line in text.splitlines()) and b"\x1b[31m" not in text
        expect_well(server)
        stops_well(server)


def test_the_models_folder_goes_away(tmp_path):
    """Renamed, replaced by a file, then by an empty one, and put back: what is serving goes on."""
    folder = scenes.models(tmp_path / "models", "good")
    away = tmp_path / "away"
    with running("--models", str(folder), "--watch") as server:
        folder.rename(away)
        folder.write_text("a file in its place")
        server.send_signal(signal.SIGHUP)
        expect_well(server)
        assert ask(server, 1.0, "good") == 200
        folder.unlink()
        away.rename(folder)
        (folder / "later").mkdir()
        (folder / "later/model.toml").write_text(scenes.manifest("came later"))
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: index(server).get("later", "").startswith("READY"), lambda: str(index(server)))
        expect_well(server)
        stops_well(server)


def test_hangups_while_the_folder_changes(tmp_path):
    """It is looked through again and again, at times with broken manifests."""
    folder = scenes.models(tmp_path / "models", "changing")
    with running("--models", str(folder)) as server:
        before = server.begin_watch()
        for number in range(40):
            text = "engine = [broken" if number % 5 == 0 else scenes.manifest(str(number))
            (folder / "changing/model.toml").write_text(text)
            for _ in range(20):
                server.send_signal(signal.SIGHUP)
            assert ask(server, 1.0, "changing") == 200
        (folder / "changing/model.toml").write_text(scenes.manifest("the last"))
        (folder / "last").mkdir()
        (folder / "last/model.toml").write_text(scenes.manifest())
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: index(server).get("last", "").startswith("READY"), lambda: str(index(server)))
        assert server.most - before < 128 << 20
        expect_well(server)
        stops_well(server)


def test_a_file_that_is_rewritten_while_it_is_loaded(tmp_path):
    folder = scenes.models(tmp_path / "models", "good")
    path = folder / "moving/1/model.onnx"
    with running("--models", str(folder)) as server:
        path.parent.mkdir(parents=True)
        for number in range(15):
            path.write_bytes(os.urandom(200_000 + number))
            answer = http1.once(
                server.http, "POST", "/v2/repository/models/moving/load", b"{}", {"content-type": "application/json"}
            )
            assert 400 <= answer.status <= 500, answer
        expect_well(server)
        stops_well(server)


@pytest.mark.long
def test_very_many_models(tmp_path):
    """More than the limit are refused, naming it; as many as it allows are served."""
    folder = scenes.models(tmp_path / "models", *(f"m{number}" for number in range(1_030)))
    with running(
        "--models", str(folder), "--allow-partial", "--set", "models.embedded=false", "--set", "models.example=false", waits=False
    ) as server:
        wait_until(lambda: not server.is_running() or "1024" in server.log().replace(",", ""), server.log, 120)
        server.kill()
    for number in range(1_000, 1_030):
        (folder / f"m{number}/model.toml").unlink()
        (folder / f"m{number}").rmdir()
    with running("--models", str(folder), waits=False) as server:
        wait_until(lambda: "listening" in server.log() or not server.is_running(), server.log, 120)
        server.await_listening()
        assert len(index(server)) == 1_002
        expect_well(server)
        stops_well(server)


# ---- Settings ---------------------------------------------------------------------------------------------------------------


def refused(*arguments: str, **options) -> str:
    """What a server that does not start says."""
    with running(*arguments, waits=False, **options) as server:
        assert server.wait() == 2, server.log()
        return server.log()


def test_the_value_of_an_unknown_variable_is_not_logged():
    """It may be some other program's secret."""
    log = refused(environment={"TIDEMILL_API_TOKEN": "s3cr3t-value-0123456789"})
    assert "TIDEMILL_API_TOKEN" in log and "s3cr3t-value" not in log, log


@pytest.mark.parametrize("path", ["/", "/dev/zero", "/nowhere", "a FIFO"])
def test_a_path_that_is_not_a_configuration(tmp_path, path):
    named = tmp_path / "fifo" if path == "a FIFO" else pathlib.Path(path)
    if path == "a FIFO":
        os.mkfifo(named)
    assert str(named) in refused("--config", str(named))


def test_variables_that_mean_something_else():
    """Those of Kubernetes for a service of this name, and an empty environment."""
    kubernetes = {"TIDEMILL_SERVICE_HOST": "10.0.0.1", "TIDEMILL_SERVICE_PORT": "50051", "TIDEMILL_PORT": "tcp://10.0.0.1:50051"}
    with running(environment=kubernetes) as server:
        expect_well(server)
        stops_well(server)
    with running(prefix=("env", "-i")) as server:
        expect_well(server)
        stops_well(server)


def test_a_port_open_to_everybody_must_be_wanted():
    """Bound to more than loopback: the server says what would be open and what to do. If it is wanted, nothing that changes the server is."""
    ports = ("--grpc-addr", "127.0.0.1:0", "--http-addr", "0.0.0.0:0", "--admin-addr", "127.0.0.1:0")
    log = refused(ports=ports)
    assert "server.http_addr = 0.0.0.0:0 is open to other machines" in log and "security.allow_anonymous" in log, log
    with running("--set", "security.allow_anonymous=true", ports=ports, waits=False) as server:
        server.await_listening()
        http = "127.0.0.1:" + server.http.rsplit(":", 1)[1]
        headers = {"content-type": "application/json"}
        statuses = [
            http1.once(http, "POST", path, b"{}", headers).status
            for path in ("/v2/repository/models/example_model/unload", "/v2/systemsharedmemory/unregister")
        ]
        assert all(status in (403, 501) for status in statuses), statuses
        assert http1.once(http, "POST", "/v2/models/example_model/generate", b'{"inputs": [1]}', headers).status == 200
        server.http = http
        stops_well(server)


def test_reflection_and_high_priority_can_be_switched_off():
    known = trial.known_keys()
    assert {"control.repository", "control.reflection", "control.priority_high"} <= known, (
        "docs/configuration.md has no such switches"
    )
    with running(
        *set_options("control.repository=off", "control.reflection=off", "control.priority_high=off", "shared_memory.enabled=off")
    ) as server:
        connection = http2.Connection(server.grpc)
        assert connection.call(wire.REFLECTION, b"").code == "12"
        stream = connection.open(wire.FEED)
        connection.message(stream, wire.feed_open(priority=wire.HIGH), True)
        assert connection.wait(stream).code == "7"
        connection.close()
        answer = http1.once(
            server.http, "POST", "/v2/repository/models/example_model/unload", b"{}", {"content-type": "application/json"}
        )
        assert answer.status == 403 and "control.repository" in answer.error, answer
        expect_well(server)
        stops_well(server)
