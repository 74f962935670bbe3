"""The text of `/metrics`: the counts of all processes of the server, and the state of every version in the table."""

import asyncio
from collections.abc import Iterable

from monitoring.exposition import BaselineShares, Exposition, RolloutStatus, ServerStatus, VersionStatus
from monitoring.text_formats import choose_format
from registry.contract import Baseline
from serving.errors import Overloaded
from serving.front.asgi import Header
from serving.front.front import Front
from serving.runtime.instruments import instruments
from serving.wire.routing_table import ModelEntry, RolloutEntry, VersionEntry

MAX_SCRAPES = 4
"""In progress at once in one front, one of which is rendered. Untuned: a few scrapers ask every few seconds."""


class MetricsPage:
    """Renders the page, one scrape at a time."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._exposition = Exposition(instruments().store.folder)
        self._turn = asyncio.Lock()
        self._scrapes = 0

    async def render(self, headers: Iterable[Header]) -> tuple[Header, bytes]:
        """The exposition in the format that the request's headers ask for, with its content type.

        Made in a thread, because reading every process' file takes milliseconds. Raises Overloaded.
        """
        if self._scrapes >= MAX_SCRAPES:
            raise Overloaded("the server renders as many pages of metrics as it may: try again", retry_seconds=1.0)
        self._scrapes += 1
        try:
            return await self._render(headers)
        finally:
            self._scrapes -= 1

    async def _render(self, headers: Iterable[Header]) -> tuple[Header, bytes]:
        accept = b",".join(value for name, value in headers if name == b"accept").decode("latin-1")
        form = choose_format(accept)
        async with self._turn:
            body = await asyncio.to_thread(self._exposition.render, server_status(self._front), form)
        return (b"content-type", form.encode()), body


def server_status(front: Front) -> ServerStatus:
    """The server's state by this front's routing table."""
    models = front.routing.table.models  # of all callers, as only operators see the page
    return ServerStatus(
        versions=tuple(
            _version_status(front, name, model, version) for name, model in models.items() for version in model.versions
        ),
        live={name: front.routing.answers(name) for name in models},
        registry_is_up=not front.routing.table.registry_error,
        manager_silence_seconds=front.manager_silence_seconds(),
        rollouts=tuple(_rollout_status(name, model, model.rollout) for name, model in models.items() if model.rollout),
    )


def _rollout_status(name: str, model: ModelEntry, rollout: RolloutEntry) -> RolloutStatus:
    candidate = model.versions.get(rollout.candidate)
    return RolloutStatus(
        model=name,
        version=rollout.candidate,
        task=candidate.contract.task if candidate is not None and candidate.contract else "",
        step=rollout.step,
        weight=rollout.weight,
        waiting_seconds=rollout.waiting_seconds,
        verdicts=rollout.verdicts,
    )


def _version_status(front: Front, name: str, model: ModelEntry, version: str) -> VersionStatus:
    entry: VersionEntry = model.versions[version]
    engine, contract = entry.engines[0] if entry.engines else None, entry.contract
    return VersionStatus(
        model=name,
        version=version,
        task=contract.task if contract else "",
        state=entry.state,
        aliases=tuple(alias for alias, live in model.aliases.items() if live == version),
        head=contract.model_class if contract else "",
        dtype=engine.dtype if engine else "",
        device=engine.device if engine else "",
        queue_limit_tokens=sum(
            front.routing.bounds.limit_tokens(each.tokens_per_second, contract.max_tokens)
            for each in entry.engines
            if contract
        ),
        baseline=_baseline(contract.baseline) if contract and contract.baseline else BaselineShares(),
    )


def _baseline(recorded: Baseline) -> BaselineShares:
    return BaselineShares(labels=recorded.labels, confidence=recorded.confidence, row_tokens=recorded.row_tokens)
