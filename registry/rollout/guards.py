"""Guards: what a candidate must keep to, as a user writes it. `serving.manager.rollout.verdict` judges by them.

errors < stable + 1%         the share of requests that failed on the server's side, against the stable version's; of
                             shadows, those that the candidate could not answer
refusals < stable + 1%       the share of requests that were refused, as the queue was full
p50 < 1.2 × stable           the median of the time to an answer; p90 and p99 likewise. `x` and `*` mean `×`
compute < 2 × stable         how long the model itself computes for a request; measured by shadows
agreement > 97%              how far the answers of both versions to the same requests agree; measured by shadows
confidence shift < 0.05      the difference of the mean scores of answered labels, in either direction
label shift < 0.2            the population stability index (PSI) of the answered labels against the stable version's
promql(QUERY) < 0.5          what a Prometheus answers, or `>`; several such guards may be given
"""

import math
import re
from decimal import Decimal
from typing import Literal, get_args

import msgspec

from registry.errors import RolloutError

GuardMetric = Literal[
    "errors", "refusals", "p50", "p90", "p99", "compute", "agreement", "confidence shift", "label shift", "promql"
]
METRICS: tuple[GuardMetric, ...] = get_args(GuardMetric)

MAX_GUARDS = 16
"""Of a rollout. Untuned: their figures fit a tag, and their queries one cycle of a server."""

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_FORMS: dict[GuardMetric, tuple[str, str, float, float]] = {
    "errors": (rf"< stable \+ {_NUMBER} ?%", "errors < stable + 1%", 0.0, 100.0),
    "refusals": (rf"< stable \+ {_NUMBER} ?%", "refusals < stable + 1%", 0.0, 100.0),
    "p50": (rf"< {_NUMBER} ?× ?stable", "p50 < 1.2 × stable", 1.0, 100.0),
    "p90": (rf"< {_NUMBER} ?× ?stable", "p90 < 1.2 × stable", 1.0, 100.0),
    "p99": (rf"< {_NUMBER} ?× ?stable", "p99 < 1.2 × stable", 1.0, 100.0),
    "compute": (rf"< {_NUMBER} ?× ?stable", "compute < 2 × stable", 1.0, 50.0),
    "agreement": (rf"> {_NUMBER} ?%", "agreement > 97%", 0.0, 100.0),
    "confidence shift": (rf"< {_NUMBER}", "confidence shift < 0.05", 0.0, 1.0),
    "label shift": (rf"< {_NUMBER}", "label shift < 0.2", 0.0, 10.0),
}
"""Of each metric: its form after the name, an example, and the bounds of its number, neither of them included."""
_PROMQL = re.compile(r"promql\((.*\S.*)\)\s*([<>])\s*(-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)", re.DOTALL)
_NAME = re.compile(r"[a-z][a-z0-9]*(?: [a-z]+)?")


class Guard(msgspec.Struct, frozen=True):
    """A limit of one metric. limit: a share or a difference in 0..1, of quantiles a factor, of label shift a PSI.

    query: of PromQL, else "". is_least: whether a query's values must be above the limit, not below.
    """

    metric: GuardMetric
    limit: float
    query: str = ""
    is_least: bool = False

    @classmethod
    def parse(cls, text: str) -> "Guard":
        """Read a guard. Raises RolloutError, which shows the form."""
        if text.strip().lower().startswith("promql"):
            return cls._parse_query(text.strip())
        plain = " ".join(text.lower().replace("*", "×").split())
        plain = re.sub(r"(?<=[0-9 ])x(?=[ s])", "×", plain)
        plain = re.sub(r" ?([<>+]) ?", r" \1 ", plain)
        name = _NAME.match(plain)
        metric = next((each for each in METRICS if name is not None and name[0] == each), None)
        if metric is None:
            raise RolloutError(f"guard {text[:100]!r} begins with no metric: choose one of {', '.join(METRICS)}")
        form, example, low, high = _FORMS[metric]
        found = re.fullmatch(form, plain[len(metric) :].strip())
        if found is None:
            raise RolloutError(f"guard {text[:100]!r} cannot be read: write it as {example!r}")
        number = float(found[1])
        limit = float(f"{found[1]}e-2") if "%" in form else number  # not number / 100, which rounds twice
        if not low < number < high or not limit:
            raise RolloutError(f"guard {text[:100]!r} allows {number:g}: its number is between {low:g} and {high:g}")
        return cls(metric, limit)

    @classmethod
    def _parse_query(cls, text: str) -> "Guard":
        found = _PROMQL.fullmatch(text)
        if found is None:
            raise RolloutError(f"guard {text[:100]!r} cannot be read: write it as 'promql(QUERY) < 0.5', or with >")
        limit = float(found[3])
        if not math.isfinite(limit):
            raise RolloutError(f"guard {text[:100]!r} allows {limit}: its number is finite, as 0.5 or 1e9")
        return cls("promql", limit, found[1].strip(), found[2] == ">")

    @property
    def needs_shadow(self) -> bool:
        """Whether only shadows measure it."""
        return self.metric in ("agreement", "compute")

    @property
    def is_shadowed(self) -> bool:
        """Whether shadows measure it."""
        return self.needs_shadow or self.metric in ("errors", "promql")

    def __str__(self) -> str:
        """The guard in its plain form, which `parse` reads as the same guard."""
        match self.metric:
            case "errors" | "refusals":
                return f"{self.metric} < stable + {_percent(self.limit)}%"
            case "p50" | "p90" | "p99" | "compute":
                return f"{self.metric} < {_plain(self.limit)} × stable"
            case "agreement":
                return f"agreement > {_percent(self.limit)}%"
            case "confidence shift" | "label shift":
                return f"{self.metric} < {_plain(self.limit)}"
            case "promql":
                return f"promql({self.query}) {'>' if self.is_least else '<'} {self.limit!r}"


def _plain(number: float) -> str:
    """All digits of a number without an exponent, so that it is read back as the same number."""
    return f"{Decimal(repr(number)).normalize():f}"


def _percent(share: float) -> str:
    return f"{Decimal(repr(share)).scaleb(2).normalize():f}"


def parse_guards(texts: tuple[str, ...]) -> tuple[Guard, ...]:
    """Read guards, at most one of each metric and query, and MAX_GUARDS. Raises RolloutError."""
    if len(texts) > MAX_GUARDS:
        raise RolloutError(f"a rollout has at most {MAX_GUARDS} guards, these are {len(texts)}: leave some out")
    guards = tuple(map(Guard.parse, texts))
    if not guards:
        raise RolloutError("a rollout without guards would promote anything: give at least one --guard")
    metrics = [guard.query or guard.metric for guard in guards]
    twice = next((metric for metric in metrics if metrics.count(metric) > 1), None)
    if twice is not None:
        raise RolloutError(f"{twice} has two guards: give one")
    return guards
