"""The requests of one connection, as llhttp parses them, of which none may begin another protocol."""

from collections.abc import Sequence
from contextlib import suppress

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.front.asgi import Header


class RequestStream(HttpToolsProtocol):
    """uvicorn's connection, where an `Upgrade` has no effect: no route takes it (RFC 9110, 7.8).

    llhttp takes what follows the head of such a request for another protocol, so it skips the body. A subclass does not
    begin the request while `is_upgrade`: `parse` has the same head parsed again, without the header.
    """

    _discards = False
    """What the client sends from now on."""

    def parse(self, data: bytes) -> None:
        """Parse what came. Raises HttpParserError."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on(memoryview(data), upgrade.args[0])

    def _go_on(self, data: memoryview, end: int) -> None:
        """Parse the head before `end` again, and what follows."""
        while not self._discards:
            method, version = self.parser.get_method(), self.parser.get_http_version()
            if method == b"CONNECT":  # another protocol follows even without the header
                raise httptools.HttpParserInvalidMethodError("the server is no proxy")
            self.parser = httptools.HttpRequestParser(self)  # the other one takes nothing after a `Connection: close`
            with suppress(AttributeError):  # as uvicorn: httptools before 0.6.3
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(without_upgrade(method, self.url, version, self.headers))
            data = data[end:]
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:  # of a later request
                end = upgrade.args[0]

    def _should_upgrade_to_ws(self) -> bool:
        return False


def without_upgrade(method: bytes, target: bytes, version: str, headers: Sequence[Header]) -> bytes:
    """The head of a request without `Upgrade`."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join((*lines, b"", b""))


def codings(headers: Sequence[Header]) -> list[bytes]:
    """The transfer codings of a body, in the order in which they were applied."""
    values = b",".join([value for name, value in headers if name == b"transfer-encoding"])
    return [coding for part in values.lower().split(b",") if (coding := part.strip())]
