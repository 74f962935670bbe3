"""What a Prometheus says of guards that are queries: the values of each, or why there is none."""

import json
import math
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from urllib.parse import urlencode
from urllib.request import urlopen

from msgspec import Struct

from registry.rollout.guards import Guard
from registry.rollout.state import RolloutState

QUERY_SECONDS = 5.0
"""The deadline of a query. Untuned; everything else of the rollouts waits for it."""
MAX_ANSWER_BYTES = 1 << 20
UNSET = "no Prometheus address is set: see HEADWAITER_PROMETHEUS_URL"


class Reading(Struct, frozen=True):
    """values: of the samples that a query returned, but NaN. trouble: why there are none, or ""."""

    values: tuple[float, ...] = ()
    trouble: str = ""


def read_guards(url: str, guards: Iterable[Guard], name: str, state: RolloutState) -> Mapping[str, Reading]:
    """Guard → what its query returns now; of guards that are no queries there is nothing. Blocks; never raises.

    url: Prometheus' address, or "". $model, $stable and $candidate of a query stand for the rollout's.
    """
    words = {"$model": name, "$stable": state.plan.stable, "$candidate": state.plan.candidate}
    found = {}
    for guard in guards:
        if guard.query:
            query = guard.query
            for word, value in words.items():
                query = query.replace(word, value)
            found[str(guard)] = _read(url, query) if url else Reading(trouble=UNSET)
    return found


def _read(url: str, query: str) -> Reading:
    body = urlencode({"query": query, "timeout": f"{QUERY_SECONDS:g}s"}).encode()
    try:
        with urlopen(f"{url}/api/v1/query", body, QUERY_SECONDS) as answer:  # noqa: S310  # http(s), by the settings
            data = json.loads(answer.read(MAX_ANSWER_BYTES))["data"]
        samples = [data["result"]] if data["resultType"] == "scalar" else [each["value"] for each in data["result"]]
        values = tuple(float(value) for _, value in samples)
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        return Reading(trouble=f"Prometheus does not answer the query: {error}")
    finite = tuple(value for value in values if not math.isnan(value))
    return Reading(finite, "" if finite else "the query has no value")
