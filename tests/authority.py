"""Certificates for tests: an authority, and what it signs."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.waiting import WAIT_SECONDS

NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)
SIGNS_CERTIFICATES = x509.KeyUsage(key_cert_sign=True, **NO_USAGE)


class Authority:
    """Signs certificates in its folder, `ca.pem` is its own."""

    def __init__(self, folder: Path, name: str = "an authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name, self._key = folder, _named(name), ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "ca.pem"
        own = _builder(self._name, self._name, self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        own = own.add_extension(SIGNS_CERTIFICATES, critical=True)
        own = own.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str) -> tuple[Path, Path]:
        """The files of a new certificate for this machine and of its key; those of an earlier one are replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = _builder(_named(name), self._name, key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = made.add_extension(issuer, critical=False)
        files = self._folder / "server.pem", self._folder / "server.key"
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        contents = (
            made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, form, plain),
        )
        for file, content in zip(files, contents, strict=True):
            staging = file.with_suffix(".new")
            staging.write_bytes(content)
            staging.replace(file)
        return files


def shown_name(address: tuple[str, int], authority: Authority, client: tuple[Path, Path] | None = None) -> str:
    """The name in the certificate that a server shows; raises ssl.SSLError where it lets this client not in."""
    import socket

    context = ssl.create_default_context(cafile=authority.file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    if client is not None:
        context.load_cert_chain(*client)
    with (
        socket.create_connection(address, timeout=WAIT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as link,
    ):
        certificate = link.getpeercert()
        assert certificate is not None
        subject = dict(pair for (pair,) in certificate["subject"])  # type: ignore[misc]
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert link.recv(8) == b"HTTP/1.1"
        return str(subject["commonName"])


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )
