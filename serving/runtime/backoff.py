"""How long to wait before something that failed is tried again."""

MAX_DOUBLINGS = 16


def backoff_seconds(first: float, failures: int, longest: float) -> float:
    """The pause after `failures` (at least 1) in a row: `first`, doubled with each further one, at most `longest`."""
    return min(longest, first * float(2 ** min(failures - 1, MAX_DOUBLINGS)))
