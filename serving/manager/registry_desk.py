"""Takes operators' orders from the fronts, does them in the registry, and lets the manager look at once.

Threads of its own: an order may block on MLflow, or while a version's files are fetched, and holds up neither the
manager's loop nor another order. One that never returns is given up, and its place is free again. What an order may do
is decided by the front, which knows the key.
"""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import msgspec

from registry.environment import InvalidSetting
from registry.errors import NotFound, RegistryError, RegistryUnavailable
from registry.rollout.control import Rollouts
from registry.rollout.state import RolloutState
from registry.versions import Versions
from serving.manager.registry_watch import GIVE_UP_SECONDS, connect_client
from serving.runtime.bounded_calls import BoundedCalls, GivenUp, TooManyHang
from serving.runtime.daemon_pool import DaemonPool
from serving.runtime.peer import is_own_user
from serving.settings import ServingSettings
from serving.wire.registry_orders import (
    BODIES,
    MAX_ORDER_BYTES,
    ChangeRollout,
    Outcome,
    Promote,
    ReadOrder,
    RegistryOrder,
    RollBack,
    StartRollout,
    address_of,
)
from serving.wire.routing_table import TableFile

ORDERS = 4
"""At a time; others wait. Untuned: people give them."""
MAX_TAKEN = 64
"""Done or waiting, each with a descriptor; further fronts wait to be connected, and are refused if there are many."""
CHANGE_SECONDS = 600.0
"""A change that takes longer is given up; a look after GIVE_UP_SECONDS. As long as a front waits for it."""
MAX_HANGING = 16
"""Orders that were given up and hang all the same: with more, none is begun. Untuned: each keeps a thread."""
RETRY_SECONDS = 0.5
"""The pause after an order that could not be taken, as where there are no descriptors."""
READ_SECONDS = 5.0
"""How long a front may take to send its order."""

logger = logging.getLogger("headwaiter.manager")


