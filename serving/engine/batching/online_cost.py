"""The cost of a forward pass as the engine sees it while it serves: batches with their times come in, a `Cost` leaves.

The warm-up measured a few shapes on a quiet engine; live traffic has other shapes, neighbours on the machine and a
clock that changes. So each part of the measured cost (fixed, per token, per pair of tokens) gets a factor, fitted to
the batches that ran: least squares of relative errors, in which old batches fade out.
"""

from dataclasses import replace

from serving.engine.batching.cost import Cost

KEEP = 0.995
"""What a batch counts for after one more: some 200 batches matter. Ours."""
PULL = 0.5
"""Batches that speak for the warm-up's proportions; what the traffic's shapes leave open stays as measured. Ours."""
WILD = 2.0
"""A time further than this ratio from the expected one counts as if it were there: a stopped process is no trend."""
LEAST = 0.05
"""The least factor of any part, relative to the mean one; so no cost is ever zero or negative."""
BATCHES = 16
"""The cost is renewed after so many."""


class LearnedCost:
    """`now` begins as measured and follows what `observe` is told. kind: of rows like those that were measured.

    Rows of other kinds may cost anything (a text to generate, say) and teach nothing.
    """

    def __init__(self, measured: Cost, kind: str) -> None:
        self.now = measured
        self._measured = measured
        self._kind = kind
        self._factors = (1.0, 1.0, 1.0)
        self._products = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        self._found = (0.0, 0.0, 0.0)
        self._level = 1.0
        self._batches = 0

    def observe(self, kind: str, tokens: int, pairs: int, seconds: float) -> None:
        """A batch of this `Cost.work` had its device for so long."""
        if kind == self._kind:
            self._learn(tokens, pairs, seconds)
            self._batches += 1
            if self._batches % BATCHES == 0:
                self.now = self._renewed()

    def _learn(self, tokens: int, pairs: int, seconds: float) -> None:
        """Add the batch to the faded sums of products, then better each factor once, the others as they are."""
        measured = self._measured
        square = measured.square_seconds * pairs
        whole = measured.fixed_seconds + measured.token_seconds * tokens + square
        a = measured.fixed_seconds / whole
        c = square / whole
        b = 1.0 - a - c
        f, g, h = self._factors
        expected = f * a + g * b + h * c
        ratio = min(max(seconds / whole, expected / WILD), expected * WILD)
        aa, ab, ac, bb, bc, cc = self._products
        aa, ab, ac = KEEP * aa + a * a, KEEP * ab + a * b, KEEP * ac + a * c
        bb, bc, cc = KEEP * bb + b * b, KEEP * bc + b * c, KEEP * cc + c * c
        ya, yb, yc = self._found
        ya, yb, yc = KEEP * ya + ratio * a, KEEP * yb + ratio * b, KEEP * yc + ratio * c
        level = KEEP * self._level + (1.0 - KEEP) * ratio
        pull, least = PULL * level, LEAST * level
        f = max(least, (ya + pull - ab * g - ac * h) / (aa + PULL))
        g = max(least, (yb + pull - ab * f - bc * h) / (bb + PULL))
        h = max(least, (yc + pull - ac * f - bc * g) / (cc + PULL))
        self._factors, self._products, self._found, self._level = (
            (f, g, h),
            (aa, ab, ac, bb, bc, cc),
            (ya, yb, yc),
            level,
        )

    def _renewed(self) -> Cost:
        """The measured cost times the factors; batches grow as a forward pass's fixed part does, twofold at most."""
        fixed, token, square = self._factors
        growth = min(2.0, max(0.5, fixed / token))
        measured = self._measured
        return replace(
            measured,
            fixed_seconds=measured.fixed_seconds * fixed,
            token_seconds=measured.token_seconds * token,
            square_seconds=measured.square_seconds * square,
            budget_tokens=max(1, int(measured.budget_tokens * growth)),
        )
