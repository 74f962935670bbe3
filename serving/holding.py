"""A version that the manager holds: from being fetched, through its engines' lives, to its end."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from registry.contract import Contract
from serving.process import EngineProcess
from serving.report import EngineOrder
from serving.table import EngineEntry, VersionEntry

Fetched = tuple[Path, Contract]
"""The verified artifact's folder and its contract."""


@dataclass
class Holding:
    """One version. state: "loading", "ready", "failed" or "draining". began, failed_at: monotonic seconds.

    fetching: the download, until it is done. Once ready it stays so while its engines are restarted.
    """

    name: str
    version: str
    fetching: "Future[Fetched] | None"
    state: str = "loading"
    error: str = ""
    began: float = field(default_factory=time.monotonic)
    failed_at: float = 0.0
    root: Path | None = None
    contract: Contract | None = None
    engines: list[EngineProcess] = field(default_factory=list)
    drain_until: float = 0.0

    def step(self, now: float, orders: Callable[[str, str, Path], list[EngineOrder]], load_seconds: float) -> list[str]:
        """Look at the fetch and at the engines; returns what happened: "ready", "failed", "lost", "restarted".

        orders: (name, version, root) → what to start once the files are there.
        """
        if self.state in ("failed", "draining"):
            return []
        if self.fetching is not None and self.fetching.done():
            error = self._take_files(orders)
            if error:
                return self._fail(error, now)
        happened = [change for engine in self.engines if (change := engine.poll(now)) is not None]
        if self.state == "ready":
            return [change for change in happened if change != "ready"]
        if "failed" in happened:
            return self._fail(next(engine.report.error for engine in self.engines if engine.report.error), now)
        if now - self.began > load_seconds:
            return self._fail(f"loading took longer than HEADWAITER_LOAD_SECONDS={load_seconds:g}", now)
        if self.engines and all(engine.was_ready for engine in self.engines):
            self.state = "ready"
            return ["ready"]
        return []

    def drain(self, now: float, seconds: float) -> None:
        """Take no new requests; the engines leave once what they have is answered, at most `seconds` later."""
        self.state, self.drain_until = "draining", now + seconds
        if self.fetching is not None:
            self.fetching.cancel()
        for engine in self.engines:
            engine.stop()

    def is_over(self, now: float) -> bool:
        """Whether a draining version has left; past its time it is made to."""
        if self.state == "draining" and now > self.drain_until:
            self.kill()
        return self.state == "draining" and not any(engine.is_running() for engine in self.engines)

    def kill(self) -> None:
        """End its engines now."""
        for engine in self.engines:
            engine.kill()

    def entry(self) -> VersionEntry:
        """What the table says of it."""
        return VersionEntry(
            state=self.state,
            error=self.error,
            root=str(self.root or ""),
            contract=self.contract,
            engines=tuple(
                EngineEntry(
                    address=engine.order.address,
                    device=engine.report.device,
                    dtype=engine.report.dtype,
                    dtype_note=engine.report.dtype_note,
                    budget_tokens=engine.report.budget_tokens,
                    tokens_per_second=engine.report.tokens_per_second,
                    accepting=not engine.is_stopping,
                )
                for engine in self.engines
                if engine.report.state == "ready"
            ),
        )

    def _take_files(self, orders: Callable[[str, str, Path], list[EngineOrder]]) -> str:
        """Start the engines on what was fetched; returns why it cannot be, or an empty text."""
        assert self.fetching is not None
        done, self.fetching = self.fetching, None
        try:
            self.root, self.contract = done.result()
        except Exception as error:  # whatever the registry raised, it is this version's cause of failure
            return f"{type(error).__name__}: {error}"
        self.engines = [EngineProcess(order) for order in orders(self.name, self.version, self.root)]
        for engine in self.engines:
            engine.start()
        return ""

    def _fail(self, error: str, now: float) -> list[str]:
        self.state, self.error, self.failed_at = "failed", error, now
        self.kill()
        self.engines = []
        return ["failed"]
