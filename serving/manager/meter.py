"""The manager's metrics."""

from functools import cache
from typing import get_args

from monitoring.store import Counter
from serving.runtime.instruments import instruments
from serving.wire.routing_table import SwapOutcome


@cache
def start_counting(model: str) -> None:
    """Begin the manager's series of a model at 0, so that a rate sees the first swap."""
    for outcome in get_args(SwapOutcome):
        instruments().swap_total.labels(model, outcome)
    for reason in ("memory", "idle"):
        instruments().unloads_total.labels(model, reason)
    instruments().loads_on_demand_total.labels(model)
    for start in ("cold", "warm"):
        instruments().swap_duration_seconds.labels(model, start)


def count_swap(model: str, outcome: SwapOutcome) -> None:
    """The live version changed, or a change of it failed."""
    instruments().swap_total.labels(model, outcome).inc()


def time_swap(model: str, seconds: float, is_warm: bool) -> None:
    """Another version went live, so long after its alias moved. is_warm: whether it was loaded before that."""
    instruments().swap_duration_seconds.labels(model, "warm" if is_warm else "cold").observe(seconds)


def count_unload(model: str, reason: str) -> None:
    """A version left because others needed its memory ("memory"), or because nobody asked for it ("idle")."""
    instruments().unloads_total.labels(model, reason).inc()


def count_load_on_demand(model: str) -> None:
    """A version is loaded for requests that wait."""
    instruments().loads_on_demand_total.labels(model).inc()


def restarts(model: str, version: str, task: str) -> Counter:
    """Counts a version's restarted engines."""
    return instruments().engine_restarts_total.labels(model, version, task)
