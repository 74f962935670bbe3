"""What goes wrong with one version, kept from the others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from registry.redaction import describe_error

logger = logging.getLogger("headwaiter.manager")


class Troubles:
    """The errors of the last turn, each of which is logged once."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str, str], str] = {}

    @contextmanager
    def apart(self, what: str, name: str, version: str = "") -> Iterator[None]:
        """Keep what goes wrong with one version or model from the others: log it, and try again in the next turn."""
        try:
            yield
        except Exception as error:
            told = describe_error(error)
            if self._told.get((what, name, version)) != told:  # there are twenty turns a second
                logger.exception("could not %s %s; it is tried again", what, f"{name}/{version}" if version else name)
            self._told[what, name, version] = told
        else:
            self._told.pop((what, name, version), None)
