"""Follows the routing table and finds the version that a request asks for.

Runs in the front's event loop. New versions are loaded beside those that serve, then the front switches in one step.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import zmq

from serving.errors import NotReady, UnknownModel
from serving.front.engine_link import EngineLink
from serving.front.loaded_version import LoadedVersion
from serving.runtime.instruments import forget
from serving.settings import ServingSettings
from serving.wire.routing_table import EngineEntry, ModelEntry, Table, TableFile
from serving.wire.version_state import State

FOLLOW_SECONDS = 0.01
"""How often the table is checked for a change, which costs one `stat`."""
RETRY_SECONDS = 1.0
"""How long to wait after a table could not be read or applied."""
MIN_QUEUE_ROWS = 64
"""Rows of the model's maximum length that an engine's queue holds at least."""

UNANSWERED: dict[State, str] = {
    "loading": "is loading",
    "ready": "has no engine at the moment, it ended and is being restarted",
    "draining": "is leaving and takes no new requests",
}
"""Why a version in the table has no engine that answers, by the version's state."""

logger = logging.getLogger("headwaiter.front")


class Routing:
    """The routing table that was applied last, and its loaded versions. Construct it anywhere."""

    def __init__(self, settings: ServingSettings, file: TableFile) -> None:
        self.table = Table()
        self._pending: Table | None = None
        self._settings = settings
        self._file = file
        self._loaded: dict[tuple[str, str], LoadedVersion] = {}
        self._generating: set[str] = set()
        self._unserved_since: dict[str, float] = {}
        self._turned = time.monotonic()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)

    async def catch_up(self) -> None:
        """Apply the table once, if there is one. If that fails, `follow` tries again."""
        await self._follow_once()

    async def follow(self) -> None:
        """Apply every new table, endlessly. A table that cannot be read or applied changes nothing and is retried."""
        self._turned = time.monotonic()
        while True:
            has_followed = await self._follow_once()
            self._turned = time.monotonic()
            await asyncio.sleep(FOLLOW_SECONDS if has_followed else RETRY_SECONDS)

    def silence_seconds(self, now: float) -> float:
        """Since when `follow` has not got on, as where a disk does not answer; `now` is in monotonic seconds."""
        return now - self._turned

    async def _follow_once(self) -> bool:
        """Apply the newest table. Returns whether that succeeded; if not, the next call tries again."""
        try:
            self._pending = self._file.read_if_changed() or self._pending
            if self._pending is not None:
                await self._apply(self._pending)
                self._pending = None
        except Exception:  # the front goes on serving by the table that it has
            logger.exception("the routing table could not be read or applied; it is tried again")
            return False
        return True

    def close(self) -> None:
        """Close the links to all engines. Requests that wait fail."""
        for link in self.links():
            link.close()
        self._context.destroy(linger=0)

    def links(self) -> list[EngineLink]:
        """The links to all engines."""
        return [link for loaded in self._loaded.values() for link in loaded.links.values()]

    def find(self, name: str, version: str | None) -> LoadedVersion:
        """The given or else the live version of `name` or `name@alias`. Raises UnknownModel, NotReady."""
        name, _, alias = name.partition("@")
        entry = self.table.models.get(name)
        if entry is None or entry.is_leaving:
            if not self.table.models and not self.table.is_known:
                raise NotReady("the server is starting and serves nothing yet: try again", retry_seconds=1.0)
            served = ", ".join(self.served_models()) or "none"
            raise UnknownModel(f"there is no model {name!r} here; served: {served}")
        is_named = version is not None
        if not version:
            version = self._live(name, entry, alias)
        loaded = self._loaded.get((name, version))
        if loaded is None:
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
        return loaded

    def served_models(self) -> dict[str, ModelEntry]:
        """The models that take requests: those that a reference still names."""
        return {name: entry for name, entry in self.table.models.items() if not entry.is_leaving}

    def knows(self, name: str) -> bool:
        """Whether the table has a model of that name."""
        return name in self.table.models

    def may_stream(self, name: str) -> bool:
        """Whether the model `name` or `name@alias` generates text, so that a request may ask for a stream."""
        return name.partition("@")[0] in self._generating

    def is_ready(self) -> bool:
        """Whether the live version of every model answers here.

        A server that follows deployments is ready without any, because it is deployed to through this server.
        """
        served = self.served_models()
        if not served:
            return self._settings.deployments and self.table.is_known
        return all(entry.live is not None and self._answers(name, entry.live) for name, entry in served.items())

    def note_unserved(self, now: float) -> None:
        """Record since when a model's live version has had no engine. To be called regularly."""
        unserved = [
            name
            for name, entry in self.table.models.items()
            if entry.live is not None and not self._answers(name, entry.live) and not _is_being_replaced(entry)
        ]
        self._unserved_since = {name: self._unserved_since.get(name, now) for name in unserved}

    def unserved_seconds(self, now: float) -> float:
        """The longest time for which a model's live version has had no engine; 0 if all have one."""
        return max((now - since for since in self._unserved_since.values()), default=0.0)

    def _answers(self, name: str, version: str) -> bool:
        loaded = self._loaded.get((name, version))
        return loaded is not None and bool(loaded.accepting)

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
        """Load new versions beside those that serve, switch in one step, then close the links to removed engines."""
        wanted = {
            (name, version): entry for name, model in table.models.items() for version, entry in model.versions.items()
        }
        for (name, version), entry in wanted.items():
            known = self._loaded.get((name, version))
            stale = known is not None and entry.contract is not None and known.contract != entry.contract
            is_wanted = entry.engines or entry.state == "ready"  # an engine of it may be being replaced
            if is_wanted and entry.contract is not None and (known is None or stale):
                try:
                    loaded = await asyncio.to_thread(
                        LoadedVersion.load, name, version, Path(entry.root), entry.contract
                    )
                except Exception:
                    if entry.engines:
                        raise
                    continue  # its files may be replaced as well; it is read with its engine
                self._turned = time.monotonic()
                if stale and known is not None:
                    self._close_links(known, keep=set())
                    known.held.give_up()
                self._loaded[name, version] = loaded
        for key, loaded in list(self._loaded.items()):
            self._connect(loaded, wanted[key].engines if key in wanted else ())
            loaded.is_replaced = key in wanted and wanted[key].state == "ready"
        for key in _versions(self.table) - wanted.keys():
            forget(*key)
        self.table = table
        for key, loaded in list(self._loaded.items()):
            engines = wanted[key].engines if key in wanted else ()
            self._close_links(loaded, keep={engine.address for engine in engines})
            if loaded.accepting:
                loaded.held.let_go()
            elif not loaded.is_replaced:
                loaded.held.give_up()
            if not loaded.links and not loaded.is_replaced:
                del self._loaded[key]
        self._generating = {name for (name, _), loaded in self._loaded.items() if loaded.task.generates}

    def _connect(self, loaded: LoadedVersion, engines: Sequence[EngineEntry]) -> None:
        """Have a link to each of the engines, and know which of them take requests."""
        longest = loaded.contract.max_tokens
        for engine in engines:
            link = loaded.links.get(engine.address)
            if link is not None and link.pid != engine.pid:  # the one at this address before has ended
                link.close()
                link = None
            if link is None:
                link = EngineLink(self._context, engine.address, loaded.task, 0, engine.pid)
                loaded.links[engine.address] = link
            link.tokens_per_second = max(1.0, engine.tokens_per_second)
            link.bound_tokens = self._bound(link.tokens_per_second, longest)
        loaded.accepting = [loaded.links[engine.address] for engine in engines if engine.accepting]
        if loaded.accepting:
            loaded.held.tokens_per_second = sum(link.tokens_per_second for link in loaded.accepting)
            loaded.held.bound_tokens = sum(link.bound_tokens for link in loaded.accepting)
        elif not loaded.links:
            loaded.held.bound_tokens = max(loaded.held.bound_tokens, self._bound(0.0, longest))

    def queue_limit(self, tokens_per_second: float, longest: int) -> int:
        """The bound of an engine's queue, in tokens. longest: tokens of the longest row that its model takes."""
        by_time = int(tokens_per_second * self._settings.queue_seconds)
        return self._settings.queue_tokens or max(by_time, MIN_QUEUE_ROWS * longest)

    def _bound(self, tokens_per_second: float, longest: int) -> int:
        """This front's share of an engine's queue, in tokens."""
        return max(1, self.queue_limit(tokens_per_second, longest) // self._settings.workers)

    @staticmethod
    def _close_links(loaded: LoadedVersion, keep: set[str]) -> None:
        for address in [address for address in loaded.links if address not in keep]:
            loaded.links.pop(address).close()


def _is_being_replaced(entry: ModelEntry) -> bool:
    """Whether the live version has left so that another one has memory, which loads, or loads again itself."""
    live = entry.versions.get(entry.live or "")
    has_left = live is None or live.state in ("loading", "draining")
    return has_left and any(found.state == "loading" for found in entry.versions.values())


def _versions(table: Table) -> set[tuple[str, str]]:
    return {(name, version) for name, model in table.models.items() for version in model.versions}
