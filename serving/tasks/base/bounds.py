"""The bounds of what a request costs beyond its body. Front side.

A small body can ask for much: each label of each text is a row, a template repeats a label, and each candidate of each
mask repeats the text. Each task declares what its inputs expand to (`Task.cost`) and what its answers take
(`Task.answer_bytes`). A request over a bound is refused before anything of it is built, whatever its protocol.
"""

import msgspec

from serving.errors import TooLarge
from serving.settings import DEFAULT_BODY_BYTES, ServingSettings
from serving.tasks.base.cost import ItemCost
from serving.tasks.base.request import Request
from serving.tasks.base.task import AnyTask
from serving.tasks.base.version_context import VersionContext

ROWS_PER_INPUT = 16
"""Rows that an input may come to, on average of a request with all inputs that it may have. Untuned: a batch may have a
few labels each, and a single input the most labels of all."""
PIXEL_BYTES_PER_BODY_BYTE = 4
"""Bytes of decoded pixels for each byte that a body may have. Untuned: 222 images of 224 x 224 pixels."""


class RequestBounds(msgspec.Struct, frozen=True):
    """What one request may come to. answer_bytes: memory of the answer while it is written."""

    rows: int
    characters: int
    pixel_bytes: int
    answer_bytes: int

    @classmethod
    def of(cls, settings: ServingSettings) -> "RequestBounds":
        """The bounds that follow from a server's settings.

        A bound that is set low does not make the other ones stricter than they are by default.
        """
        body_bytes = max(DEFAULT_BODY_BYTES, settings.max_body_bytes)
        return cls(
            rows=ROWS_PER_INPUT * settings.max_rows,
            characters=body_bytes,
            pixel_bytes=PIXEL_BYTES_PER_BODY_BYTE * body_bytes,
            answer_bytes=settings.max_answer_bytes,
        )

    def check(self, cost: ItemCost) -> None:
        """Raise TooLarge where inputs come to more than a request may."""
        if cost.rows > self.rows:
            raise TooLarge(
                f"inputs and parameters make {cost.rows:,} rows and more, a request may have {self.rows:,} "
                f"({ROWS_PER_INPUT} x HEADWAITER_MAX_ROWS): send them in several requests"
            )
        if cost.characters > self.characters:
            raise TooLarge(
                f"inputs and parameters make {cost.characters:,} characters in {cost.rows:,} rows and more, a request "
                f"may have {self.characters:,}: shorten the texts, send them in several requests, or raise "
                "HEADWAITER_MAX_BODY_BYTES"
            )
        if cost.pixel_bytes > self.pixel_bytes:
            raise TooLarge(
                f"inputs has images of {cost.pixel_bytes:,} bytes of pixels and more, a request may have "
                f"{self.pixel_bytes:,}: send them in several requests, or raise HEADWAITER_MAX_BODY_BYTES"
            )

    def check_answer(self, size_bytes: int) -> None:
        """Raise TooLarge for an answer that would take more memory than one may."""
        if size_bytes > self.answer_bytes:
            raise TooLarge(
                f"the answer would take about {size_bytes:,} bytes of memory, a request's answer may take "
                f"{self.answer_bytes:,}: ask for less in one request, or raise HEADWAITER_MAX_ANSWER_BYTES"
            )


def check_cost(request: Request, task: AnyTask, version: VersionContext, bounds: RequestBounds) -> ItemCost:
    """What all inputs expand to together. Raises TooLarge at the first input that exceeds a bound."""
    total = task.cost(request.items[0], request.parameters, version)
    bounds.check(total)
    for item in request.items[1:]:
        total = total.plus(task.cost(item, request.parameters, version))
        bounds.check(total)
    return total
