"""The audit log, `HEADWAITER_AUDIT_FILE`: who did what, one JSON object a line, appended by all processes.

Lines are never changed here. A file that was moved away, as by logrotate, is made anew.
"""

import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from registry.environment import InvalidSetting
from registry.redaction import redact

UNAUTHENTICATED_PER_SECOND = 50
"""Lines about requests without a valid key, of each process: clients without a key must not fill the disk."""
MAX_WHAT = 300
"""Characters of a request's path that are kept."""
LOOK_SECONDS = 1.0

logger = logging.getLogger("headwaiter.audit")


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. who: the name of the key, or of the user who ran a command; "" for a client without a key.

    what: a request's method and path, or a command. status: of the answer. model, version: that were asked.
    address: of the client. request_id: as in the log.
    """

    time: str
    who: str
    what: str
    status: int = 0
    model: str = ""
    version: str = ""
    address: str = ""
    request_id: str = ""
    dropped_before: int = 0


class AuditLog:
    """The file at `path`, for one process. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encode = msgspec.json.Encoder().encode
        self._descriptor = self._open()
        self._look_at = 0.0
        self._second, self._unauthenticated, self._dropped = 0, 0, 0
        self._is_failing = False

    def write(
        self,
        who: str,
        what: str,
        *,
        status: int = 0,
        model: str = "",
        version: str = "",
        address: str = "",
        request_id: str = "",
    ) -> None:
        """Append a line. A disk that takes none is logged once, and serving goes on."""
        if not who and not self._may_write_unauthenticated():
            return
        entry = AuditEntry(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            who=who,
            what=what[:MAX_WHAT],
            status=status,
            model=model[:MAX_WHAT],
            version=version,
            address=address,
            request_id=request_id,
            dropped_before=self._dropped,
        )
        try:
            self._reopen_if_moved()
            os.write(self._descriptor, self._encode(entry) + b"\n")  # one write: lines of other processes stay whole
        except OSError as error:
            self._dropped += 1
            if not self._is_failing:
                logger.error("the audit log cannot be written: %s", redact(str(error)))
            self._is_failing = True
        else:
            self._dropped, self._is_failing = 0, False

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _may_write_unauthenticated(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._unauthenticated = second, 0
        self._unauthenticated += 1
        if self._unauthenticated > UNAUTHENTICATED_PER_SECOND:
            self._dropped += 1
            return False
        return True

    def _reopen_if_moved(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._descriptor), os.stat(self._path)):
                return
        new = self._open()
        os.close(self._descriptor)
        self._descriptor = new

    @classmethod
    def at(cls, path: Path | None) -> "AuditLog | None":
        """The log at `path`, None for none. Raises InvalidSetting where it cannot be opened."""
        try:
            return None if path is None else cls(path)
        except OSError as error:
            raise InvalidSetting(
                f"HEADWAITER_AUDIT_FILE={path} cannot be written ({error.strerror}): name a file of this user"
            ) from error

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
