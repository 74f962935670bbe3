"""Whether a queue has room for a request: that of an engine, or of the requests that wait for one."""

from serving.errors import QueueFull, TooLarge


def admit(tokens: int, taken: int, bound: int, tokens_per_second: float) -> None:
    """Return if there is room for a request in a queue that holds `taken` of `bound` tokens.

    Raises TooLarge where it never fits, and QueueFull with the time in which the queue is computed.
    """
    if tokens > bound:
        raise TooLarge(f"the request has {tokens:,} tokens, the queue takes {bound:,}: send it in several requests")
    if taken + tokens > bound:
        raise QueueFull(
            f"the queue is full ({taken:,} of {bound:,} tokens): try again later",
            retry_seconds=taken / tokens_per_second,
        )
