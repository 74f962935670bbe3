"""What a Prometheus says of guards that are queries: the values of each, or why there is none."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from urllib.parse import urlencode
from urllib.request import Request

from msgspec import Struct

from registry.rollout.guards import Guard
from registry.rollout.state import RolloutState
from serving.runtime.foreign_http import read_answer

QUERY_SECONDS = 5.0
"""The deadline of a query. Untuned; everything else of the rollouts waits for it."""
QUERIES_SECONDS = 8.0
"""How long the queries of all rollouts may take in one cycle. Untuned: with the last query that has begun it is less
than a leader's lease."""
MAX_ANSWER_BYTES = 1 << 20
UNSET = "no Prometheus address is set: see HEADWAITER_PROMETHEUS_URL"
LATE = "it was not asked: the queries before it took all the time of this look"


class Reading(Struct, frozen=True):
    """values: of the samples that a query returned, but NaN. trouble: why there are none, or ""."""

    values: tuple[float, ...] = ()
    trouble: str = ""


def read_guards(
    url: str, guards: Iterable[Guard], name: str, state: RolloutState, until: float = math.inf
) -> Mapping[str, Reading]:
    """Guard → what its query returns now; of guards that are no queries there is nothing. Blocks; never raises.

    url: Prometheus' address, or "". $model, $stable and $candidate of a query stand for the rollout's.
    until: of `time.monotonic()`; no query begins later, and one that has begun ends within QUERY_SECONDS.
    """
    words = {"$model": name, "$stable": state.plan.stable, "$candidate": state.plan.candidate}
    found = {}
    for guard in guards:
        if guard.query:
            query = guard.query
            for word, value in words.items():
                query = query.replace(word, value)
            found[str(guard)] = _read(url, query, until) if url else Reading(trouble=UNSET)
    return found


def _read(url: str, query: str, until: float) -> Reading:
    seconds = min(QUERY_SECONDS, until - time.monotonic())
    if seconds <= 0:
        return Reading(trouble=LATE)
    body = urlencode({"query": query, "timeout": f"{seconds:.3f}"}).encode()
    try:
        request = Request(f"{url}/api/v1/query", body)  # noqa: S310  # http(s), by the settings
        data = json.loads(read_answer(request, seconds, MAX_ANSWER_BYTES))["data"]
        samples = [data["result"]] if data["resultType"] == "scalar" else [each["value"] for each in data["result"]]
        values = tuple(float(value) for _, value in samples)
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        return Reading(trouble=f"Prometheus does not answer the query: {error}")
    finite = tuple(value for value in values if not math.isnan(value))
    return Reading(finite, "" if finite else "the query has no value")