class RegistryDesk:
    """The socket of one manager, open from construction on. Where it cannot be, as on a full disk, the log says so."""

    def __init__(self, settings: ServingSettings, connect: Callable[[], Versions] | None = None) -> None:
        """connect: makes the registry's client, at the first order."""
        self._connect = connect or partial(connect_client, settings.registry)
        self._file = TableFile(settings.run)
        self._versions: Versions | None = None
        self._calls = BoundedCalls(MAX_HANGING, "headwaiter-order")
        self._places = threading.Semaphore(MAX_TAKEN)
        self._is_closed = threading.Event()
        self._pool = DaemonPool(ORDERS, "headwaiter-orders")
        self._listener = _listen(address_of(settings.run))
        if self._listener is not None:
            threading.Thread(target=self._accept, args=(self._listener,), name="headwaiter-desk", daemon=True).start()

    def close(self) -> None:
        """Take no more orders."""
        self._is_closed.set()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`, which `close` alone does not
            self._listener.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._places.release()  # ends the wait for one

    def _accept(self, listener: socket.socket) -> None:
        while not self._is_closed.is_set():
            self._places.acquire()
            try:
                link, _ = listener.accept()
                self._pool.submit(self._serve, link).add_done_callback(lambda _: self._places.release())
            except (OSError, RuntimeError) as error:  # without descriptors, or closed
                self._places.release()
                if not self._is_closed.wait(RETRY_SECONDS):
                    logger.warning("an order could not be taken, it is tried again: %s", error)

    def _serve(self, link: socket.socket) -> None:
        """Answer one front, a process of this user; another one's connection is closed."""
        with link, suppress(OSError, msgspec.DecodeError):  # a front that left or took too long, or no front
            if not is_own_user(link):
                logger.warning("an order was refused: it came from a process of another user")
                return
            link.settimeout(READ_SECONDS)
            order = msgspec.json.decode(_read(link), type=RegistryOrder)
            link.sendall(msgspec.json.encode(self.do(order)))

    def do(self, order: RegistryOrder) -> Outcome:
        """Do an order. Never raises."""
        seconds = GIVE_UP_SECONDS if BODIES[order.action] is ReadOrder else CHANGE_SECONDS
        try:
            answer = self._calls.wait(partial(self._do, order), seconds)
        except TooManyHang:
            return Outcome(
                trouble="unavailable",
                message=f"{MAX_HANGING} orders before this one wait for the registry and do not return: see that "
                "MLflow answers; where they never do, restart the server",
            )
        except NotFound as error:
            return Outcome(trouble="unknown", message=str(error))
        except RegistryUnavailable as error:
            return Outcome(trouble="unavailable", message=str(error))
        except (RegistryError, InvalidSetting) as error:
            return Outcome(trouble="refused", message=str(error))
        except GivenUp:
            logger.warning(
                "an order is given up after %g s, the registry does not answer: %s of %s (%d such orders hang)",
                *(seconds, order.action, order.name, self._calls.hanging()),
            )
            return Outcome(
                trouble="unavailable",
                message=f"the registry has not answered within {seconds:g} s, and may still do what was asked: see "
                "that MLflow answers, then look at the history",
            )
        except Exception:  # the edge: the manager goes on, and the log says what a person cannot mend
            logger.exception("an order failed: %s of %s", order.action, order.name)
            return Outcome(trouble="failed", message="the order failed: the manager's log says why")
        if BODIES[order.action] is not ReadOrder:
            with suppress(OSError):  # the next poll follows
                self._file.nudge()
        return Outcome(msgspec.Raw(msgspec.json.encode(answer)))

    def _do(self, order: RegistryOrder) -> object:
        versions, name, who = self._client(), order.name, order.who
        match order.decoded():
            case Promote(version=version, why=why, alias=alias, allow_breaking=allow):
                return versions.promote(name, version, why=why, who=who, alias=alias, allow_breaking=allow)
            case RollBack(why=why, alias=alias):
                return versions.rollback(name, why=why, who=who, alias=alias)
            case StartRollout() as plan:
                return {"rollout": describe(_start(Rollouts(versions), name, who, plan))}
            case ChangeRollout(why=why):
                return {"rollout": describe(_change(Rollouts(versions), order, why))}
            case ReadOrder() if order.action == "history":
                return {"moves": versions.history(name)}
            case ReadOrder():
                state = Rollouts(versions).state(name)
                return {"rollout": None if state is None else describe(state)}
            case other:
                assert_never(other)

    def _client(self) -> Versions:
        """The registry's client. Orders that come together may each make one: the first of them may hang."""
        if self._versions is None:
            self._versions = self._connect()
        return self._versions


def describe(state: RolloutState) -> dict[str, object]:
    """A rollout as data: where it stands, its plan, what its guards said, and how it ended."""
    records = {part: getattr(state, part) for part in ("plan", "progress", "order", "stop", "done")}
    steps = [str(step) for step in state.steps]
    return {"phase": state.phase, "step": str(state.step), "steps": steps, "weight": state.weight, **records}


def _start(rollouts: Rollouts, name: str, who: str, plan: StartRollout) -> RolloutState:
    parts = {part: getattr(plan, part) for part in ("steps", "every", "bake", "guards")}
    given: dict[str, Any] = {part: value for part, value in parts.items() if value is not None}
    allow = plan.allow_breaking
    return rollouts.start(name, plan.version, why=plan.why, who=who, alias=plan.alias, allow_breaking=allow, **given)


def _change(rollouts: Rollouts, order: RegistryOrder, why: str) -> RolloutState:
    match order.action:
        case "pause" | "resume" as action:
            return rollouts.order(order.name, action, why=why, who=order.who)
        case "abort":
            return rollouts.abort(order.name, why=why, who=order.who)
        case _:
            return rollouts.finish(order.name, why=why, who=order.who)


def _listen(address: str) -> socket.socket | None:
    """A socket at `address` in place of one that a manager before left, for this user alone; None where it fails."""
    path, listener = Path(address), socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(address)
        path.chmod(0o600)
        listener.listen()
    except OSError as error:  # serving goes on, and operators have the command line
        logger.error("operators' changes by HTTP are not taken, %s cannot be opened: %s", path.name, error)
        listener.close()
        return None
    return listener


def _read(link: socket.socket) -> bytes:
    """The whole order. Raises OSError for one that is too long."""
    data = b""
    while part := link.recv(MAX_ORDER_BYTES):
        data += part
        if len(data) > MAX_ORDER_BYTES:
            raise OSError("an order is too long")
    return data
