"""Servers that speak nothing but TLS and know their callers, with certificates and keys made by the commands."""

import json
import pathlib
import ssl
import urllib.error
import urllib.request

import grpc
import places
from programs import run
from server import CHANNEL_OPTIONS, PATIENCE_S, Server


class Credentials:
    """A folder of certificates, and a keys file."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.keys = folder / "keys.toml"
        run(places.SERVER, "tls", "self-signed", folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def new_key(self, name: str, *scopes: str) -> str:
        asked = [part for scope in scopes for part in ("--scope", scope)]
        return json.loads(run(places.SERVER, "keys", "new", name, "--file", self.keys, "--json", *asked))["new_key"]["key"]

    def revoke(self, name: str) -> None:
        run(places.SERVER, "keys", "revoke", name, "--file", self.keys, "--json")

    def channel(self, ca: str = "ca.pem", cert: str | None = None) -> grpc.ChannelCredentials:
        """What a client of gRPC trusts, and shows."""
        read = lambda name: (self.folder / name).read_bytes()  # noqa: E731
        shown = (read(f"{cert}.key"), read(f"{cert}.pem")) if cert else (None, None)
        return grpc.ssl_channel_credentials(read(ca), *shown)

    def context(self, ca: str = "ca.pem") -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.path(ca))

    def settings(self, **changes: str) -> list[str]:
        """Flags of a server that has all of it; a change takes the place of what is usual."""
        usual = {
            "tls.cert": self.path("server.pem"),
            "tls.key": self.path("server.key"),
            "security.keys": str(self.keys),
        }
        given = usual | {name.replace("__", "."): value for name, value in changes.items()}
        return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]


def serving(credentials: Credentials, ca: str = "ca.pem", cert: str | None = None) -> type[Server]:
    """A kind of server whose own tests' connections are encrypted."""

    class EncryptedServer(Server):
        def connect(self) -> grpc.Channel:
            options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            return grpc.secure_channel(self.address, credentials.channel(ca, cert), options)

        def get(self, path: str) -> tuple[int, str]:
            context = credentials.context(ca)
            if cert:
                context.load_cert_chain(credentials.path(f"{cert}.pem"), credentials.path(f"{cert}.key"))
            url = f"https://{self.admin_address}{path}"
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE_S, context=context) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

    return EncryptedServer
