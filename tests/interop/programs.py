"""Clients that are separate programs."""

import json
import os
import subprocess

import places
from server import PATIENCE_S


def run(*command, **options) -> str:
    """What a program prints; it must end well and complain about nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, **options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def run_node(script: str, *arguments) -> str:
    """What a script in this folder prints."""
    environment = os.environ | {"NODE_PATH": str(places.NODE_MODULES)}
    return run("node", places.ROOT / "tests/interop" / script, *arguments, env=environment)


def grpcurl(*arguments, **options) -> str:
    return run(places.GRPCURL, "-plaintext", *arguments, **options)


def buf_curl(server, method: str, body: str) -> list[dict]:
    """The responses of `package.Service/Method`, as JSON objects."""
    url = f"http://{server.address}/{method}"
    return json_objects(run(places.BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", "@-", url, input=body))


def json_objects(text: str) -> list[dict]:
    """Objects printed one after another."""
    decoder, objects = json.JSONDecoder(), []
    while text := text.lstrip():
        found, end = decoder.raw_decode(text)
        objects.append(found)
        text = text[end:]
    return objects
