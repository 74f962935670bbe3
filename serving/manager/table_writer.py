"""Makes the routing table of what is held, and writes it whenever it has changed."""

import logging
import time
from collections.abc import Mapping

from serving.manager.live_versions import LiveVersions
from serving.manager.managed_version import ManagedVersion
from serving.manager.meter import start_counting
from serving.manager.registry_watch import RegistryWatch
from serving.manager.rollout.keeper import RolloutKeeper
from serving.manager.startup import Startup
from serving.manager.troubles import Troubles
from serving.manager.version_loader import VersionLoader
from serving.wire.routing_table import ModelEntry, Table, TableFile
from serving.wire.version_state import VersionKey

logger = logging.getLogger("headwaiter.manager")


class TableWriter:
    """The one writer of a server's routing table. taken_bytes: what engines take of the memory that they may take."""

    def __init__(
        self,
        file: TableFile,
        versions: Mapping[VersionKey, ManagedVersion],
        live_versions: LiveVersions,
        loader: VersionLoader,
        startup: Startup,
        watch: RegistryWatch,
        rollouts: RolloutKeeper | None,
    ) -> None:
        """versions: what is held, the manager's own."""
        self._file = file
        self._versions = versions
        self._live_versions = live_versions
        self._loader = loader
        self._startup = startup
        self._watch = watch
        self._rollouts = rollouts
        self._troubles = Troubles()
        self.taken_bytes = 0
        self._table: Table | None = None
        self._is_unwritten = False

    def publish(self) -> None:
        """Replace the table if it differs from the last one; on a full disk the next call tries again."""
        table = self._make()
        if table == self._table:
            return
        try:
            self._file.write(table)
        except OSError as error:  # a full disk: fronts go on by the last table, and it is tried again each turn
            if not self._is_unwritten:
                logger.error("the routing table cannot be written, the last one holds: %s", error)
            self._is_unwritten = True
            return
        self._table, self._is_unwritten = table, False

    def _make(self) -> Table:
        view = self._watch.view
        models: dict[str, ModelEntry] = {}
        leaving = [name for name, _ in self._versions]  # one that is deployed no more finishes what it has
        for name in dict.fromkeys((*(reference.name for reference in view.targets), *leaving, *view.refused)):
            versions = {version: held.entry() for (owner, version), held in self._versions.items() if owner == name}
            rollout = None
            if self._rollouts is not None:
                with self._troubles.apart("publish the rollout of", name):
                    rollout = self._rollouts.entry(name)
            models[name] = self._live_versions.describe(name, view, versions, rollout)
            start_counting(name)
        return Table(
            models=models,
            registry_error=view.error,
            is_known=view.is_known,
            has_started=self._startup.look(view, self._live_versions.live, self._loader.has_failed, time.monotonic()),
            taken_bytes=self.taken_bytes,
        )
