"""Annotations in Grafana of what happens to rollouts: a mark in every dashboard, by its HTTP API (Grafana 10 or newer).

Only the leader makes them. One that Grafana does not take is logged and left out: nothing waits for it.
"""

import json
import logging
import time
from http.client import HTTPException
from urllib.request import Request

from registry.rollout.state import RolloutState
from serving.runtime.foreign_http import read_answer

ANNOTATE_SECONDS = 5.0
"""The deadline of a request. Untuned; everything else of the rollouts waits for it."""
MAX_ANSWER_BYTES = 1 << 16

logger = logging.getLogger("headwaiter.rollout")


class Annotator:
    """Remembers of each rollout what was annotated last. url, token: of Grafana, or "", and nothing is annotated."""

    def __init__(self, url: str = "", token: str = "") -> None:
        self._url = url
        self._token = token
        self._last: dict[str, tuple[str, int]] = {}

    def follow(self, name: str, state: RolloutState) -> None:
        """Annotate the rollout's start, a step, a pause or its end, if there was one since the last call. Blocks.

        What happened before the first call is left out: a manager that restarts annotates nothing twice.
        """
        now, rollout = (state.phase, state.progress.step), state.plan.id
        before = self._last.get(rollout)
        self._last[rollout] = now
        is_new = state.progress.beat == 1 if before is None else before != now
        if self._url and is_new:
            self._post(name, state)

    def _post(self, name: str, state: RolloutState) -> None:
        plan, end = state.plan, state.stop or state.done
        text = f"{name}: rollout {plan.stable} → {plan.candidate}, {state.phase} at {state.step}"
        if end is not None:
            text += f": {end.why}"
        tags = ["headwaiter", "rollout", name, state.phase]
        body = json.dumps({"time": int(time.time() * 1000), "tags": tags, "text": text}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        request = Request(f"{self._url}/api/annotations", body, headers)  # noqa: S310  # http(s), by the settings
        try:
            read_answer(request, ANNOTATE_SECONDS, MAX_ANSWER_BYTES)
        except (OSError, HTTPException, ValueError) as error:
            logger.warning("Grafana takes no annotation of the rollout of %s: %s", name, error)
