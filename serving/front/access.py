"""Who a request comes from, and what that one may do: the key is checked before anything of a body is read.

`app` and `fast_path` admit each request here, whatever its route. Whoever was admitted is the `caller` of the task that
answers, and `visible_models`, through which every protocol gets to a model, asks here what the caller may. A server
without keys asks for none, which costs one look at `is_open`.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

from registry.environment import InvalidSetting
from serving.errors import Forbidden, Unauthorized
from serving.front.asgi import Header
from serving.front.key_limits import KeyLimits
from serving.runtime.audit import AuditLog
from serving.runtime.key_file import ANYBODY, NOBODY, AccessKey, KeyFile, Keys

RELOAD_SECONDS = 0.5
_SCHEME = b"bearer "

_visit: ContextVar["Visit | None"] = ContextVar("headwaiter_visit", default=None)

logger = logging.getLogger("headwaiter.access")


class Visit:
    """A request that was admitted. `leave` is to be called once it has ended. model: that it asked for, or ""."""

    __slots__ = ("_limits", "key", "model")

    def __init__(self, key: AccessKey, limits: KeyLimits | None = None) -> None:
        self.key = key
        self.model = ""
        self._limits = limits

    def begin(self) -> None:
        """Let this task, and those that it starts, answer in the name of the key."""
        _visit.set(self)

    def leave(self) -> None:
        """Count the end of the request, which no longer takes one of the key's places. Later calls do nothing."""
        if self._limits is not None:
            self._limits.leave(self.key)
            self._limits = None


def current_visit() -> Visit | None:
    """That of this task, None for a request that was not admitted."""
    return _visit.get()


def forget_visit() -> None:
    """A request begins in this task, which may be one that the connection's request before has started."""
    _visit.set(None)


class Access:
    """The keys of one front. is_open: whether requests need none. audit: the audit log, or None.

    is_watched: whether requests are to be admitted, for their keys or for the audit log.
    """

    def __init__(self, file: Path | None, audit_file: Path | None = None) -> None:
        """Raises InvalidSetting for a file that cannot be read or trusted, or written."""
        self._file = KeyFile(file) if file is not None else None
        self._keys = Keys()
        self.is_open = self._file is None
        self.audit = AuditLog.at(audit_file)
        self.is_watched = not self.is_open or self.audit is not None
        self._limits: KeyLimits | None = None
        self._reload()

    def start(self, run: Path, fronts: int, own: int) -> None:
        """Count together with the other fronts of the server, from now on. own: this front's place, from 0."""
        if not self.is_open:
            self._limits = KeyLimits(run, fronts, own)

    def close(self) -> None:
        """Let go of the counts."""
        if self._limits is not None:
            self._limits.close()
            self._limits = None
        if self.audit is not None:
            self.audit.close()
            self.audit, self.is_watched = None, not self.is_open

    async def follow(self) -> None:
        """Take up changes of the file. One that cannot be used is logged, and the keys before it stay valid."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                self._reload()
            except InvalidSetting as error:
                logger.error("the keys from before stay valid: %s", error)

    def admit(self, headers: Iterable[Header]) -> Visit:
        """The visit of a request with these headers. Raises Unauthorized, KeyLimitReached."""
        if self.is_open:
            return Visit(ANYBODY)
        key = self._identify(headers)
        if not key.is_limited:
            return Visit(key)
        assert self._limits is not None, "requests come after `start`"
        self._limits.enter(key)
        return Visit(key, self._limits)

    def caller(self) -> AccessKey:
        """Who the request of this task comes from."""
        if self.is_open:
            return ANYBODY
        visit = _visit.get()
        return NOBODY if visit is None else visit.key

    def check_model(self, name: str) -> None:
        """Raise Forbidden if the caller may not ask `name`, which may have an alias; whether or not it is there."""
        model, visit = name.partition("@")[0], _visit.get()
        if visit is not None:
            visit.model = name
        if not self.is_open and not self.caller().may_ask(model):
            raise Forbidden(
                f"this key may not ask for the model {model!r}: choose one of GET /models, or get a key that may"
            )

    def check_admin(self, what: str) -> None:
        """Raise Forbidden if the caller is no operator. what: to be seen or done, for the message."""
        if not self.caller().admin:
            raise Forbidden(f"{what} takes a key that was made with --admin")

    def _identify(self, headers: Iterable[Header]) -> AccessKey:
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            raise Unauthorized("this server asks for a key: send the header Authorization: Bearer KEY")
        value = given[0]
        if len(given) == 1 and value[: len(_SCHEME)].lower() == _SCHEME:
            key = self._keys.find(value[len(_SCHEME) :].strip())
            if key is not None:
                return key
        raise Unauthorized("the key is not valid: send the header Authorization: Bearer KEY with a key of this server")

    def _reload(self) -> None:
        if self._file is not None:
            keys = self._file.read_if_changed()
            if keys is not None:
                self._keys = keys
                logger.info("%d keys are valid", len(keys.keys))
