"""The values of settings: what a text in the environment means, and defaults that the machine or other settings decide.

Numbers, switches and choices are read by their declarations, see `registry.environment`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from registry.patterns import ORIGIN
from registry.settings import InvalidSetting
from serving.runtime.limits import own_groups, usable_cores

CORES_OF_A_FRONT = 4
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
HOST = re.compile(r"[a-z0-9._\-]+|[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*|\*")
"""A name, an address, an address of IPv6, which has two colons, or all."""
_DEVICE = re.compile(r"auto|(cpu|cuda)(:[0-9]+)?")


def default_workers(environ: Mapping[str, str] = os.environ) -> int:
    """One front process for each four cores that may be used, as an engine takes several times as much; at most 8."""
    cores, _ = usable_cores(own_groups(), environ)
    return max(1, min(8, cores // CORES_OF_A_FRONT))


def default_hosts(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """A server that everybody may ask answers to this machine's own names only, so no page can give it another."""
    is_closed = environ.get("HEADWAITER_KEYS_FILE", "").strip() or environ.get("HEADWAITER_INSECURE", "").strip() == "1"
    return ("*",) if is_closed else LOOPBACK_HOSTS


def read_path(text: str | None) -> Path | None:
    """An absolute path, or None for no text."""
    return Path(text.strip()).expanduser().absolute() if text and text.strip() else None


def read_devices(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """The devices in `HEADWAITER_DEVICE`; raises InvalidSetting for what is none."""
    if not isinstance(given, str):
        return given
    devices = tuple(part.strip() for part in given.split(",") if part.strip())
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise InvalidSetting(
                f"HEADWAITER_DEVICE={device!r} is not allowed: choose auto, cpu, cuda, or several as cuda:0,cuda:1"
            )
    return devices or ("auto",)


def read_address(variable: str, text: str | None) -> str:
    """An address of HTTP without a slash at its end, or "". Raises InvalidSetting, which does not show a password."""
    address = (text or "").strip().rstrip("/")
    if address and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", address):
        raise InvalidSetting(f"{variable} is no address: write it as http://localhost:9090")
    return address


def read_origins(text: str) -> tuple[str, ...]:
    """The origins in `HEADWAITER_CORS_ORIGINS`; raises InvalidSetting for what is none (RFC 6454)."""
    origins = tuple(dict.fromkeys(text.split()))
    for origin in origins:
        if origin != "*" and not re.fullmatch(ORIGIN, origin):
            raise InvalidSetting(
                f"HEADWAITER_CORS_ORIGINS={text!r} is not allowed: {origin!r} is no origin; give each as "
                "https://host or http://host:port in lower case, separated by spaces, or * for all"
            )
    return origins


def read_hosts(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names in `HEADWAITER_ALLOWED_HOSTS`; raises InvalidSetting for what is none."""
    if not isinstance(given, str):
        return given
    hosts = tuple(dict.fromkeys(given.lower().split()))
    for host in hosts:
        if not HOST.fullmatch(host):
            raise InvalidSetting(
                f"HEADWAITER_ALLOWED_HOSTS={given!r} is not allowed: {host!r} is no host; give names or addresses "
                "without ports and brackets, separated by spaces, or * for all"
            )
    return hosts
