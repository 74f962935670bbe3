"""The rollouts of a front, as its `answer` and `stream` meet them: a side before the request is encoded, and what the
answer adds to counts and shadows.
"""

from collections.abc import Mapping
from typing import Any

from serving.front.loaded_version import EncodedRequest, LoadedVersion
from serving.front.request_compute import RequestCompute
from serving.front.request_tracker import TrackedRequest
from serving.front.rollout.shadows import Shadows
from serving.front.rollout.traffic import ModelTraffic, RolloutTraffic
from serving.front.routing import Routing
from serving.settings import ServingSettings
from serving.tasks.base.bounds import RequestBounds
from serving.tasks.base.request import Request, disassemble
from serving.wire.routing_table import ModelEntry


class FrontRollouts:
    """Construct it anywhere; everything else in the front's event loop."""

    def __init__(self, settings: ServingSettings, bounds: RequestBounds) -> None:
        self._traffic = RolloutTraffic(settings.run)
        self._shadows = Shadows(bounds)

    def follow(self, models: Mapping[str, ModelEntry]) -> None:
        """Take up the rollouts of a routing table."""
        self._traffic.follow(models)

    @property
    def is_idle(self) -> bool:
        """Whether there is no rollout, as most of the time."""
        return self._traffic.is_idle

    def choose(
        self,
        name: str,
        version: str | None,
        live: LoadedVersion,
        routing: Routing,
        tracked: TrackedRequest,
        caller: str,
    ) -> tuple[LoadedVersion, ModelTraffic | None]:
        """The version that answers, and the rollout that the request takes part in; else `live`, and None.

        name, version: as requested. caller: the name of its API key, or "". A candidate that takes no requests gets
        none.
        """
        tracked.side, tracked.stages.side = None, ""
        if self._traffic.is_idle:
            return live, None
        traffic = self._traffic.find(name, version, routing.table.models.get(live.model))
        if traffic is None:
            return live, None
        candidate = routing.loaded(live.model, traffic.entry.candidate)
        is_open = candidate is not None and bool(candidate.accepting)
        if candidate is not None and is_open and traffic.is_candidates(tracked.rollout_key(caller)):
            live = candidate
        tracked.side = traffic.side(live)
        tracked.stages.side = tracked.side.name if tracked.side is not None else ""
        return live, traffic

    def answered(
        self,
        traffic: ModelTraffic,
        tracked: TrackedRequest,
        routing: Routing,
        loaded: LoadedVersion,
        request: Request,
        encoded: EncodedRequest,
        answer: Any,
        computed: RequestCompute,
    ) -> None:
        """Count the answer's labels, and let the candidate answer, too, where that is asked for.

        computed: for the answer. Large answers are left out, as they would hold up the event loop.
        """
        side = tracked.side
        if side is None or encoded.is_large:
            return
        answers = disassemble(answer, request, loaded.task)
        for each in answers:
            side.predicted(loaded.task.predictions(each))
        if traffic.entry.is_shadowing and side is traffic.stable:
            candidate = routing.loaded(loaded.model, traffic.entry.candidate)
            if candidate is not None:
                self._shadows.offer(traffic, loaded, candidate, request, answers, computed)

    def write(self, now: float) -> None:
        """Write the counts, if it is time to. To be called regularly."""
        self._traffic.write(now)

    async def close(self) -> None:
        """End the shadows, and write all counts."""
        await self._shadows.close()
        self._traffic.close()
