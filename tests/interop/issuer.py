"""Makes what an operator gets from others: an issuer's keys and tokens, good and bad, and certificates that are not good. Prints the tokens
as one JSON object.

A separate program, because what it needs is in the environment of KServe's client. Usage: python issuer.py FOLDER
"""

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import pathlib
import sys
import time

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ISSUER, AUDIENCE = "https://issuer.example", "tidemill"
DAY = datetime.timedelta(days=1)


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.key = new_key()
        self.name = named("other authority")
        certificate = self.build(self.name, self.key, ends=DAY).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.write("other-ca", certificate)

    def build(self, subject: x509.Name, key, ends: datetime.timedelta) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
        return builder.not_valid_before(now - 3 * DAY).not_valid_after(now + ends)

    def issue(self, name: str, host: str, ends: datetime.timedelta) -> None:
        key = new_key()
        address = ipaddress.ip_address("127.0.0.1")
        names = [x509.DNSName(host)] + ([x509.IPAddress(address)] if host == "localhost" else [])
        builder = self.build(named(host), key, ends).add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        self.write(name, builder)
        (self.folder / f"{name}.key").write_bytes(pem(key))

    def write(self, name: str, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self.key, hashes.SHA256())
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def signed_with_public_key(key, claims: dict) -> str:
    """What a library takes that lets the token say by which algorithm it is checked: the public key as a shared secret."""
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "one"}).encode())
    text = head + b"." + encoded(json.dumps(claims).encode())
    return (text + b"." + encoded(hmac.digest(public, text, hashlib.sha256))).decode()


def main(folder: pathlib.Path) -> None:
    authority = Authority(folder)
    authority.issue("untrusted", "localhost", DAY)
    authority.issue("elsewhere", "other.example", DAY)
    authority.issue("expired", "localhost", -DAY)

    key, now = new_key(), int(time.time())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [public | {"kid": "one", "use": "sig", "alg": "ES256"}]}))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "tenant": "acme", "scope": "infer models:read", "exp": now + 600}

    def signed(key=key, **changes) -> str:
        return jwt.encode(claims | changes, key, algorithm="ES256", headers={"kid": "one"})

    print(
        json.dumps(
            {
                "good": signed(),
                "expired": signed(exp=now - 3_600),
                "wrong audience": signed(aud="another"),
                "wrong issuer": signed(iss="https://other.example"),
                "future": signed(nbf=now + 3_600),
                "another's key": signed(new_key()),
                "no signature": jwt.encode(claims, None, algorithm="none", headers={"kid": "one"}),
                "public key as secret": signed_with_public_key(key, claims),
            }
        )
    )


main(pathlib.Path(sys.argv[1]))
