"""The log of fronts, manager and engines: one JSON object a line, on standard error. It shows no secrets."""

import json
import logging
import sys
import threading
import time
import traceback
import warnings
from datetime import UTC, datetime
from types import TracebackType

from registry.redaction import redact, redact_texts

LINES_PER_SECOND = 50


class RedactedRecord(logging.LogRecord):
    """A record of any library's logger, whose message and traceback show no secret, whatever handler writes it."""

    _traceback: str | None = None

    def getMessage(self) -> str:  # noqa: N802  # logging's name
        """The message with its arguments."""
        return redact(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        """The traceback, which formatters take instead of making their own."""
        if self._traceback is None and self.exc_info and self.exc_info[1]:
            self._traceback = redact("".join(traceback.format_exception(self.exc_info[1])).rstrip())
        return self._traceback

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._traceback = text


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, pid, message; then the fields of `extra={"fields": {…}}`, and an error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without a line break."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **redact_texts(getattr(record, "fields", {})),
        }
        if record.exc_info:
            line["traceback"] = record.exc_text or redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class RateLimit(logging.Filter):
    """Passes the first LINES_PER_SECOND lines of each second; the next line that passes says how many were dropped.

    A flood of failing requests must fill neither the disk nor the event loop.
    """

    def __init__(self, lines: int = LINES_PER_SECOND) -> None:
        super().__init__()
        self._lines = lines
        self._second, self._passed, self._dropped = 0, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._passed = second, 0
        self._passed += 1
        if self._passed > self._lines:
            self._dropped += 1
            return False
        if self._dropped:
            record.fields = {**getattr(record, "fields", {}), "dropped_before": self._dropped}
            self._dropped = 0
        return True


def hide_secrets() -> None:
    """Let no record of a logger and no traceback that ends a thread or this process show a secret."""
    logging.setLogRecordFactory(RedactedRecord)
    sys.excepthook = _print_exception
    threading.excepthook = lambda raised: _print_exception(raised.exc_type, raised.exc_value, raised.exc_traceback)


def set_up_logging() -> None:
    """Send everything of the logger `headwaiter` to standard error, without secrets. May be called again."""
    hide_secrets()
    logger = logging.getLogger("headwaiter")
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RateLimit())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _print_exception(kind: type[BaseException], raised: BaseException | None, place: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):  # which ends a thread without a word
        sys.stderr.write(redact("".join(traceback.format_exception(kind, raised, place))))


def quiet_pillow() -> None:
    """Ignore Pillow's warnings in this process: it has one for each odd tag of a file. What is wrong is refused."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
