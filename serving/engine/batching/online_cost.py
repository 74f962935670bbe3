"""The cost model fitted online: batches with their times come in, a `Cost` leaves.

The warm-up measures a few shapes on an idle engine. Live traffic has other shapes, other processes on the machine and a
processor clock that changes. So each part of the measured cost (fixed, per token, per pair of tokens) gets a factor,
fitted to the batches that ran by least squares of relative errors with exponentially decaying weights.
"""

from dataclasses import replace

from serving.engine.batching.cost import Cost

DECAY = 0.995
"""Weight that a batch keeps with each further one: about 200 batches matter; tuned, see bench/NOTES.md, "Choosing a
batch"."""
PRIOR_BATCHES = 0.5
"""Weight, in batches, of the warm-up's proportions, which hold where the traffic's shapes determine none; tuned, see
bench/NOTES.md, "Choosing a batch"."""
MAX_DEVIATION = 2.0
"""A time is clipped to this ratio of the expected one: a process that was stopped is no trend."""
MIN_FACTOR = 0.05
"""The least factor of a part, relative to the mean factor: no cost becomes zero or negative."""
BATCHES = 16
"""Batches between two updates of the cost."""


class OnlineCost:
    """`now` starts as the measured cost and follows the batches that `observe` gets.

    batch_key: of the measured rows. Rows of another key may cost anything, so their batches are ignored.
    """

    def __init__(self, measured: Cost, batch_key: str) -> None:
        self.now = measured
        self._measured = measured
        self._batch_key = batch_key
        self._factors = (1.0, 1.0, 1.0)
        self._products = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        self._found = (0.0, 0.0, 0.0)
        self._level = 1.0
        self._batches = 0

    def observe(self, batch_key: str, tokens: int, pairs: int, seconds: float) -> None:
        """A batch of this `Cost.work` occupied its device for so long."""
        if batch_key == self._batch_key:
            self._fit(tokens, pairs, seconds)
            self._batches += 1
            if self._batches % BATCHES == 0:
                self.now = self._updated()

    def _fit(self, tokens: int, pairs: int, seconds: float) -> None:
        """Add the batch to the decaying sums of products, then improve each factor once (coordinate descent)."""
        measured = self._measured
        square = measured.square_seconds * pairs
        whole = measured.fixed_seconds + measured.token_seconds * tokens + square
        a = measured.fixed_seconds / whole
        c = square / whole
        b = 1.0 - a - c
        f, g, h = self._factors
        expected = f * a + g * b + h * c
        ratio = min(max(seconds / whole, expected / MAX_DEVIATION), expected * MAX_DEVIATION)
        aa, ab, ac, bb, bc, cc = self._products
        aa, ab, ac = DECAY * aa + a * a, DECAY * ab + a * b, DECAY * ac + a * c
        bb, bc, cc = DECAY * bb + b * b, DECAY * bc + b * c, DECAY * cc + c * c
        ya, yb, yc = self._found
        ya, yb, yc = DECAY * ya + ratio * a, DECAY * yb + ratio * b, DECAY * yc + ratio * c
        level = DECAY * self._level + (1.0 - DECAY) * ratio
        prior, least = PRIOR_BATCHES * level, MIN_FACTOR * level
        f = max(least, (ya + prior - ab * g - ac * h) / (aa + PRIOR_BATCHES))
        g = max(least, (yb + prior - ab * f - bc * h) / (bb + PRIOR_BATCHES))
        h = max(least, (yc + prior - ac * f - bc * g) / (cc + PRIOR_BATCHES))
        self._factors, self._products, self._found, self._level = (
            (f, g, h),
            (aa, ab, ac, bb, bc, cc),
            (ya, yb, yc),
            level,
        )

    def _updated(self) -> Cost:
        """The measured cost times the factors. The budget grows with the fixed part, at most twofold."""
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
