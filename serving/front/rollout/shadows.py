"""Shadows: requests of the stable version that its candidate answers, too, to be compared. Never in a client's way.

A shadow begins once its client has the answer. It is dropped where a queue is over half or enough shadows wait already,
has a deadline of its own, and is counted nowhere but in the rollout. Texts are compared and not kept.
"""

import asyncio
import logging
from collections.abc import Sequence
from math import inf

from serving.errors import DeadlineExceeded, EngineLost, NotReady, Overloaded, QueueFull, ServingError, TooLarge
from serving.front.loaded_version import EncodedRequest, LoadedVersion
from serving.front.request_compute import RequestCompute, slowness
from serving.front.rollout.traffic import ModelTraffic
from serving.front.waiter import Waiter, deadline_in
from serving.tasks.base.agreement import Agreement, mean
from serving.tasks.base.bounds import RequestBounds
from serving.tasks.base.request import Request
from serving.wire.messages import Compute, RowArrays
from serving.wire.rollout_counts import RolloutCounts

MAX_SHADOWS = 4
"""Of a front at a time, so that a client who asks the candidate by its number waits for few. Untuned."""
SHADOW_SECONDS = 10.0
"""A shadow's deadline, which the engine keeps to. Untuned."""
FULL = 0.5
"""Share of an engine's queue from which shadows are dropped."""

_DROPPED = (QueueFull, TooLarge, DeadlineExceeded, NotReady, Overloaded)
"""Errors that tell nothing of what the candidate would have answered; an engine that ends in the middle does."""

logger = logging.getLogger("headwaiter.front")


class Shadows:
    """The shadows of one front."""

    def __init__(self, bounds: RequestBounds) -> None:
        self._bounds = bounds
        self._running: set[asyncio.Task[None]] = set()
        self._latest: Compute | None = None
        """The forward pass of a candidate whose time was counted last."""

    def offer(
        self,
        traffic: ModelTraffic,
        stable: LoadedVersion,
        candidate: LoadedVersion,
        request: Request,
        answers: Sequence[object],
        computed: RequestCompute,
    ) -> None:
        """Compare the candidate's answers with these, if there is room. answers: of each item. computed: for them."""
        if not candidate.task.is_repeatable(request.parameters):
            return
        links = (*stable.accepting, *candidate.accepting)
        is_full = any(link.share.tokens > FULL * link.share.bound_tokens for link in links)
        if is_full or not candidate.accepting or len(self._running) >= MAX_SHADOWS:
            traffic.counts.dropped += 1
            candidate.meter.drop_shadow()
            return
        task = asyncio.create_task(self._compare(traffic, candidate, request, answers, computed))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End those that run."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _compare(
        self,
        traffic: ModelTraffic,
        candidate: LoadedVersion,
        request: Request,
        answers: Sequence[object],
        computed: RequestCompute,
    ) -> None:
        counts = traffic.counts
        try:
            own, own_computed = await self._answer(candidate, request)
            parts = [
                candidate.task.agreement(one, other, candidate.contract)
                for one, other in zip(answers, own, strict=True)
            ]
        except ServingError as error:
            if isinstance(error, _DROPPED) and not (isinstance(error, EngineLost) and error.had_begun):
                counts.dropped += 1
                candidate.meter.drop_shadow()
            else:
                counts.failed += 1
                candidate.meter.compare_shadow(0.0)
        except Exception:  # the edge: an answer that cannot be read or compared agrees in nothing
            logger.exception("an answer of %s/%s could not be compared", candidate.model, candidate.version)
            counts.failed += 1
            candidate.meter.compare_shadow(0.0)
        else:
            found: Agreement = mean(parts)
            counts.compared += 1
            counts.agreement += found.share
            counts.distance += found.distance
            self._count_slowness(counts, own_computed, computed)
            candidate.meter.compare_shadow(found.share)

    def _count_slowness(self, counts: RolloutCounts, candidate: RequestCompute, stable: RequestCompute) -> None:
        """Count how much longer the candidate computed, once for each of its passes: they share what disturbs one."""
        found = slowness(candidate, stable)
        if found is not None and candidate.latest is not self._latest:
            self._latest = candidate.latest
            counts.took(found)

    async def _answer(self, candidate: LoadedVersion, request: Request) -> tuple[list[object], RequestCompute]:
        deadline = deadline_in(SHADOW_SECONDS)
        encoded = await candidate.encode(request, self._bounds, deadline, None)
        rows = [row for item in encoded.items for row in item.rows]
        link, waiter = candidate.choose_link(), Waiter(len(rows), deadline)
        link.submit(rows, waiter)
        waiter.deadline = inf  # the engine keeps to the rows'; that it hangs shows when it is ended
        try:
            arrays = await waiter.done
        except asyncio.CancelledError:
            link.abandon(waiter, DeadlineExceeded("the front stops"))
            raise
        return _decode(candidate, request, encoded, arrays), waiter.computed


def _decode(
    candidate: LoadedVersion, request: Request, encoded: EncodedRequest, arrays: Sequence[RowArrays]
) -> list[object]:
    """The answer of each item; its labels are not counted, as no client gets them."""
    found, first = [], 0
    for item in encoded.items:
        rows = arrays[first : first + len(item.rows)]
        first += len(item.rows)
        found.append(candidate.task.decode(rows, item.decode_context, request.parameters, candidate.version_context))
    return found
