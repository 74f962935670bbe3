"""How many values a body of JSON has, told by its bytes before anything is built of them. Front side.

Decoding holds the GIL: 1 MB that is one text takes 0.4 ms, 1 MB of empty lists 120 ms and 30 MB of memory. The bound on
a body's bytes therefore bounds neither; a bound on its values does.
"""

import numpy

from serving.errors import TooLarge

MAX_VALUES = 1 << 16
"""Values of a body: texts, numbers, lists, objects. Untuned: they decode in 30 ms at most, and a body of all rows needs
a few for each, see VALUES_PER_ROW."""
VALUES_PER_ROW = 8
"""Values that each row may have where HEADWAITER_MAX_ROWS allows many. Untuned: an object of four fields has eight."""
QUOTE, ESCAPE = b'"\\'


def check_values(body: bytes, max_rows: int = 0) -> None:
    """Raise TooLarge for a body of JSON with more values than one may have. max_rows: of a request.

    A body of no more bytes than that is not looked at. In others separators are counted: first all of them, in 0.5 ms
    for each MB, and if there are too many, those outside of texts, in 3 ms.
    """
    if len(body) <= MAX_VALUES:
        return
    limit = max_values(max_rows)
    if _count(body) > limit and _count(_beside_texts(body)) > limit:
        raise TooLarge(
            f"the body has more than {limit:,} values of JSON (texts, numbers, lists, objects): send less at a time"
        )


def max_values(max_rows: int) -> int:
    """How many values one body may have. max_rows: of a request."""
    return max(MAX_VALUES, VALUES_PER_ROW * max_rows)


def _count(body: bytes) -> int:
    """The separators, after each of which there is a value."""
    return len(body) - len(body.translate(None, b",:[{"))


def _beside_texts(body: bytes) -> bytes:
    """The bytes after an even number of quotes, up to the first place where it is no JSON.

    A quote after an odd number of backslashes is a part of its text.
    """
    given = numpy.frombuffer(body, dtype=numpy.uint8)
    quotes = given == QUOTE
    slashes = numpy.flatnonzero(given == ESCAPE)
    begins = numpy.diff(slashes, prepend=-2) != 1  # a run of backslashes
    first = numpy.maximum.accumulate(numpy.where(begins, slashes, 0))
    escaped = slashes[(slashes - first) % 2 == 0] + 1
    quotes[escaped[escaped < len(given)]] = False
    is_within = numpy.cumsum(quotes, dtype=numpy.uint8) & 1  # the sum's lowest bit stays right when it overflows
    beside: bytes = given[is_within == 0].tobytes()
    return beside
