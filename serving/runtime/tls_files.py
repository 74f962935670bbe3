"""The files of TLS: a server's certificate with its key, and the authorities whose clients it takes."""

import ssl
from pathlib import Path
from typing import Any

import msgspec

from registry.environment import InvalidSetting


class TlsFiles(msgspec.Struct, frozen=True):
    """certificate: the chain, key: its private key, both in PEM. client_authorities: None for clients without one."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        given = (self.certificate, self.key, self.client_authorities)
        return tuple(path for path in given if path is not None)

    def check(self) -> None:
        """Raise OSError or ValueError unless the files can be read and fit together."""
        self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def load_into(self, context: ssl.SSLContext) -> None:
        """Use them for the handshakes that come. Authorities are added to those that are there."""
        context.load_cert_chain(self.certificate, self.key, password=_no_password)
        if self.client_authorities is not None:
            context.load_verify_locations(self.client_authorities)

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """The content of certificate, key and authorities. Raises OSError or ValueError unless they fit together."""
        found = [path.read_bytes() for path in self.paths]
        self.check()
        if found != [path.read_bytes() for path in self.paths]:
            raise ValueError("the files are being renewed")
        return found[0], found[1], found[2] if len(found) > 2 else None

    def options(self) -> list[str]:
        """The options of BentoML's command."""
        found = ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)]
        if self.client_authorities is not None:
            found += ["--ssl-ca-certs", str(self.client_authorities), "--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))]
        return found

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "TlsFiles | None":
        """The files that BentoML's process was told of; None for a server without TLS."""
        certificate, key, authorities = (options.get(f"ssl_{name}") for name in ("certfile", "keyfile", "ca_certs"))
        if not certificate:
            return None
        return cls(Path(certificate), Path(key or certificate), Path(authorities) if authorities else None)


def check_tls(certificate: Path | None, key: Path | None, client_authorities: Path | None) -> TlsFiles | None:
    """The files, None for a server without TLS. Raises InvalidSetting unless they are complete and fit together."""
    if certificate is None and key is None and client_authorities is None:
        return None
    if certificate is None or key is None:
        raise InvalidSetting(
            "TLS needs a certificate and its key: --tls-cert and --tls-key (HEADWAITER_TLS_CERT, HEADWAITER_TLS_KEY)"
        )
    files = TlsFiles(certificate, key, client_authorities)
    for path in files.paths:
        try:
            path.read_bytes()
        except OSError as error:
            raise InvalidSetting(
                f"the TLS file {path} cannot be read ({error.strerror}): name a file that this user may read"
            ) from error
    try:
        files.check()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = ", ".join(map(str, files.paths))
        raise InvalidSetting(
            f"the TLS files {names} cannot be used ({error}): give a certificate, its own private key without a "
            "password, and the authorities of clients, if these have certificates, each in PEM"
        ) from error
    return files


def _no_password() -> str:
    raise ValueError("the key is encrypted, and a server has nobody to ask for its password")
