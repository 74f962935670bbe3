"""What engines computed for one request, and how much longer one version takes for that than another."""

from math import inf

from serving.wire.messages import Compute


class RequestCompute:
    """The forward passes with a row of one request. They have rows of others, too.

    seconds: of their processors. passes, tokens, pairs: their work. own_tokens, own_pairs: the request's part of it.
    latest: the last one of them.
    """

    __slots__ = ("latest", "own_pairs", "own_tokens", "pairs", "passes", "seconds", "tokens")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.passes = self.tokens = self.pairs = self.own_tokens = self.own_pairs = 0
        self.latest: Compute | None = None

    def add(self, compute: Compute, length: int) -> None:
        """A row of the request, of `length` tokens, was answered by this pass."""
        self.own_tokens += length
        self.own_pairs += length * length
        if compute is not self.latest:  # its first row of this pass
            self.latest = compute
            self.seconds += compute.seconds
            self.passes += 1
            self.tokens += compute.tokens
            self.pairs += compute.pairs


def slowness(candidate: RequestCompute, stable: RequestCompute) -> float | None:
    """How many times as long the candidate computed as the stable version, at least; None where that is not known.

    Both answered one request, among other rows. A pass costs a fixed time, a time of each token and one of each pair of
    tokens, whatever these are. So for the candidate's batches the stable version would have taken at most its own time,
    times the largest ratio of passes, of tokens and of pairs. Tokens are counted in lengths of the request, as the two
    versions may have different tokenizers.
    """
    for side in (candidate, stable):
        if not (0.0 < side.seconds < inf and side.tokens > 0 and side.pairs > 0 and side.own_pairs > 0):
            return None
    more = max(
        candidate.passes / stable.passes,
        candidate.tokens * stable.own_tokens / (candidate.own_tokens * stable.tokens),
        candidate.pairs * stable.own_pairs / (candidate.own_pairs * stable.pairs),
    )
    return candidate.seconds / (stable.seconds * more)
