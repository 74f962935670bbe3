"""What is looked at before a server starts: where it may listen, and that keys, certificates and audit log can be used.

Without keys a server listens at addresses only that other machines cannot reach.
"""

import ipaddress
import os
import socket

from registry.environment import InvalidSetting
from serving.runtime.audit import AuditLog
from serving.runtime.key_file import KeyFile
from serving.runtime.tls_files import TlsFiles, check_tls
from serving.settings import ServingSettings


def check_access(host: str | None, settings: ServingSettings) -> TlsFiles | None:
    """The files of TLS. Raises InvalidSetting for whatever would let anybody in, or nobody.

    host: where the server is to listen, None if its processes are to find out.
    """
    if host is not None:
        check_exposure(host, settings)
    if settings.keys_file is not None:
        KeyFile(settings.keys_file).read()
    if (audit := AuditLog.at(settings.audit_file)) is not None:
        audit.close()
    return check_tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def check_exposure(host: str, settings: ServingSettings) -> None:
    """Raise InvalidSetting if others could ask a server at this host name or address from elsewhere without a key."""
    if settings.keys_file is not None or settings.insecure or is_loopback(host):
        return
    raise InvalidSetting(
        f"other machines can reach a server at {host!r}, and this one has no keys: make some with `headwaiter keys add "
        "NAME` and let HEADWAITER_KEYS_FILE name their file; or listen at 127.0.0.1; or say --insecure "
        "(HEADWAITER_INSECURE=1) where something else keeps others out"
    )


def is_loopback(host: str) -> bool:
    """Whether every address that `host` stands for is this machine's alone; False if it stands for none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return all(_is_own(str(address[0])) for *_, address in found)


def bound_host(descriptor: int) -> str | None:
    """The address of a listening socket; None for one that is not of TCP."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        if listener.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        host: str = listener.getsockname()[0]
        return host


def _is_own(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
