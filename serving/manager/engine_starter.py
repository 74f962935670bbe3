"""Starts the engine processes of a version: as many on each device as there are to be replicas."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from serving.manager.engine_process import EngineProcess
from serving.runtime.limits import own_groups, usable_cores
from serving.runtime.run_folder import ENGINES
from serving.settings import ServingSettings
from serving.wire.engine_orders import EngineOrder


class EngineStarter:
    """Writes an order for each engine and starts it. Not for use from several threads."""

    def __init__(self, settings: ServingSettings, engine: Callable[[EngineOrder], EngineProcess]) -> None:
        """engine: what watches the process of an order."""
        self._settings = settings
        self._engine = engine
        self._started = 0

    def start(
        self, devices: Iterable[str], name: str, version: str, root: Path, digest: str, *, low_priority: bool
    ) -> list[EngineProcess]:
        """The engines of a version, started: one for each of `devices`. Raises OSError, and then none of them runs.

        root: the artifact. digest: of its contract. low_priority: whether loading yields to what serves.
        """
        engines: list[EngineProcess] = []
        for device in devices:
            report = self._next_report()
            order = EngineOrder(
                model=name,
                version=version,
                root=str(root),
                device=device,
                dtype=self._settings.dtype,
                address=f"ipc://{report.removesuffix('.json')}.sock",
                report=report,
                threads=self._threads(),
                run=str(self._settings.run),
                low_priority=low_priority,
                cache_bytes=self._settings.cache_bytes,
                digest=digest,
                hang_seconds=self._settings.hang_seconds,
                cache=str(self._settings.registry.cache),
                max_cache_bytes=self._settings.registry.artifact_cache_bytes,
            )
            engines.append(self._engine(order))
            try:
                engines[-1].start()
            except OSError:
                for engine in engines:
                    engine.kill()
                raise
        return engines

    def _threads(self) -> int:
        """Threads of an engine on a CPU: its share of the cores where it has replicas; 0 for all that may be used."""
        replicas = self._settings.replicas
        if self._settings.threads or replicas == 1:
            return self._settings.threads
        cores, _ = usable_cores(own_groups())
        return max(1, cores // replicas)

    def _next_report(self) -> str:
        """The path of the next engine's report; unique over all managers of the server.

        All are equally long, so that a forked engine can show its order's path where `ps` showed the template's.
        """
        self._started += 1
        number = f"{time.monotonic_ns() // 1_000_000 % 10**8:08}-{self._started:07}"
        return str(self._settings.run / ENGINES / f"{number}.json")
