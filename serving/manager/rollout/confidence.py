"""Bounds of a mean of numbers in 0..1 that hold at all times at once, so that one may look after each request.

The bounds are a confidence sequence by the mixture method (Robbins 1970; Howard, Ramdas et al. 2021): with probability
at least 1 - error the true mean is within the bounds of every sample size. For a mean m the ratio

    M(m) = ∫ q^s (1-q)^(n-s) dBeta(q; a, a) / (m^s (1-m)^(n-s)),   s the sum of n numbers

is a martingale that begins at 1 if the numbers are 0 or 1, and a supermartingale for numbers between, as it is
convex in each of them. By Ville's inequality it ever exceeds 1/error with probability at most `error`. The bounds are
the means that it has not excluded. The numbers need not be independent: it is enough that each has the mean m given
those before it. `is_worse` judges pairs by the same inequality, with a mixture of bets (Waudby-Smith and Ramdas 2024).
"""

from math import exp, lgamma, log, log1p

PRIOR = 0.25
"""a of the Beta mixture: below Jeffreys' 0.5, as shares of errors are near 0. With it 1,090 requests without an error
show that fewer than 0.5 % fail, with 0.5 it takes 1,440."""
BETS = (0.9, 0.45, 0.225, 0.1125)
"""Of `is_worse`, as shares of the greatest one; 1 would be lost at the first pair that is better."""
BISECTIONS = 30
"""Halvings of an interval of logits: the bounds are exact to 7e-8 of a logit."""
_MAX_LOGIT = 40.0
_LOG_PRIOR = 2 * lgamma(PRIOR) - lgamma(2 * PRIOR)


def bounds(total: float, count: int, error: float) -> tuple[float, float]:
    """The lower and the upper bound of the mean of `count` numbers in 0..1 whose sum is `total`.

    error: the probability, in 0..1, with which either bound is ever wrong.
    """
    if not count:
        return 0.0, 1.0
    return lower(total, count, error), 1.0 - lower(count - total, count, error)


def lower(total: float, count: int, error: float) -> float:
    """The lower bound alone."""
    mean = total / count
    if total <= 0.0:
        return 0.0
    threshold = _log_mixture(total, count) + log(error)
    low, high = -_MAX_LOGIT, _MAX_LOGIT if mean >= 1.0 else log(mean / (1.0 - mean))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _log_likelihood(total, count, middle) < threshold:
            low = middle
        else:
            high = middle
    return 1.0 / (1.0 + exp(-low))


def is_above(total: float, count: int, limit: float, error: float) -> bool:
    """Whether the lower bound is above `limit`, which is strictly between 0 and 1; cheaper than the bound."""
    if not count or total <= limit * count:
        return False
    likelihood = _log_likelihood(total, count, log(limit / (1.0 - limit)))
    return likelihood < _log_mixture(total, count) + log(error)


def is_below(total: float, count: int, limit: float, error: float) -> bool:
    """Whether the upper bound is below `limit`."""
    return is_above(count - total, count, 1.0 - limit, error)


def is_worse(worse: int, better: int, count: int, limit: float, error: float) -> bool:
    """Whether the mean of `count` differences, each -1, 0 or 1, is surely above `limit`.

    worse, better: how many are 1, and how many are -1. Where one side failed and the other, too, the pair may count in
    both: that, and more `better` ones than there are, only makes it less certain. limit: from 0 to below 1. error: the
    probability with which this is ever wrong, however often one looks.
    """
    threshold = log(len(BETS) / error)
    for share in BETS:
        bet = share / (1.0 + limit)
        gain = worse * log1p(bet * (1.0 - limit)) + better * log1p(-share)
        if gain + (count - worse - better) * log1p(-bet * limit) >= threshold:
            return True
    return False


def _log_mixture(total: float, count: int) -> float:
    """The logarithm of the integral."""
    ones, zeros = PRIOR + total, PRIOR + count - total
    return lgamma(ones) + lgamma(zeros) - lgamma(ones + zeros) - _LOG_PRIOR


def _log_likelihood(total: float, count: int, logit: float) -> float:
    """The logarithm of m^s (1-m)^(n-s), of the mean with this logit."""
    return -total * _softplus(-logit) - (count - total) * _softplus(logit)


def _softplus(value: float) -> float:
    return max(value, 0.0) + log1p(exp(-abs(value)))
