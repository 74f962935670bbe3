"""What the manager counts."""

from functools import cache

from monitoring.store import Counter
from serving.runtime.instruments import instruments


@cache
def start_counting(model: str) -> None:
    """Begin the manager's series of a model at 0, so that a rate sees the first swap."""
    for outcome in ("success", "failure", "crashed"):
        instruments().swap_total.labels(model, outcome)
    for start in ("cold", "warm"):
        instruments().swap_duration_seconds.labels(model, start)


def count_swap(model: str, outcome: str) -> None:
    """The live version changed, or should have. outcome: as in `routing_table.Swap`."""
    instruments().swap_total.labels(model, outcome).inc()


def time_swap(model: str, seconds: float, is_warm: bool) -> None:
    """Another version went live, so long after its alias moved. is_warm: whether it was loaded before that."""
    instruments().swap_duration_seconds.labels(model, "warm" if is_warm else "cold").observe(seconds)


def restarts(model: str, version: str, task: str) -> Counter:
    """Counts a version's restarted engines."""
    return instruments().engine_restarts_total.labels(model, version, task)
