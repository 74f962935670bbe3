"""What a front serves: follows the routing table, keeps a view of every loaded version, finds the one that is asked.

Runs in the front's event loop. What is new is loaded beside what serves, then the front switches in one step.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

import zmq

from serving.errors import NotReady, UnknownModel
from serving.front.engine_link import Link
from serving.front.loaded_version import View
from serving.runtime.instruments import forget
from serving.settings import ServingSettings
from serving.wire.routing_table import ModelEntry, Table, TableFile
from serving.wire.version_state import State

FOLLOW_SECONDS = 0.01
"""How often the table is looked at: one `stat`."""
RETRY_SECONDS = 1.0
"""After which a table that could not be followed is tried again."""
MIN_QUEUE_ROWS = 64
"""The queue takes at least this many of the model's longest rows."""

UNANSWERED: dict[State, str] = {
    "loading": "is loading",
    "ready": "has no engine at the moment, it ended and is being restarted",
    "draining": "is leaving and takes no new requests",
}
"""Why a version that a front knows has no engine here, by its state."""

logger = logging.getLogger("headwaiter.front")


class Routes:
    """The table as it was last followed, and the views of its loaded versions. Construct it anywhere."""

    def __init__(self, settings: ServingSettings, file: TableFile) -> None:
        self.table = Table()
        self._settings = settings
        self._file = file
        self._views: dict[tuple[str, str], View] = {}
        self._writers: set[str] = set()
        self._unserved_since: dict[str, float] = {}
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)

    async def catch_up(self) -> None:
        """Follow the table once, if there is one."""
        if (table := self._file.read_if_changed()) is not None:
            await self._apply(table)

    async def follow(self) -> None:
        """Follow the table from now on. What cannot be read here leaves what serves as it is, and is retried."""
        table: Table | None = None
        while True:
            table = self._file.read_if_changed() or table
            try:
                if table is not None:
                    await self._apply(table)
                    table = None
                await asyncio.sleep(FOLLOW_SECONDS)
            except Exception:  # a broken version must not end the following of all others
                logger.exception("the routing table could not be followed; it is tried again")
                await asyncio.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Let go of all engines; what still waits fails."""
        for link in self.links():
            link.close()
        self._context.destroy(linger=0)

    def links(self) -> list[Link]:
        """To all engines."""
        return [link for view in self._views.values() for link in view.links.values()]

    def find(self, name: str, version: str | None) -> View:
        """The view of `name` or `name@alias`, at a version or the live one. Raises UnknownModel, NotReady."""
        name, _, alias = name.partition("@")
        entry = self.table.models.get(name)
        if entry is None or entry.is_leaving:
            if not self.table.models and not self.table.is_known:
                raise NotReady("the server is starting and serves nothing yet: try again", retry_seconds=1.0)
            served = ", ".join(key for key, found in self.table.models.items() if not found.is_leaving) or "none"
            raise UnknownModel(f"there is no model {name!r} here; served: {served}")
        is_named, version = version is not None, version or self._live(name, entry, alias)
        view = self._views.get((name, version))
        if view is None:
            known = entry.versions.get(version)
            if known is None and not is_named:
                why = "has left so that another version has memory"
                raise NotReady(f"{name}/{version} {why}: try again", retry_seconds=1.0)
            if known is None:
                raise UnknownModel(
                    f"{name} has no version {version!r} here; loaded: {', '.join(entry.versions) or 'none'}"
                )
            if known.state == "failed":
                raise NotReady(f"{name}/{version} could not be loaded: see GET /models/{name}", retry_seconds=10.0)
            raise NotReady(f"{name}/{version} {UNANSWERED[known.state]}: try again", retry_seconds=1.0)
        return view

    def may_stream(self, name: str) -> bool:
        """Whether `name` or `name@alias` writes texts, so that a request may ask for them piece by piece."""
        return name.partition("@")[0] in self._writers

    def is_ready(self) -> bool:
        """Whether the live version of every model answers here; while nothing is deployed, who deploys must get in."""
        served = {name: entry for name, entry in self.table.models.items() if not entry.is_leaving}
        if not served:
            return self._settings.deployments and self.table.is_known
        return all(entry.live is not None and self._answers(name, entry.live) for name, entry in served.items())

    def note_unserved(self, now: float) -> None:
        """Remember since when a model's live version has had no engine; to be called again and again."""
        unserved = [
            name
            for name, entry in self.table.models.items()
            if entry.live is not None and not self._answers(name, entry.live) and not _is_being_replaced(entry)
        ]
        self._unserved_since = {name: self._unserved_since.get(name, now) for name in unserved}

    def unserved_seconds(self, now: float) -> float:
        """For how long some model's live version has had no engine; 0 where all have one."""
        return max((now - since for since in self._unserved_since.values()), default=0.0)

    def _answers(self, name: str, version: str) -> bool:
        view = self._views.get((name, version))
        return view is not None and bool(view.accepting)

    def _live(self, name: str, entry: ModelEntry, alias: str) -> str:
        if alias and alias not in entry.aliases:
            raise UnknownModel(f"{name} is not served at alias {alias!r}; served: {', '.join(entry.aliases) or 'none'}")
        live = entry.aliases[alias] if alias else entry.live
        if live is None:
            if entry.versions and all(found.state == "failed" for found in entry.versions.values()):
                raise NotReady(f"no version of {name} could be loaded: see GET /models/{name}", retry_seconds=10.0)
            raise NotReady(f"no version of {name} is loaded yet: {entry.error or 'try again'}", retry_seconds=1.0)
        return live

    async def _apply(self, table: Table) -> None:
        """Load what is new beside what serves, switch in one step, then close what is gone."""
        wanted = {
            (name, version): entry for name, model in table.models.items() for version, entry in model.versions.items()
        }
        for (name, version), entry in wanted.items():
            known = self._views.get((name, version))
            stale = known is not None and entry.contract is not None and known.contract != entry.contract
            if entry.engines and entry.contract is not None and (known is None or stale):
                view = await asyncio.to_thread(View.load, name, version, Path(entry.root), entry.contract)
                if stale and known is not None:
                    self._close_links(known, keep=set())
                self._views[name, version] = view
        for key, view in list(self._views.items()):
            engines = wanted[key].engines if key in wanted else ()
            for engine in engines:
                if engine.address not in view.links:
                    view.links[engine.address] = Link(self._context, engine.address, view.task, 0)
                link = view.links[engine.address]
                link.tokens_per_second = max(1.0, engine.tokens_per_second)
                link.bound_tokens = self._bound(link.tokens_per_second, view.contract.max_tokens)
            view.accepting = [view.links[engine.address] for engine in engines if engine.accepting]
        for key in _versions(self.table) - wanted.keys():
            forget(*key)
        self.table = table
        for key, view in list(self._views.items()):
            engines = wanted[key].engines if key in wanted else ()
            self._close_links(view, keep={engine.address for engine in engines})
            if not view.links:
                del self._views[key]
        self._writers = {name for (name, _), view in self._views.items() if view.task.generates}

    def queue_limit(self, tokens_per_second: float, longest: int) -> int:
        """What an engine's queue takes in all, in tokens. longest: the longest row that its model takes."""
        by_time = int(tokens_per_second * self._settings.queue_seconds)
        return self._settings.queue_tokens or max(by_time, MIN_QUEUE_ROWS * longest)

    def _bound(self, tokens_per_second: float, longest: int) -> int:
        """This front's share of an engine's queue, in tokens."""
        return max(1, self.queue_limit(tokens_per_second, longest) // self._settings.workers)

    @staticmethod
    def _close_links(view: View, keep: set[str]) -> None:
        for address in [address for address in view.links if address not in keep]:
            view.links.pop(address).close()


def _is_being_replaced(entry: ModelEntry) -> bool:
    """Whether the live version has left so that another one has memory, which loads, or loads again itself."""
    live = entry.versions.get(entry.live or "")
    has_left = live is None or live.state in ("loading", "draining")
    return has_left and any(found.state == "loading" for found in entry.versions.values())


def _versions(table: Table) -> set[tuple[str, str]]:
    return {(name, version) for name, model in table.models.items() for version in model.versions}
