"""Follows the routing table and finds the version that a request asks for.

Runs in the front's event loop. New versions are loaded beside those that serve, then their model switches in one step.
Models switch independently of each other: a version that takes long to read, or that cannot be read, is its model's.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec

from serving.errors import NotLoaded, NotReady, UnknownModel
from serving.front.admission import QueueBounds
from serving.front.engine_link import EngineLink
from serving.front.engine_links import EngineLinks, disconnect
from serving.front.folder_news import FolderNews
from serving.front.loaded_version import LoadedVersion
from serving.front.unavailable import no_live_version, no_model, no_version
from serving.front.version_demand import VersionDemand
from serving.front.version_loads import VersionLoads
from serving.runtime.instruments import forget
from serving.settings import ServingSettings
from serving.wire.routing_table import ModelEntry, Table, TableFile, VersionEntry
from serving.wire.version_state import VersionKey

FOLLOW_SECONDS = 0.01
"""How often the table is checked for a change, by one `stat`, where nobody tells of changes."""
LOOK_SECONDS = 0.5
"""How often it is checked although they are told."""
RETRY_SECONDS = 1.0
"""How long to wait after a table could not be read or applied."""
PATIENCE_SECONDS = 5.0
"""How long a model is served by the table before while a new version of it is read. Untuned; it takes milliseconds."""

logger = logging.getLogger("headwaiter.front")


class Routing:
    """The routing table that was applied last, and its loaded versions. Construct it anywhere."""

    def __init__(
        self,
        settings: ServingSettings,
        file: TableFile,
        applied: Callable[[Mapping[str, ModelEntry]], None] = lambda _: None,
    ) -> None:
        """applied: called with the models of each table that is applied."""
        self._applied = applied
        self.table = Table()
        self._newest = Table()
        self._apply_at = math.inf
        self._is_ready = False
        self.bounds = QueueBounds(settings)
        self.demand = VersionDemand(settings.run)
        self._news = FolderNews(settings.run)
        self._loads = VersionLoads(self._news.tell)
        self._file = file
        self._loaded: dict[tuple[str, str], LoadedVersion] = {}
        self._generating: set[str] = set()
        self._unserved_since: float | None = None
        self._links = EngineLinks(self.bounds)

    async def catch_up(self) -> None:
        """Apply the table once, if there is one; `follow` does what fails, or takes longer than PATIENCE_SECONDS."""
        self._follow_once()
        await self._loads.settle(PATIENCE_SECONDS)
        self._follow_once()

    async def follow(self) -> None:
        """Apply every new table, endlessly. A table that cannot be read or applied changes nothing and is retried."""
        while True:
            if self._follow_once():
                await self._news.wait(LOOK_SECONDS, FOLLOW_SECONDS)
            else:
                await asyncio.sleep(RETRY_SECONDS)

    def _follow_once(self) -> bool:
        """Apply the newest table, if it is new, or a version was read meanwhile. Returns whether that succeeded."""
        try:
            found = self._file.read_if_changed()
            if found is not None:
                self._newest, self._apply_at = found, 0.0
            if time.monotonic() >= self._apply_at or self._loads.has_news():
                self._apply_at = 0.0  # until it is applied
                is_whole = self._apply(self._newest)
                self._apply_at = math.inf if is_whole else time.monotonic() + PATIENCE_SECONDS
        except Exception:  # the front goes on serving by the table that it has
            logger.exception("the routing table could not be read or applied; it is tried again")
            return False
        return True

    def close(self) -> None:
        """Close the links to all engines. Requests that wait fail."""
        self._loads.close()
        self._news.close()
        self.demand.close()
        for link in self.links():
            link.close()
        self._links.close()

    def links(self) -> list[EngineLink]:
        """The links to all engines."""
        return [link for loaded in self._loaded.values() for link in loaded.links.values()]

    def find(self, name: str, version: str | None, shown: Iterable[str] | None = None) -> LoadedVersion:
        """The given or else the live version of `name` or `name@alias`. Raises UnknownModel, NotReady, NotLoaded.

        shown: the models that an error may name; default: all that are served.
        """
        name, _, alias = name.partition("@")
        entry = self.table.models.get(name)
        if entry is None or entry.is_leaving:
            raise no_model(name, self.table, self.served_models() if shown is None else shown)
        is_named = version is not None
        if not version:
            version = self._readable(name, entry, alias, self._live(name, entry, alias))
        loaded, known = self._loaded.get((name, version)), entry.versions.get(version)
        if known is not None and self._is_missing((name, version), known):
            raise NotLoaded(name, version, known.load_seconds)
        if loaded is None:
            raise no_version(name, version, entry, is_named=is_named)
        return loaded

    def loaded(self, name: str, version: str) -> LoadedVersion | None:
        """A version that this front has read, whether or not it is live."""
        return self._loaded.get((name, version))

    def served_models(self) -> dict[str, ModelEntry]:
        """The models that take requests: those that a reference still names."""
        return {name: entry for name, entry in self.table.models.items() if not entry.is_leaving}

    def knows(self, name: str) -> bool:
        """Whether the table has a model of that name."""
        return name in self.table.models

    def may_stream(self, name: str) -> bool:
        """Whether the model `name` or `name@alias` generates text, or may: then a request may ask for a stream."""
        return name.partition("@")[0] in self._generating

    def is_ready(self) -> bool:
        """Whether the server has started, and this front has read what was live by then. Once it is so it stays so."""
        return self._is_ready

    def answers(self, name: str, version: str | None = None) -> bool:
        """Whether the version, or else the one that requests for `name` (or `name@alias`) get, answers here.

        One that is loaded on demand does.
        """
        try:
            return bool(self.find(name, version).accepting)
        except NotLoaded:
            return True
        except (UnknownModel, NotReady):
            return False

    def tell_demand(self, now: float) -> None:
        """Tell the manager what is asked. To be called all the time; now: in monotonic seconds."""
        self.demand.tell(self._loaded.values(), now)

    def note_unserved(self, now: float) -> None:
        """Record since when no model's live version has had an engine. To be called regularly."""
        live = {name: entry for name, entry in self.table.models.items() if entry.live is not None}
        if not live or any(self.answers(name) or _is_being_replaced(entry) for name, entry in live.items()):
            self._unserved_since = None
        elif self._unserved_since is None:
            self._unserved_since = now

    def unserved_seconds(self, now: float) -> float:
        """How long no model's live version has had an engine; 0 if one has."""
        return 0.0 if self._unserved_since is None else now - self._unserved_since

    def _readable(self, name: str, entry: ModelEntry, alias: str, live: str) -> str:
        """`live`; or, where it has engines but this front has no way to them yet, the latest version before it."""
        known, own = entry.versions.get(live), self._loaded.get((name, live))
        if known is None or not known.engines or (own is not None and own.links):
            return live
        reference = f"{name}@{alias}" if alias else next(iter(entry.serves), "")
        earlier = (self._loaded.get((name, version)) for version in entry.previous.get(reference, ()))
        return next((found.version for found in earlier if found is not None and found.accepting), live)

    def _live(self, name: str, entry: ModelEntry, alias: str) -> str:
        if alias and alias not in entry.aliases:
            raise UnknownModel(f"{name} is not served at alias {alias!r}; served: {', '.join(entry.aliases) or 'none'}")
        live = entry.aliases[alias] if alias else entry.live
        if live is None:
            raise no_live_version(name, entry)
        return live

    def _apply(self, table: Table) -> bool:
        """Switch each model whose versions have been read here, and close the links to removed engines.

        Begins to read the others. Returns whether all models are as in the table now. Raises what connecting to an
        engine raises, after all the rest is done.
        """
        wanted = _served(table.models)
        self._take_loads()
        self._loads.follow({key: entry for key, entry in wanted.items() if not self._is_loaded(key, entry)})
        young = {name for name in table.models if self._loads.is_young(name, PATIENCE_SECONDS)}
        before = self.table.models
        models = {
            name: before[name] if name in young and name in before else self._with_errors(name, entry)
            for name, entry in table.models.items()
        }
        applied = msgspec.structs.replace(table, models=models)
        problems = self._link(_served(applied.models), wanted.keys())
        for key in _versions(self.table) - _versions(applied):
            forget(*key)
        self.table = applied
        self._applied(applied.models)
        self._is_ready |= applied.has_started and not young
        self._generating = {name for (name, _), loaded in self._loaded.items() if loaded.task.generates}
        missing = [key for key, entry in _entries(applied) if self._is_missing(key, entry)]
        self._generating |= {name for name, _ in missing}
        self.demand.wake(missing)
        if problems:
            raise problems[0]
        return not young

    def _is_missing(self, key: VersionKey, entry: VersionEntry) -> bool:
        """Whether requests have to wait until the version is loaded."""
        loaded = self._loaded.get(key)
        return entry.on_demand and (loaded is None or not loaded.accepting)

    def _is_loaded(self, key: VersionKey, entry: VersionEntry) -> bool:
        known = self._loaded.get(key)
        return known is not None and known.contract == entry.contract

    def _take_loads(self) -> None:
        """Serve the versions that have been read."""
        for loaded in self._loads.take():
            stale = self._loaded.get((loaded.model, loaded.version))
            if stale is not None:
                disconnect(stale)
                stale.held.give_up()
            self._loaded[loaded.model, loaded.version] = loaded

    def _with_errors(self, name: str, entry: ModelEntry) -> ModelEntry:
        """The model's entry, with why this front cannot read a version."""
        versions = {
            version: msgspec.structs.replace(found, error=found.error or self._loads.error((name, version)))
            for version, found in entry.versions.items()
        }
        return msgspec.structs.replace(entry, versions=versions)

    def _link(self, served: Mapping[VersionKey, VersionEntry], wanted: Collection[VersionKey]) -> list[Exception]:
        """Connect the loaded versions to their engines, and to no others; forget those without that are not wanted.

        A version that cannot be connected keeps the links that it has; the errors of these.
        """
        problems: list[Exception] = []
        for key, loaded in list(self._loaded.items()):
            engines = served[key].engines if key in served else ()
            try:
                self._links.connect(loaded, engines)
            except Exception as error:  # as of descriptors that are used up
                problems.append(error)
                continue
            disconnect(loaded, keep={engine.address for engine in engines})
            loaded.is_replaced = key in served and served[key].state == "ready"
            if loaded.accepting:
                loaded.held.release()
            elif not loaded.is_replaced:
                loaded.held.give_up()
            if not loaded.links and key not in wanted:
                del self._loaded[key]
        return problems


def _is_being_replaced(entry: ModelEntry) -> bool:
    """Whether the live version was unloaded to free memory, and its replacement or the version itself is loading."""
    live = entry.versions.get(entry.live or "")
    has_left = live is None or live.state in ("loading", "draining")
    return has_left and any(found.state == "loading" for found in entry.versions.values())


def _served(models: Mapping[str, ModelEntry]) -> dict[VersionKey, VersionEntry]:
    """The versions that have engines, or had some that are being replaced."""
    return {
        (name, version): entry
        for name, model in models.items()
        for version, entry in model.versions.items()
        if entry.contract is not None and (entry.engines or entry.state == "ready")
    }


def _entries(table: Table) -> Iterator[tuple[VersionKey, VersionEntry]]:
    for name, model in table.models.items():
        for version, entry in model.versions.items():
            yield (name, version), entry


def _versions(table: Table) -> set[VersionKey]:
    return {key for key, _ in _entries(table)}
