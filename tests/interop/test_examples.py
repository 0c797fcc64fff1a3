"""The programs of `examples/`, against a real server, with stubs made as docs/clients.md says."""

import re
import shutil
import struct
import subprocess

import grpc
import metrics
import places
import pytest
from server import PATIENCE_S, running, wait_until
from tidemill.v1 import inference_pb2 as pb
from tidemill.v1 import inference_pb2_grpc

EXAMPLES = places.ROOT / "examples"
# Two utterances: from 0.4 s to 1.3 s, and from 2.0 s to 3.1 s.
SPEECH = re.compile(r"speech (\d+) ms to (\d+) ms\nspeech (\d+) ms to (\d+) ms\n113 windows, 0 errors\n")
UTTERANCES_MS = (400, 1_300, 2_000, 3_100)
IN_WORKSHOP = {"PATH": f"{places.CACHE}/venv/bin:/usr/local/bin:/usr/bin:/bin"}


def part_of_the_page(name: str) -> str:
    """What docs/clients.md has in the fenced block between the comments of this name."""
    page = (places.ROOT / "docs/clients.md").read_text()
    return re.search(rf"^<!-- {name} -->\n```\w*\n(.*?)^```\n<!-- /{name} -->$", page, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def clip() -> bytes:
    done = subprocess.run([places.RUST_EXAMPLES / "clip"], capture_output=True, timeout=PATIENCE_S, check=True)
    assert len(done.stdout) == 115_200
    return done.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with the sources and the tools of all languages, where the page's commands are typed."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("examples", "proto"):
        (folder / name).symlink_to(places.ROOT / name)
    (folder / "node_modules").symlink_to(places.NODE_MODULES)
    return folder


def in_workshop(workshop, *command, **options) -> str:
    environment = IN_WORKSHOP | {"HOME": str(workshop)} | options.pop("environment", {})
    done = subprocess.run(command, cwd=workshop, env=environment, capture_output=True, timeout=4 * PATIENCE_S, **options)
    printed = (done.stdout.decode(), done.stderr.decode())
    assert done.returncode == 0, printed
    return printed[0]


@pytest.fixture(scope="module")
def python(workshop):
    in_workshop(workshop, "bash", "-euc", part_of_the_page("stubs: python"))
    return lambda *command, **options: in_workshop(workshop, "python", *command, environment={"PYTHONPATH": "stubs"}, **options)


def assert_finds_both_utterances(printed: str) -> None:
    found = SPEECH.fullmatch(printed)
    assert found, printed
    assert all(abs(int(ms) - expected) <= 150 for ms, expected in zip(found.groups(), UTTERANCES_MS)), printed


def test_rust(server, clip):
    done = subprocess.run([places.RUST_EXAMPLES / "feed", server.address], input=clip, capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, b"")
    assert_finds_both_utterances(done.stdout.decode())


def test_rust_says_why_it_cannot():
    command = [places.RUST_EXAMPLES / "feed", "127.0.0.1:1"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (1, b"") and b"Unavailable" in done.stderr


def test_python(server, clip, python):
    assert_finds_both_utterances(python("examples/python/feed.py", server.address, input=clip))


def test_python_goes_on_at_another_server(clip, python, workshop):
    """The first server drains in the silence between the utterances. The rest goes to the second, and its positions are still right."""
    silence = 2 * 25_600
    with running() as first, running() as second:
        command = ["python", "-u", "examples/python/steady.py", f"ipv4:{first.address},{second.address}"]
        environment = IN_WORKSHOP | {"HOME": str(workshop), "PYTHONPATH": "stubs"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=workshop, env=environment, **pipes) as client:
            try:
                client.stdin.write(clip[:silence])
                client.stdin.flush()
                answered = lambda: first.metrics().total(metrics.ITEMS, outcome="ok")
                wait_until(lambda: answered() == silence // 1_024, "the first half is unanswered")
                first.signal()
                assert first.wait() == 0
                printed, told = client.communicate(clip[silence:], timeout=PATIENCE_S)
            finally:
                client.kill()
        assert client.returncode == 0, told
        assert b"trying again" in told
        found = [int(ms) for ms in re.findall(rb"\d+", printed)]
        assert len(found) == 4 and all(abs(ms - expected) <= 150 for ms, expected in zip(found, UTTERANCES_MS)), printed
        assert second.metrics().total(metrics.ITEMS, outcome="ok") == 113 - silence // 1_024


def test_python_reads_an_error(server, python):
    printed = python("examples/python/predict.py", server.address, "0.5", "21")
    assert printed == "[1.0, 42.0]\nNOT_FOUND NOT_FOUND ['model']\n"


def test_typescript(server, clip, workshop):
    shutil.copy(EXAMPLES / "typescript/feed.ts", workshop)
    # The command that npx would run, without its look at the registry.
    commands = part_of_the_page("stubs: typescript").replace("npx ", "node_modules/.bin/")
    in_workshop(workshop, "bash", "-euc", commands)
    assert_finds_both_utterances(in_workshop(workshop, "node", "feed.js", server.address, input=clip))


def test_curl(server):
    command = [EXAMPLES / "curl.sh", server.http_address, server.admin_address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    (health, takes, infer, binary, generate, events, error, metrics) = re.split(r"^== .*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert health.count("200") == 1 and '{"status":"ready"}' in health
    assert '"name":"example_model"' in takes
    assert '"data":[2.0,5.0,-80.0,8.0,10.0,12.0]' in infer and '"id":"mine"' in infer
    assert 0 < float(binary) < 0.5, "silence is no speech"
    assert '"outputs":[2.0,5.0,-80.0]' in generate
    assert re.findall(r'data: .*"outputs":(\[.*\])\}', events) == ["[[2.0,4.0]]", "[[6.0,8.0]]"]
    assert "there are 2 elements, but shape [1, 3] takes 3" in error and "(400)" in error
    assert metrics.count('outcome="ok"') == 2


def test_the_retries_of_the_page(server):
    """They are read, or the channel would not open; a call that succeeds shows no more of them."""
    names: dict = {}
    exec(part_of_the_page("retries").replace("127.0.0.1:50051", server.address), names)
    tensor = pb.Tensor(datatype=pb.DATATYPE_FP64, shape=[1], data=struct.pack("<d", 21))
    request = pb.PredictRequest(model="example_model", item=pb.Item(inputs=[tensor]))
    channel: grpc.Channel = names["channel"]
    with channel:
        response = inference_pb2_grpc.InferenceServiceStub(channel).Predict(request, timeout=PATIENCE_S)
    assert response.outputs.tensors[0].data == struct.pack("<d", 42)
