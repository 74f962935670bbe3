"""What a forward pass costs, as a function of its rows' lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Cost:
    """What a forward pass costs, fitted to measurements: `seconds(rows, longest)`.

    fixed_seconds: whatever is in it. token_seconds: of each token, padding too. square_seconds: of each pair of tokens
    of a row, as attention sees them. budget_tokens: the largest padded size of a batch, rows times longest row.
    limit_seconds: a batch of several rows shall not take longer. packs: whether rows are not padded.
    """

    fixed_seconds: float
    token_seconds: float
    budget_tokens: int
    square_seconds: float = 0.0
    limit_seconds: float = inf
    packs: bool = False

    def seconds(self, rows: int, longest: int) -> float:
        """The expected time of a forward pass of rows of one length."""
        return self.fixed_seconds + rows * longest * (self.token_seconds + self.square_seconds * longest)

    def work(self, lengths: Sequence[int]) -> tuple[int, int]:
        """Tokens that a forward pass of these rows computes, and pairs of tokens of a row.

        Without those that make the size of a line a round one.
        """
        if self.packs:
            return sum(lengths), sum(length * length for length in lengths)
        padded = len(lengths) * max(lengths)
        return padded, padded * max(lengths)

    def most_rows(self, longest: int) -> int:
        """How many rows of this length a batch may have, at least one."""
        longest = max(1, longest)
        rows = self.budget_tokens // longest
        if rows > 1 and self.seconds(rows, longest) > self.limit_seconds:
            rows = int((self.limit_seconds - self.fixed_seconds) / (self.seconds(1, longest) - self.fixed_seconds))
        return max(1, rows)

    @property
    def slack_tokens(self) -> float:
        """How many tokens of padding cost as much as one more forward pass."""
        return self.fixed_seconds / self.token_seconds

    @property
    def tokens_per_second(self) -> float:
        """Padded tokens a second in batches of the budget."""
        return self.budget_tokens / (self.fixed_seconds + self.token_seconds * self.budget_tokens)
