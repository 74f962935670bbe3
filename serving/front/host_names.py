"""The names that this server answers to: what a `Host` header may say.

A page of another site can point a name of its own at this machine, and a browser then takes this server for a part of
that site (DNS rebinding). The header still has that name. Where keys are asked for, the page has none, and any name is
answered to.
"""

from collections.abc import Sequence
from functools import lru_cache

from serving.errors import WrongHost

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

    def check(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raise WrongHost unless these headers have a host, and only hosts that this server answers to."""
        given = [value for name, value in headers if name == b"host"]
        if self.is_open or (given and all(map(self.has, given))):
            return
        named = f"the host {given[0].decode('latin-1')!r}" if given else "a request without a host"
        raise WrongHost(
            f"this server does not answer to {named}: ask one of {', '.join(sorted(self._names))}, or let "
            "HEADWAITER_ALLOWED_HOSTS name it"
        )

    def _has(self, value: bytes) -> bool:
        text = value.decode("latin-1").strip().lower()
        if text.startswith("["):
            name, bracket, rest = text[1:].partition("]")
            rest = rest if bracket else "?"
        else:
            name, colon, port = text.partition(":")
            name, rest = name.removesuffix("."), colon + port
        return name in self._names and (not rest or (rest[0] == ":" and rest[1:].isdecimal()))
