"""Real clients over TLS, with keys, certificates and tokens: those that are good are served, and each other is refused for what it is."""

import contextlib
import dataclasses
import json
import subprocess
import urllib.parse
import urllib.request

import grpc
import metrics
import numpy as np
import places
import pytest
import tritonclient.grpc
import tritonclient.http
from encrypted import Credentials, serving
from feed_call import FeedCall
from messages import feed_open
from open_inference import EXAMPLE
from programs import run, run_node
from server import PATIENCE_S, Server, running, wait_until
from test_prometheus import listening_address
from tidemill.v1 import inference_pb2_grpc, model_pb2, model_pb2_grpc
from tritonclient.utils import InferenceServerException

ISSUER, AUDIENCE = "https://issuer.example", "tidemill"
NUMBERS = json.dumps({"inputs": [1, 2]})
GENERATE = f"/v2/models/{EXAMPLE}/generate"
LOAD = f"/v2/repository/models/{EXAMPLE}/load"
UNLOAD = f"/v2/repository/models/{EXAMPLE}/unload"
WRONG_KEY = "tm_" + "0" * 64
# What curl exits with if it does not trust whom it talks to.
UNTRUSTED = 60


@dataclasses.dataclass
class Secured:
    """A server with callers, and what they need."""

    server: Server
    credentials: Credentials
    keys: dict[str, str]


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    credentials = Credentials(tmp_path_factory.mktemp("secured"))
    keys = {
        "alice": credentials.new_key("alice"),
        "operator": credentials.new_key("operator", "models:write", "models:read"),
        "scraper": credentials.new_key("scraper", "metrics"),
    }
    settings = credentials.settings(log__audit=credentials.path("audit.log"))
    with running(*settings, kind=serving(credentials)) as server:
        yield Secured(server, credentials, keys)


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


def list_models(channel: grpc.Channel, metadata=(), **options) -> str:
    """The name of the status of a call."""
    try:
        model_pb2_grpc.ModelServiceStub(channel).ListModels(
            model_pb2.ListModelsRequest(), metadata=metadata, timeout=PATIENCE_S, **options
        )
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def code_of(secured: Secured, metadata=()) -> str:
    with secured.server.connect() as channel:
        return list_models(channel, metadata)


def curl(secured: Secured, path: str, *options: str, ca: str = "ca.pem", data: str | None = NUMBERS) -> tuple[int, str]:
    """Status and body."""
    sent = ["--data", data] if data is not None else []
    answer = run(
        *("curl", "--silent", "--show-error", "--cacert", secured.credentials.path(ca), "--write-out", "\n%{http_code}"),
        *(*options, *sent, f"https://{secured.server.http_address}{path}"),
    )
    body, _, status = answer.rpartition("\n")
    return int(status), body


# ---- gRPC's own clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["Bearer", "bearer", "Key", "x-api-key"])
def test_grpcio_with_a_key(secured, form):
    key = secured.keys["alice"]
    metadata = [("x-api-key", key)] if form == "x-api-key" else [("authorization", f"{form} {key}")]
    assert code_of(secured, metadata) == "OK"


