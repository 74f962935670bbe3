"""A world for the real manager: a registry, artifacts and engine processes that do what a test says, and a clock that
goes only when it is told to. Nothing here takes a thread, a process or real time.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from registry.errors import DigestMismatch, NotFound, RegistryUnavailable
from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from serving.manager import recovery
from serving.manager.engine_process import EngineProcess
from serving.manager.managed_version import Fetched
from serving.manager.manager import Manager
from serving.manager.memory_reading import Memory
from serving.manager.registry_watch import RegistryWatch
from serving.runtime.control_groups import ControlGroups
from serving.runtime.limits import Limits, OomWatch
from serving.settings import ServingSettings
from serving.wire.atomic_file import write_report
from serving.wire.engine_orders import EngineOrder, EngineReport, order_path, read_report
from serving.wire.routing_table import Table, TableFile
from serving.wire.version_state import State
from tests.contracts import CLASSIFIER

ENGINE_BYTES = 100 << 20


class Inline(Executor):
    """Does the work at once."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class Body:
    """An engine's process."""

    pid: int
    order: EngineOrder
    returncode: int | None = None
    asked_to_leave: bool = False

    def poll(self) -> int | None:
        """Its exit status."""
        return self.returncode

    def kill(self) -> None:
        """End it, as SIGKILL does."""
        if self.returncode is None:
            self.returncode = -9

    def send_signal(self, sig: int, /) -> None:
        """Ask it to leave."""
        self.asked_to_leave = True

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status; nobody waits for one that runs."""
        assert self.returncode is not None
        return self.returncode


class WorldGroups(ControlGroups):
    """The control groups of the world."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        object.__setattr__(self, "world", world)

    def oom_kills(self) -> int:
        """As of a real group."""
        world: World = self.world  # type: ignore[attr-defined]
        return world.oom_kills

    def memory_bytes(self) -> int:
        """As of a real group."""
        world: World = self.world  # type: ignore[attr-defined]
        return world.memory_bytes


@dataclass
class World:
    """What is around the manager.

    now: the clock. targets: alias → version in the registry. unfetchable, unloadable: versions that fail in the
    download, or in their engine. damaged: versions whose files in the store are not those that were logged. fetched:
    (now, version) of every download that was begun. memory_bytes: of the machine, of which each engine takes
    ENGINE_BYTES. oom_kills: processes that the kernel killed for want of it.
    """

    now: float = 1_000_000.0
    is_down: bool = False
    targets: dict[str, str] = field(default_factory=dict)
    unfetchable: set[str] = field(default_factory=set)
    unloadable: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    bodies: list[Body] = field(default_factory=list)
    fetched: list[tuple[float, str]] = field(default_factory=list)
    memory_bytes: int = 1 << 40
    oom_kills: int = 0

    @cached_property
    def oom(self) -> OomWatch:
        """What explains the ends of engines."""
        return OomWatch(WorldGroups(self))

    def limits(self) -> Limits:
        """As `read_limits`."""
        size, taken = self.memory_bytes, ENGINE_BYTES * len(self.running())
        return Limits(
            cores=2,
            machine_cores=64,
            cores_by="control group",
            memory_bytes=size,
            machine_memory_bytes=1 << 40,
            memory_by="control group",
            available_bytes=max(0, size - taken),
            oom_kills=self.oom_kills,
        )

    def run_out_of_memory(self, version: str) -> None:
        """The kernel kills the version's engines, as nothing is free any more."""
        for body in self.running():
            if body.order.version == version:
                body.kill()
                self.oom_kills += 1

    def resolve(self, reference: Reference) -> ResolvedVersion:
        """As `Versions.resolve`."""
        if self.is_down:
            raise RegistryUnavailable("it is down")
        version = reference.version or self.targets.get(reference.alias or "")
        if version is None:
            raise NotFound(f"the registry has no {reference}")
        return ResolvedVersion(reference.name, version, f"models:/m-{version}", version)

    def deployed(self) -> list[Reference]:
        """As `Versions.deployed`."""
        return []

    def begin(self, order: EngineOrder) -> Body:
        """Start an engine's process."""
        self.bodies.append(Body(len(self.bodies) + 10**9, order))
        return self.bodies[-1]

    def running(self) -> list[Body]:
        """The processes that have not ended."""
        return [body for body in self.bodies if body.returncode is None]

    def answering(self) -> set[str]:
        """The versions with an engine that is ready."""
        reports = [(body, read_report(Path(body.order.report))) for body in self.running()]
        return {body.order.version for body, report in reports if report == ready(body)}

    def let_engines_go_on(self) -> None:
        """Engines that load become ready or fail, those that were asked to leave do so, and those without order."""
        for body in self.running():
            if body.asked_to_leave or not Path(order_path(body.order.report)).is_file():
                body.returncode = 0
            elif body.order.version in self.unloadable or not Path(body.order.root, "whole").exists():
                is_damaged = body.order.version not in self.unloadable
                error = "DigestMismatch" if is_damaged else "out of memory"
                report = EngineReport(pid=body.pid, state="failed", error=error, is_damaged=is_damaged)
                write_report(Path(body.order.report), report)
                body.returncode = 1
            else:
                write_report(Path(body.order.report), ready(body))


def ready(body: Body) -> EngineReport:
    """What an engine says that has loaded."""
    return EngineReport(pid=body.pid, state="ready", device="cpu")


class WorldEngine(EngineProcess):
    """The real engine's keeper, whose process is one of the world's."""

    world: ClassVar[World]

    def __init__(self, order: EngineOrder) -> None:
        super().__init__(order)
        self._oom = self.world.oom

    def start(self) -> None:
        """As the real one."""
        Path(self.order.report).unlink(missing_ok=True)
        write_report(Path(order_path(self.order.report)), self.order)
        self._started = self.world.now
        self.report = EngineReport(pid=0, state="loading")
        self._process = self.world.begin(self.order)

    @classmethod
    def adopt(cls, order: EngineOrder, report: EngineReport) -> "WorldEngine":
        """As the real one."""
        engine = cls(order)
        engine.report, engine.was_ready = report, report.state == "ready"
        engine._started = cls.world.now
        engine._process = next((body for body in cls.world.running() if body.pid == report.pid), None)
        if engine._process is None:
            engine._end("the engine ended", engine._started)
        return engine

    def _memory(self) -> Memory:
        """The same for all that run."""
        return Memory(ENGINE_BYTES) if self.is_running() else Memory()


class Server:
    """A manager in the world, and its successors; every one looks at every state that it publishes.

    models: what is served. keep_previous: as the setting.
    """

    def __init__(self, models: tuple[Reference, ...], keep_previous: int, *, replace_live: bool = False) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="hw"))
        self.world = World()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(WorldEngine, "world", self.world, raising=False)
        self._patch.setattr(recovery, "EngineProcess", WorldEngine)
        run = self.home / "run" / "1"
        registry = RegistrySettings(self.home, "sqlite://")
        self.settings = ServingSettings(
            *(registry, models, run, os.getpid()),
            keep_previous=keep_previous,
            replace_live=replace_live,
            poll_seconds=1.0,
            load_seconds=1e12,
        )
        self.manager = self._start()

    def close(self) -> None:
        """Leave nothing behind."""
        self._end()
        self._patch.undo()
        shutil.rmtree(self.home)

    def step(self, seconds: float = 0.05) -> Table:
        """Let time pass, then the manager look and act; what it has published."""
        self.world.now += seconds
        self.manager.step(self.world.now)
        return self.table()

    def table(self) -> Table:
        """What the fronts see."""
        return TableFile(self.settings.run).read()

    def settle(self, seconds: float = 1.1, turns: int = 5) -> Table:
        """Let time pass in which engines load or leave, over and over."""
        for _ in range(turns):
            self.step(seconds)
            self.world.let_engines_go_on()
        return self.step()

    def move(self, alias: str, version: str) -> Table:
        """Move the alias, and let what follows from that happen."""
        self.world.targets[alias] = version
        return self.settle()

    def restart(self) -> None:
        """kill -9 of the manager; its successor begins."""
        self._end()
        self.manager = self._start()

    def serves(self, alias: str) -> str | None:
        """The version that the alias serves."""
        entry = self.table().models.get("m")
        return entry.aliases.get(alias) if entry is not None else None

    def states(self) -> dict[str, State]:
        """Version → state."""
        entry = self.table().models.get("m")
        return {version: found.state for version, found in entry.versions.items()} if entry is not None else {}

    def _start(self) -> Manager:
        watch = RegistryWatch(self.settings, threading_event(), lambda: self.world)  # type: ignore[arg-type,return-value]
        watch._pool.shutdown()
        watch._pool = Inline()  # type: ignore[assignment]
        manager = Manager(self.settings, fetch=self._fetch, engine=WorldEngine, watch=watch, limits=self.world.limits)
        manager._fetchers.shutdown()
        manager._fetchers = Inline()  # type: ignore[assignment]
        manager._adopt()
        return manager

    def _end(self) -> None:
        self.manager._watch.close()

    def _fetch(self, version: ResolvedVersion, settings: RegistrySettings) -> Fetched:
        self.world.fetched.append((self.world.now, version.version))
        if version.version in self.world.unfetchable:
            raise DigestMismatch("a file changed after logging")
        root = self.home / "cache" / version.version
        is_cached = root.exists()
        root.mkdir(parents=True, exist_ok=True)
        record = msgspec.structs.replace(CLASSIFIER, torch=version.version).to_record()
        (root / "MLmodel").write_text(json.dumps({"flavors": {"headwaiter": {"contract": record}}}))
        if version.version not in self.world.damaged and not is_cached:
            (root / "whole").touch()
        return root, CLASSIFIER


def threading_event() -> Any:
    """Nobody waits here."""
    import threading

    return threading.Event()
