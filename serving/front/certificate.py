"""A server's TLS certificate, which is taken up again when its files are renewed."""

import asyncio
import logging
import ssl
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from serving.runtime.tls_files import TlsFiles

LOOK_SECONDS = 1.0

logger = logging.getLogger("headwaiter.front")


class Certificate:
    """The certificate of one front. uvicorn reads it first, and its event loop brings the context of that here."""

    current: ClassVar["Certificate | None"] = None
    """Of this process, None without TLS."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._contexts: list[ssl.SSLContext] = []
        self._seen = self._look()
        self._error = ""

    async def follow(self) -> None:
        """Take up renewed files. Those that do not fit together are logged, and the certificate from before stays."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._take(await asyncio.to_thread(self._look))  # their volume may hang

    def adopt(self, context: ssl.SSLContext | None) -> None:
        """Keep this context's certificate up to date, beside those before. Called before the first handshake."""
        if context is not None and context not in self._contexts:
            self._contexts.append(context)
            self._renew()

    def look(self) -> None:
        """Take the files up if they have changed. Blocks while they are read."""
        self._take(self._look())

    def _take(self, seen: tuple[object, ...]) -> None:
        if seen != self._seen:
            self._seen = seen
            self._renew()

    def _renew(self) -> None:
        if not self._contexts:
            return
        try:
            self.files.check()  # in a context of its own: one that is refused a key has none afterwards
            for context in self._contexts:
                self.files.load_into(context)
        except (OSError, ValueError) as error:
            if str(error) != self._error:
                logger.error("the certificate from before stays: %s", error)
            self._error, self._seen = str(error), ()  # it is tried again
        else:
            self._error = ""
            logger.info("the certificate %s is in use", self.files.certificate)

    def _look(self) -> tuple[object, ...]:
        return tuple(map(_digest, self.files.paths))


def _digest(path: Path) -> bytes | None:
    """Of the content: a file that is written twice within a step of the kernel's clock may look as before."""
    try:
        return sha256(path.read_bytes()).digest()
    except OSError:
        return None