def test_grpcio_with_credentials_of_calls_and_channels(secured):
    class Key(grpc.AuthMetadataPlugin):
        def __call__(self, context, callback) -> None:
            callback(bearer(secured.keys["alice"]), None)

    called = grpc.metadata_call_credentials(Key())
    with secured.server.connect() as channel:
        assert list_models(channel, credentials=called) == "OK"
    both = grpc.composite_channel_credentials(secured.credentials.channel(), called)
    with grpc.secure_channel(secured.server.address, both, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        assert list_models(channel) == "OK"


@pytest.mark.parametrize(
    "metadata",
    [(), bearer(WRONG_KEY), bearer("secret"), [("authorization", "Basic YTpi")], [("x-api-key", "")], 2 * bearer(WRONG_KEY)],
    ids=["none", "wrong", "no-key", "basic", "empty", "twice"],
)
def test_grpcio_without_a_good_key(secured, metadata):
    assert code_of(secured, metadata) == "UNAUTHENTICATED"


def test_grpc_js(secured):
    told = json.loads(
        run_node(
            "secure.cjs",
            *(f"localhost:{secured.server.address.rsplit(':', 1)[1]}", places.PROTOS, secured.credentials.path("ca.pem")),
            secured.keys["alice"],
        )
    )
    good = dict.fromkeys(["metadata", "x-api-key", "call credentials"], "OK")
    assert told == good | {"none": "UNAUTHENTICATED", "wrong": "UNAUTHENTICATED", "untrusted": "UNAVAILABLE"}


# ---- Clients of the Open Inference Protocol ---------------------------------------------------------------------------------


def test_triton_over_grpc(secured):
    ca = secured.credentials.path("ca.pem")
    with tritonclient.grpc.InferenceServerClient(secured.server.address, ssl=True, root_certificates=ca) as client:
        made = tritonclient.grpc.InferInput("inputs", [1, 2], "FP64")
        made.set_data_from_numpy(np.array([[1.5, -2.0]]))
        result = client.infer(EXAMPLE, [made], headers=dict(bearer(secured.keys["alice"])))
        assert result.as_numpy("outputs").tolist() == [[3.0, -4.0]]
        assert client.is_server_ready(), "probes need no key"
        with pytest.raises(InferenceServerException) as refused:
            client.infer(EXAMPLE, [made])
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        with pytest.raises(InferenceServerException) as refused:
            client.unload_model(EXAMPLE, headers=dict(bearer(secured.keys["alice"])))
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"


def test_triton_over_http(secured):
    options = {"ca_certs": secured.credentials.path("ca.pem")}
    client = tritonclient.http.InferenceServerClient(secured.server.http_address, ssl=True, ssl_options=options)
    with contextlib.closing(client):
        made = tritonclient.http.InferInput("inputs", [1, 2], "FP64")
        made.set_data_from_numpy(np.array([[1.5, -2.0]]))
        result = client.infer(EXAMPLE, [made], headers={"x-api-key": secured.keys["alice"]})
        assert result.as_numpy("outputs").tolist() == [[3.0, -4.0]]
        assert client.is_server_ready(), "probes need no key"
        with pytest.raises(InferenceServerException) as refused:
            client.infer(EXAMPLE, [made])
        assert refused.value.status() == "401"


def test_kserve(secured):
    port = [address.rsplit(":", 1)[1] for address in (secured.server.address, secured.server.http_address)]
    script = places.ROOT / "tests/interop/secure_kserve.py"
    addresses = [f"localhost:{number}" for number in port]
    told = json.loads(run(places.KSERVE_PYTHON, script, *addresses, secured.credentials.path("ca.pem"), secured.keys["alice"]))
    assert told == {"grpc": [[3.0, -4.0], "UNAUTHENTICATED"], "rest": [[3.0, -4.0], 401]}


# ---- Programs -------------------------------------------------------------------------------------------------------------


def test_curl(secured):
    key = secured.keys["alice"]
    for header in (f"Authorization: Bearer {key}", f"authorization: key {key}", f"X-API-Key: {key}"):
        assert curl(secured, GENERATE, "--header", header)[0] == 200, header
    for header in ("X-Other: 1", f"Authorization: Bearer {WRONG_KEY}", f"Authorization: {key}"):
        status, body = curl(secured, GENERATE, "--header", header)
        assert status == 401 and key[3:] not in body and WRONG_KEY[3:] not in body, body
    assert curl(secured, UNLOAD, "--request", "POST", "--header", f"X-API-Key: {key}", data=None)[0] == 403
    assert curl(secured, "/v2/health/ready", data=None)[0] == 200


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_speaks_http_on_both_ports(secured, version):
    key = f"X-API-Key: {secured.keys['alice']}"
    for address in (secured.server.address, secured.server.http_address):
        answer = run(
            *("curl", "--silent", "--show-error", version, "--cacert", secured.credentials.path("ca.pem")),
            *("--write-out", "\nHTTP/%{http_version}"),
            *("--header", key, "--data", NUMBERS, f"https://{address}{GENERATE}"),
        )
        assert '"outputs"' in answer and answer.endswith({"--http1.1": "HTTP/1.1", "--http2": "HTTP/2"}[version]), answer


def test_curl_scrapes_over_http2(secured):
    answer = run(
        *("curl", "--silent", "--show-error", "--http2", "--cacert", secured.credentials.path("ca.pem")),
        *("--write-out", "\nHTTP/%{http_version}", f"https://{secured.server.admin_address}/livez"),
    )
    assert answer.endswith("HTTP/2"), answer


def test_a_credential_of_a_megabyte(secured, tmp_path):
    long = "a" * (1 << 20)
    headers = tmp_path / "headers"
    headers.write_text(f"Authorization: Bearer {long}\n")
    # The answer may come before all of it was sent.
    done = subprocess.run(
        [
            *("curl", "--silent", "--cacert", secured.credentials.path("ca.pem"), "--write-out", "%{http_code}", "--output", "/dev/null"),
            *("--header", f"@{headers}", "--data", NUMBERS, f"https://{secured.server.http_address}{GENERATE}"),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout in ("431", "000"), done
    assert code_of(secured, bearer(long)) != "OK"
    # The longest that a token may be, and one byte more, are looked at and refused.
    for length in (8_192, 8_193):
        assert code_of(secured, bearer("a" * length)) == "UNAUTHENTICATED", length
    assert code_of(secured, bearer(secured.keys["alice"])) == "OK"


def test_the_commands(secured):
    url = f"https://localhost:{secured.server.address.rsplit(':', 1)[1]}"
    run(places.SERVER, "health", "--addr", url, "--ca", secured.credentials.path("ca.pem"))
    done = subprocess.run([places.SERVER, "health", "--addr", url], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode != 0, "the system does not trust this authority"


def test_prometheus(secured, tmp_path):
    scrape = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "tidemill",
                "scheme": "https",
                "tls_config": {"ca_file": secured.credentials.path("ca.pem")},
                "authorization": {"credentials": secured.keys["scraper"]},
                "static_configs": [{"targets": [secured.server.admin_address]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(scrape))
    command = [
        *(places.PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
        *("--web.listen-address=127.0.0.1:0", "--log.format=json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        address = next(filter(None, map(listening_address, process.stderr)))
        next(line for line in process.stderr if "Server is ready" in line)

        def up() -> list[str]:
            query = urllib.parse.urlencode({"query": "up"})
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=PATIENCE_S) as answer:
                return [one["value"][1] for one in json.load(answer)["data"]["result"]]

        wait_until(lambda: up() == ["1"], lambda: f"Prometheus says {up()}")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


# ---- Whom clients talk to -------------------------------------------------------------------------------------------------


def test_clients_do_not_talk_to_a_server_of_another_name(secured):
    options = [("grpc.ssl_target_name_override", "other.example"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(secured.server.address, secured.credentials.channel(), options) as channel:
        assert list_models(channel, bearer(secured.keys["alice"])) == "UNAVAILABLE"
    host, port = secured.server.http_address.rsplit(":", 1)
    done = subprocess.run(
        [
            *("curl", "--silent", "--cacert", secured.credentials.path("ca.pem")),
            *("--resolve", f"other.example:{port}:{host}", f"https://other.example:{port}/v2/health/ready"),
        ],
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == UNTRUSTED


def test_clients_do_not_talk_to_a_server_of_an_unknown_authority(secured):
    with grpc.secure_channel(secured.server.address, grpc.ssl_channel_credentials()) as channel:
        assert list_models(channel, bearer(secured.keys["alice"])) == "UNAVAILABLE"
    url = f"https://{secured.server.http_address}/v2/health/ready"
    done = subprocess.run(["curl", "--silent", url], capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == UNTRUSTED


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """Certificates of another authority, an issuer's public keys, and its tokens."""
    credentials = Credentials(tmp_path_factory.mktemp("issued"))
    script = places.ROOT / "tests/interop/issuer.py"
    return credentials, json.loads(run(places.KSERVE_PYTHON, script, credentials.folder))


def test_clients_do_not_talk_to_a_server_whose_certificate_has_expired(issued):
    credentials, _ = issued

    class Unwatched(serving(credentials, ca="other-ca.pem")):
        def await_health(self, service: str, wanted: int) -> None:
            """Nobody can ask for it."""

        # The admin port of this server is not encrypted.
        get = Server.get

    pair = {"tls__cert": credentials.path("expired.pem"), "tls__key": credentials.path("expired.key")}
    key = credentials.new_key("alice")
    settings = credentials.settings(**pair, tls__admin="plain")
    with running(*settings, kind=Unwatched, expected_alarms=("a certificate of tls.cert expires",)) as server:
        with server.connect() as channel:
            assert list_models(channel, bearer(key)) == "UNAVAILABLE"
        done = subprocess.run(
            ["curl", "--silent", "--cacert", credentials.path("other-ca.pem"), f"https://{server.http_address}/v2/health/ready"],
            capture_output=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == UNTRUSTED


# ---- Certificates of clients ----------------------------------------------------------------------------------------------


def test_clients_show_certificates(issued):
    credentials, _ = issued
    keys = credentials.folder / "certificates.toml"
    keys.write_text('[[key]]\nname = "machine"\ncn = "Tidemill development client"\nscopes = ["infer", "models:read"]\n')
    settings = credentials.settings(
        security__keys=str(keys), tls__client_ca=credentials.path("ca.pem"), tls__client_auth="required"
    )
    with running(*settings, kind=serving(credentials, cert="client")) as server:
        with server.connect() as channel:
            assert list_models(channel) == "OK"
            # A credential that is shown counts before the certificate.
            assert list_models(channel, bearer(WRONG_KEY)) == "UNAUTHENTICATED"
        for cert in (None, "untrusted"):
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(server.address, credentials.channel(cert=cert), options) as channel:
                assert list_models(channel) == "UNAVAILABLE", cert
        port = server.address.rsplit(":", 1)[1]
        path = credentials.path
        told = json.loads(
            run_node(
                *("secure.cjs", f"localhost:{port}", places.PROTOS, path("ca.pem"), WRONG_KEY, path("client.pem"), path("client.key"))
            )
        )
        assert (told["none"], told["wrong"], told["untrusted"]) == ("OK", "UNAUTHENTICATED", "UNAVAILABLE")
        shown = ["--cert", path("client.pem"), "--key", path("client.key")]
        url = f"https://{server.http_address}{GENERATE}"
        trusting = ["curl", "--silent", "--show-error", "--cacert", path("ca.pem")]
        assert "outputs" in run(*trusting, *shown, "--data", NUMBERS, url)
        done = subprocess.run([*trusting, "--data", NUMBERS, url], capture_output=True, timeout=PATIENCE_S)
        assert done.returncode != 0
        root, chain = path("ca.pem"), {"private_key": path("client.key"), "certificate_chain": path("client.pem")}
        with tritonclient.grpc.InferenceServerClient(server.address, ssl=True, root_certificates=root, **chain) as client:
            assert [model.name for model in client.get_model_repository_index().models]
        command = [places.SERVER, "models", "--addr", f"https://localhost:{port}", "--ca", root]
        assert EXAMPLE in run(*command, "--cert", path("client.pem"), "--key", path("client.key"))


# ---- Keys that end --------------------------------------------------------------------------------------------------------


def test_a_revoked_key_ends_what_it_has_open(tmp_path):
    credentials = Credentials(tmp_path)
    stays, goes = credentials.new_key("stays"), credentials.new_key("goes")
    with running(*credentials.settings(), kind=serving(credentials)) as server, server.connect() as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        feeds = {key: FeedCall(stub, feed_open(), metadata=bearer(key)) for key in (stays, goes)}
        for feed in feeds.values():
            assert feed.receive().WhichOneof("event") == "opened"
        credentials.revoke("goes")
        ended = feeds[goes].failure()
        assert ended.code() == grpc.StatusCode.UNAUTHENTICATED and "'goes'" in ended.details()
        assert list_models(channel, bearer(goes)) == "UNAUTHENTICATED"
        assert list_models(channel, bearer(stays)) == "OK"
        assert feeds[stays].finish()[-1].WhichOneof("event") == "completed"


# ---- Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokened(issued):
    credentials, tokens = issued
    key = credentials.new_key("lender", "infer", "models:read")
    settings = credentials.settings(
        security__jwks=credentials.path("jwks.json"),
        security__jwt_issuer=ISSUER,
        security__jwt_audience=AUDIENCE,
        security__tokens="true",
    )
    with running(*settings, kind=serving(credentials)) as server:
        yield Secured(server, credentials, {"lender": key}), tokens


BAD_TOKENS = ["expired", "wrong audience", "wrong issuer", "future", "another's key", "no signature", "public key as secret"]


def test_a_good_token(tokened):
    secured, tokens = tokened
    assert code_of(secured, bearer(tokens["good"])) == "OK"
    assert curl(secured, GENERATE, "--header", f"Authorization: Bearer {tokens['good']}")[0] == 200
    # It has no more than the scopes that it names.
    header = f"Authorization: Bearer {tokens['good']}"
    assert curl(secured, UNLOAD, "--request", "POST", "--header", header, data=None)[0] == 403


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_a_bad_token(tokened, kind):
    secured, tokens = tokened
    assert code_of(secured, bearer(tokens[kind])) == "UNAUTHENTICATED"
    status, body = curl(secured, GENERATE, "--header", f"Authorization: Bearer {tokens[kind]}")
    assert status == 401 and tokens[kind] not in body, body


def test_a_token_that_is_lent(tokened):
    secured, _ = tokened
    asked = json.dumps({"scopes": ["infer"], "expires_in_s": 60})
    json_type = ("--header", "Content-Type: application/json")
    mine = ("--header", f"X-API-Key: {secured.keys['lender']}")
    status, body = curl(secured, "/v1/tokens", *json_type, *mine, data=asked)
    lent = json.loads(body)
    assert status == 200 and (lent["token_type"], lent["expires_in_s"], lent["scopes"]) == ("Bearer", 60, ["infer"]), body
    theirs = ("--header", f"Authorization: Bearer {lent['token']}")
    assert curl(secured, GENERATE, *theirs)[0] == 200
    assert code_of(secured, bearer(lent["token"])) == "PERMISSION_DENIED", "it may not list models"
    for scopes, seconds in ((["admin"], 60), (["infer"], 5), (["infer"], 7_201), (["nothing"], 60)):
        refused = json.dumps({"scopes": scopes, "expires_in_s": seconds})
        status, body = curl(secured, "/v1/tokens", *json_type, *mine, data=refused)
        assert status in (400, 403), (scopes, seconds, body)
    # Nobody is lent one without a credential, and a token lends no other.
    assert curl(secured, "/v1/tokens", *json_type, data=asked)[0] == 401
    assert curl(secured, "/v1/tokens", *json_type, *theirs, data=asked)[0] in (401, 403)
    broken = lent["token"][:-2] + ("AA" if not lent["token"].endswith("AA") else "BB")
    assert curl(secured, GENERATE, "--header", f"Authorization: Bearer {broken}")[0] == 401


# ---- What is written ------------------------------------------------------------------------------------------------------


def test_the_audit_log_says_who_changed_what(secured):
    operator = ("--header", f"X-API-Key: {secured.keys['operator']}")
    audit = secured.credentials.folder / "audit.log"
    assert audit.stat().st_mode & 0o777 == 0o600
    assert curl(secured, LOAD, "--request", "POST", *operator, data=None)[0] == 200
    assert curl(secured, LOAD, "--request", "POST", data=None)[0] == 401
    assert curl(secured, UNLOAD, "--request", "POST", "--header", f"X-API-Key: {secured.keys['alice']}", data=None)[0] == 403
    secured.credentials.new_key("newcomer")

    def events() -> list[dict]:
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        assert {line["target"] for line in lines} <= {"audit"}
        return [line["fields"] for line in lines]

    def has(**wanted: str) -> bool:
        return any(wanted.items() <= fields.items() for fields in events())

    wait_until(lambda: has(event="keys", what="added", name="newcomer"), lambda: f"no new caller in {events()}")
    assert has(event="call", call="load", caller="operator", object=EXAMPLE, outcome="done"), events()
    assert has(event="call", call="unload", caller="alice", object=EXAMPLE, outcome="failed"), events()
    assert has(event="refused"), events()
    secured.credentials.revoke("newcomer")
    wait_until(lambda: has(event="keys", what="revoked", name="newcomer"), lambda: f"nobody revoked in {events()}")


def test_no_credential_is_ever_logged(tmp_path, issued):
    """At the level that says most, of all that is ours: no header with a credential, good or bad, in either log."""
    credentials = Credentials(tmp_path)
    key = credentials.new_key("alice")
    _, tokens = issued
    secrets = [key, WRONG_KEY, "open-sesame-1", "open-sesame-2\x7f", *tokens.values()]
    audit = tmp_path / "audit.log"
    settings = credentials.settings(log__audit=str(audit), log__filter="info,tidemill=trace")
    with running(*settings, kind=serving(credentials), expected_alarms=(".",)) as server:
        secured = Secured(server, credentials, {"alice": key})
        for secret in secrets:
            for header in ("authorization: Bearer", "authorization: Basic", "authorization: Key", "x-api-key:", "cookie: a="):
                # curl itself breaks off over HTTP/2 when a header that it should not have sent is refused.
                version = "--http2" if secret.isprintable() else "--http1.1"
                curl(secured, GENERATE, version, "--header", f"{header} {secret}")
        for secret in (key, WRONG_KEY, *tokens.values()):
            code_of(secured, bearer(secret))
            code_of(secured, [("x-api-key", secret)])
        server.signal()
        assert server.wait() == 0
    written = "\n".join(server.log) + audit.read_text()
    assert "refused" in written, "there are lines about refusals"
    for secret in secrets:
        # The text that all keys begin with says nothing.
        assert secret.removeprefix("tm_") not in written, f"{secret[:16]} … is in a log"


def test_what_a_client_names_cannot_forge_a_line(secured):
    audit = secured.credentials.folder / "audit.log"
    named = urllib.parse.quote('a\n{"target":"audit"}\x1b[2J\u202etxt', safe="")
    path = f"/v2/repository/models/{named}/load"
    status, _ = curl(
        secured, path, "--request", "POST", "--header", f"X-API-Key: {secured.keys['operator']}", data=None
    )
    assert status >= 400
    wait_until(lambda: "u202e" in audit.read_text(), "the name is never written")
    text = audit.read_text()
    assert not any(character in text for character in "\x1b\u202e\x7f")
    assert all(json.loads(line)["target"] == "audit" for line in text.splitlines())


def test_metrics_count_handshakes(secured):
    assert secured.server.metrics().total("tidemill_tls_handshakes_total", outcome="ok") > 0
    assert metrics.ITEMS in secured.server.get("/metrics")[1]
