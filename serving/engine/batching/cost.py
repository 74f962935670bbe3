"""The cost model of a forward pass, a function of its rows' lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Cost:
    """The cost of a forward pass, fitted to measurements.

    fixed_seconds: of any batch. token_seconds: of each token, padding included. square_seconds: of each pair of tokens
    of a row, which is attention's cost. budget_tokens: the largest batch in tokens, padding included. limit_seconds: a
    batch of several rows must not take longer. is_packed: whether rows are not padded. memory_bytes: that the largest
    batches took while they were timed.
    """

    fixed_seconds: float
    token_seconds: float
    budget_tokens: int
    square_seconds: float = 0.0
    limit_seconds: float = inf
    is_packed: bool = False
    memory_bytes: int = 0

    def seconds(self, rows: int, longest: int) -> float:
        """The expected time of a forward pass over rows of `longest` tokens."""
        return self.fixed_seconds + rows * longest * (self.token_seconds + self.square_seconds * longest)

    def work(self, lengths: Sequence[int]) -> tuple[int, int]:
        """Tokens and pairs of tokens that a forward pass over these rows computes, without the padding of buckets."""
        if self.is_packed:
            return sum(lengths), sum(length * length for length in lengths)
        padded = len(lengths) * max(lengths)
        return padded, padded * max(lengths)

    def max_rows(self, longest: int) -> int:
        """The most rows of this length that a batch may have, at least one."""
        longest = max(1, longest)
        rows = self.budget_tokens // longest
        if rows > 1 and self.seconds(rows, longest) > self.limit_seconds:
            rows = int((self.limit_seconds - self.fixed_seconds) / (self.seconds(1, longest) - self.fixed_seconds))
        return max(1, rows)

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second in batches of the budget, padding included."""
        return self.budget_tokens / (self.fixed_seconds + self.token_seconds * self.budget_tokens)
