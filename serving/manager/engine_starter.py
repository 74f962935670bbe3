"""Starts the engine processes of a version: one for each device, the first one in a process that was started ahead."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from serving.manager.engine_process import EngineProcess, Process, spawn
from serving.manager.prestart import take_prestarted
from serving.runtime.instruments import METRICS_FOLDER
from serving.runtime.server_process import ENGINES
from serving.settings import ServingSettings
from serving.wire.engine_orders import EngineOrder, order_path


class EngineStarter:
    """Writes an order for each engine and starts it. Not for use from several threads."""

    def __init__(self, settings: ServingSettings, engine: Callable[[EngineOrder], EngineProcess]) -> None:
        """engine: what watches the process of an order."""
        self._settings = settings
        self._engine = engine
        self._started = 0
        self._prestarted: tuple[str, Process] | None = None

    def prestart(self) -> None:
        """Start a process before its order is known, unless `headwaiter serve` did: imports take seconds."""
        self._prestarted = take_prestarted(self._settings.run)
        if self._prestarted is None:
            report = self._next_report()
            with suppress(OSError):  # then the first engine only starts later
                self._prestarted = (report, spawn(order_path(report)))

    def start(
        self, devices: Iterable[str], name: str, version: str, root: Path, *, low_priority: bool
    ) -> list[EngineProcess]:
        """The engines of a version, started: one for each device. Raises OSError, and then none of them runs.

        root: the verified artifact. low_priority: whether loading yields to what serves.
        """
        engines: list[EngineProcess] = []
        for device in devices:
            report, process = self._take_prestarted() or (self._next_report(), None)
            order = EngineOrder(
                model=name,
                version=version,
                root=str(root),
                device=device,
                dtype=self._settings.dtype,
                address=f"ipc://{report.removesuffix('.json')}.sock",
                report=report,
                threads=self._settings.threads,
                server=self._settings.server,
                low_priority=low_priority,
                cache_bytes=self._settings.cache_bytes,
                metrics=os.environ.get(METRICS_FOLDER, ""),
            )
            engines.append(self._engine(order))
            try:
                engines[-1].start(process)
            except OSError:
                for engine in engines:
                    engine.kill()
                raise
        return engines

    def close(self) -> None:
        """End the process that was started ahead, if it still waits for an order."""
        if self._prestarted is not None:
            self._prestarted[1].kill()

    def _take_prestarted(self) -> tuple[str, Process] | None:
        prestarted, self._prestarted = self._prestarted, None
        return prestarted if prestarted is not None and prestarted[1].poll() is None else None

    def _next_report(self) -> str:
        """The path of the next engine's report; unique over all managers of the server."""
        self._started += 1
        number = f"{time.monotonic_ns() // 1_000_000 % 10**8}-{self._started}"
        return str(self._settings.run / ENGINES / f"{number}.json")
