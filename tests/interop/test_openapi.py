"""`/openapi.json` is valid OpenAPI, and the server does what it says. Both tools have an environment of their own: one is a plug-in of pytest."""

import json
import subprocess
import urllib.request

import places
from server import PATIENCE_S

# Not in a response's schema: messages of a stream are lines.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_the_document_is_valid(server, tmp_path):
    with urllib.request.urlopen(f"http://{server.http_address}/openapi.json", timeout=PATIENCE_S) as answer:
        assert answer.headers["content-type"] == "application/json"
        document = answer.read()
    assert json.loads(document)["openapi"] == "3.1.0"
    file = tmp_path / "openapi.json"
    file.write_bytes(document)
    command = [places.OPENAPI / "openapi-spec-validator", "--schema", "3.1", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE_S)
    assert done.returncode == 0, done


def test_the_server_does_what_the_document_says(server, tmp_path):
    """A short run of generated requests, good and bad."""
    command = [
        *(places.OPENAPI / "schemathesis", "run", f"http://{server.http_address}/openapi.json"),
        *("--checks", CHECKS, "--max-examples", "25", "--seed", "7", "--request-timeout", str(PATIENCE_S), "--no-color"),
        *("--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all", "--exclude-path-regex", "prove$"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=8 * PATIENCE_S)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr
