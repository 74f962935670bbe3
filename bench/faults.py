"""The faults of `bench chaos`: each is done to a running server and over when its function returns."""

import json
import os
import resource
import shutil
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import psutil

from bench.gate import Gate, Mode
from bench.ledger import Ledger
from bench.processes import BenchError
from bench.stepped_clock import SteppedClock
from registry.cache_folder import INCOMING
from registry.held_folder import is_free
from registry.settings import DEFAULT_ALIAS, RegistrySettings
from registry.tracking import connect
from registry.versions import DIGEST

RECOVERY_SECONDS = 300.0
"""A server that does not follow an alias by then has not recovered; only ends a run that hangs."""
MIN_VERSIONS = 64
"""Answers of a version in a row by which every connection, and so every front, has seen it."""
STABLE_SECONDS = 65.0
"""An engine that has served this long has its crashes forgotten."""
MAX_FAULTS = 1000
"""With more in one phase nothing is served any more."""
MONOTONIC = ("heartbeat", "nudge")
"""Files whose times are not the clock's."""
STRANGERS = 20
"""Other connections that come while a process has no descriptors."""


@dataclass
class Shop:
    """A server of `model`, whose alias goes from version 1 to version 2 and back, its ledger, the gates before its
    registry and its artifact store, and its clock, unless that is the machine's.
    """

    home: Path
    model: str
    port: int
    pid: int
    ledger: Ledger
    gate: Gate
    store: Gate
    clock: SteppedClock | None
    pause_seconds: float
    version: str = "1"
    ended: dict[str, float] = field(default_factory=dict)

    @cached_property
    def registry(self) -> Any:
        """MLflow's client, past the gate."""
        return connect(RegistrySettings(self.home, f"sqlite:///{self.home / 'mlflow.db'}"))

    def processes(self, kind: str) -> list[psutil.Process]:
        """Those of one kind: front, manager or template."""
        return [found for found in psutil.process_iter() if self._kind_of(found) == kind]

    def _kind_of(self, process: psutil.Process) -> str:
        """What the process does for this server, by its command line; empty for one that has ended and for others."""
        try:
            words, parent = process.cmdline(), process.ppid()
        except psutil.Error:
            return ""
        if "serving.engine.template" in words and any(word.startswith(f"{self.home}/run/") for word in words):
            return "template"
        if parent == self.pid and "_bentoml_impl.worker.service" in words:
            return "manager" if "headwaiter_manager" in words else "front"
        return ""

    def some(self, kind: str) -> psutil.Process:
        """One process of this kind; of engines one of the live version. Blocks until there is one."""
        if kind == "engine":
            return psutil.Process(wait_for(self._live_engine, "the live version has an engine"))
        found: list[psutil.Process] = wait_for(lambda: self.processes(kind), f"there is a {kind}")
        return found[0]

    def _live_engine(self) -> int:
        """The process id of an engine of the live version, 0 while there is none."""
        described = self.described()
        engines = described["versions"].get(described["live"], {}).get("engines") or [{"pid": 0}]
        return int(engines[0]["pid"])

    def end_engine(self) -> None:
        """Kill an engine of the live version, but not a third time in a row: its version would be given up."""
        live = self.described()["live"]
        wait_for(
            lambda: time.monotonic() - self.ended.get(live, -inf) > STABLE_SECONDS, f"{live} has served long enough"
        )
        with suppress(psutil.NoSuchProcess):
            self.some("engine").kill()
        self.ended[live] = time.monotonic()

    def described(self) -> Any:
        """`GET /models/{model}`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/models/{self.model}", timeout=60) as answer:
            return json.load(answer)

    def move(self) -> None:
        """Move the alias to the other version, and wait until all connections are answered by that one alone."""
        self.version = "2" if self.version == "1" else "1"
        self.registry.set_registered_model_alias(self.model, DEFAULT_ALIAS, self.version)
        wait_for(self._is_followed, f"version {self.version} answers everywhere: {self.ledger.versions}")

    def _has_answered(self, before: Counter[str]) -> Callable[[], bool]:
        """Whether every connection has had the time for a request and an answer since then."""

        def has_answered() -> bool:
            if not self.ledger.is_alive():
                raise BenchError(f"the ledger failed: {self.ledger.error!r}")
            if len(self.ledger.pages[self.ledger.phase].faults) > MAX_FAULTS:
                raise BenchError(f"{self.ledger.phase}: {self.ledger.pages[self.ledger.phase].faults[:3]}")
            return (self.ledger.versions - before).total() >= MIN_VERSIONS

        return has_answered

    def _is_followed(self) -> bool:
        before = self.ledger.versions.copy()
        wait_for(self._has_answered(before), "requests are answered")
        return set(self.ledger.versions - before) == {self.version}


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of the condition. Blocks; raises BenchError after RECOVERY_SECONDS."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise BenchError(f"not within {RECOVERY_SECONDS:g} s: {what}")
        time.sleep(0.05)
    return found


def kill(kind: str) -> Callable[[Shop], None]:
    """One process is killed (kill -9). A front's own connections break with it."""

    def strike(shop: Shop) -> None:
        victim = shop.some(kind)
        with suppress(psutil.NoSuchProcess):
            victim.suspend()  # so that it accepts no more
            if kind == "front":
                shop.ledger.doomed |= {each.raddr.port for each in victim.net_connections("tcp4") if each.raddr}
            victim.kill()
            victim.wait(60)

    return strike


def stop(kind: str) -> Callable[[Shop], None]:
    """SIGSTOP of one process, and SIGCONT some seconds later."""

    def strike(shop: Shop) -> None:
        victim = shop.some(kind)
        with suppress(psutil.NoSuchProcess):
            victim.suspend()
            time.sleep(shop.pause_seconds)
            victim.resume()

    return strike


def no_descriptors(kind: str) -> Callable[[Shop], None]:
    """EMFILE: one process may open nothing more for some seconds, while other clients come."""

    def strike(shop: Shop) -> None:
        victim = shop.some(kind)
        before = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (victim.num_fds(), before[1]))
        try:
            with ExitStack() as stack:
                for _ in range(STRANGERS):
                    stack.enter_context(socket.create_connection(("127.0.0.1", shop.port)))
                time.sleep(shop.pause_seconds)
        finally:
            resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, before)

    return strike


def full_disk(shop: Shop) -> None:
    """No byte is free where home is, and an engine ends meanwhile."""
    ballast = shop.home / "ballast"
    try:
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
        shop.end_engine()
        time.sleep(shop.pause_seconds)
    finally:
        ballast.unlink()


def registry(mode: Mode) -> Callable[[Shop], None]:
    """The registry seems to be so for some seconds."""

    def strike(shop: Shop) -> None:
        with shop.gate.being(mode):
            time.sleep(shop.pause_seconds)

    return strike


def no_store(shop: Shop) -> None:
    """The alias moves to a version that was never fetched while the artifact store is away, and back."""
    with shop.store.being("away"):
        fail_to_move(shop)


def store(mode: Mode) -> Callable[[Shop], None]:
    """The artifact store is so while the alias moves to a version that was never fetched, back, and to the one that was
    live before, which waits for no download.
    """

    def strike(shop: Shop) -> None:
        with shop.store.being(mode):
            move_to_unknown(shop)
            time.sleep(shop.pause_seconds)
            move_back(shop)
            shop.move()

    return strike


def fail_to_move(shop: Shop) -> None:
    """The alias moves to version 3, which cannot be loaded now, and back."""
    move_to_unknown(shop)
    wait_for(lambda: shop.described()["versions"].get("3", {}).get("error"), "version 3 is refused")
    move_back(shop)


def move_to_unknown(shop: Shop) -> None:
    """The alias moves to version 3, which leaves the cache first: a retry of the fault before may have fetched it."""
    tags = shop.registry.get_model_version(shop.model, "3").tags
    shutil.rmtree(shop.home / "cache" / tags[DIGEST], ignore_errors=True)
    shop.registry.set_registered_model_alias(shop.model, DEFAULT_ALIAS, "3")
    wait_for(lambda: "3" in shop.described()["versions"], "version 3 is wanted")


def move_back(shop: Shop) -> None:
    """The alias moves to the live version, and version 3 is given up."""
    shop.registry.set_registered_model_alias(shop.model, DEFAULT_ALIAS, shop.version)
    wait_for(lambda: "3" not in shop.described()["versions"], "version 3 is forgotten")


def lying_store(shop: Shop) -> None:
    """The alias moves to a version whose weights in the store are not the logged ones, and back."""
    # a download that the fault before held up would bring the logged ones
    wait_for(lambda: all(map(is_free, shop.home.glob(f"cache/{INCOMING}*"))), "no download goes on")
    store = shop.registry
    with flipped(weights_of(shop.home, store.get_model_version(shop.model, "3").source)):
        fail_to_move(shop)


def weights_of(home: Path, source: str) -> Path:
    """The weights of a logged model in the embedded store."""
    (found,) = home.glob(f"artifacts/**/{source.rpartition('/')[2]}/**/model.safetensors")
    return found


def damaged_cache(shop: Shop) -> None:
    """The live version's weights in the cache are others, and its engine has to start again with them."""
    tags = shop.registry.get_model_version(shop.model, shop.described()["live"]).tags
    weights = shop.home / "cache" / tags[DIGEST] / "model" / "model.safetensors"
    weights.chmod(0o600)
    flip(weights)
    shutil.rmtree(weights.parents[1] / "graphs", ignore_errors=True)  # who has the graph opens no weights
    shop.end_engine()


def clock_step(shop: Shop) -> None:
    """The server's clock is set to another day, if it has one of its own, and home's files get times of another day."""
    if shop.clock is not None:
        for days in (1, -1, 0):
            shop.clock.set(86_400 * days)
            if days > 0:
                shop.end_engine()  # the next one begins in the future
            shop.move()
            for kind in KINDS:
                if not shop.clock.is_of(shop.some(kind).pid):
                    raise BenchError(f"the {kind} does not have the clock that is set")
    for seconds in (86_400.0, -86_400.0):
        now = time.time() + seconds
        for path in [*shop.home.glob("run/**/*"), *shop.home.glob("cache/*"), *shop.home.glob("last-live/**/*")]:
            if path.name in MONOTONIC:
                continue
            with suppress(OSError):
                os.utime(path, (now, now))
        time.sleep(shop.pause_seconds)


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """Invert a bit of the file's last byte while the block runs."""
    flip(path)
    try:
        yield
    finally:
        flip(path)


def flip(path: Path) -> None:
    """Change the file's last byte, or change it back."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


KINDS = ("engine", "front", "manager", "template")
FAULTS: dict[str, Callable[[Shop], None]] = {
    "kill -9 of the engine": Shop.end_engine,
    **{f"kill -9 of the {kind}": kill(kind) for kind in KINDS if kind != "engine"},
    **{f"SIGSTOP of the {kind}": stop(kind) for kind in KINDS},
    **{f"no descriptors in the {kind}": no_descriptors(kind) for kind in ("front", "manager", "engine")},
    "registry away": registry("away"),
    "registry slow": registry("slow"),
    "registry lies": registry("lying"),
    "artifact store away": no_store,
    "artifact store slow": store("slow"),
    "artifact store silent": store("silent"),
    "artifact store lies": lying_store,
    "steps of the clock": clock_step,
    "cache damaged": damaged_cache,
    "disk full": full_disk,
}
