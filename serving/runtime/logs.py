"""The log of fronts, manager and engines: one JSON object a line, on standard error."""

import json
import logging
import sys
import time
from datetime import UTC, datetime

LINES_PER_SECOND = 50


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
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
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
            record.fields = {**getattr(record, "fields", {}), "lines_dropped_before": self._dropped}
            self._dropped = 0
        return True


def set_up_logging() -> None:
    """Send everything of the logger `headwaiter` to standard error. May be called again."""
    logger = logging.getLogger("headwaiter")
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RateLimit())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
