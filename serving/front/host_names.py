"""The names that this server answers to: what a `Host` header may say.

A page of another site can point a name of its own at this machine, and a browser then takes this server for a part of
that site (DNS rebinding). The header still has that name. Where keys are asked for, the page has none, and any name is
answered to. The address that a client connected to is always answered to, as no name leads there: probes of Kubernetes
and Prometheus ask a pod by its address.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from serving.errors import WrongHost
from serving.front.asgi import Scope

ALL_HOSTS = "*"
_REMEMBERED = 256


class HostNames:
    """The names of one front. is_open: whether all are answered to."""

    def __init__(self, names: Sequence[str]) -> None:
        """names: in lower case, addresses of IPv6 without brackets."""
        self.is_open = ALL_HOSTS in names
        self._names = frozenset(names)
        self.has = lru_cache(_REMEMBERED)(self._has)
        """Whether a header's value, with or without a port, is one of them."""

    def check(self, scope: Scope) -> None:
        """Raise WrongHost unless a request has a host, and only hosts that this server answers to."""
        if self.is_open:
            return
        given = [value for name, value in scope["headers"] if name == b"host"]
        own = scope.get("server")
        if given and all(self.has(value) or (own is not None and _is_address(value, own[0])) for value in given):
            return
        named = f"the host {given[0].decode('latin-1')!r}" if given else "a request without a host"
        raise WrongHost(
            f"this server does not answer to {named}: ask one of {', '.join(sorted(self._names))}, or let "
            "HEADWAITER_ALLOWED_HOSTS name it"
        )

    def _has(self, value: bytes) -> bool:
        return _name_of(value) in self._names


def _name_of(value: bytes) -> str | None:
    """The name, or the address without brackets, that a header's value has with or without a port."""
    found = name_and_port(value)
    return None if found is None else found[0]


def name_and_port(value: bytes) -> tuple[str, str] | None:
    """The name, or the address without brackets, and the port or "" of a header's value; None for what is no host."""
    text = value.decode("latin-1").strip().lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        rest = rest if bracket else "?"
    else:
        name, colon, port = text.partition(":")
        name, rest = name.removesuffix("."), colon + port
    if not rest or (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdecimal()):
        return name, rest[1:]
    return None


@lru_cache(_REMEMBERED)
def _is_address(value: bytes, own: str) -> bool:
    """Whether a header's value is the address `own`, which a client connected to."""
    try:
        return _address(_name_of(value) or "") == _address(own)
    except ValueError:
        return False


def _address(text: str) -> object:
    """An address, as IPv4 where a socket of IPv6 took a client of IPv4. Raises ValueError."""
    found = ip_address(text)
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
