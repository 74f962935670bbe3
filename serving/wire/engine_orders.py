"""Files between manager and engine: the order that says what to load, and the engine's report."""

import signal
from pathlib import Path
from typing import Any, Literal

import msgspec

EngineState = Literal["waiting", "loading", "ready", "failed"]
"""An engine's state: waiting for its order, loading the version, answering, or ended without having answered."""

STOP_SIGNAL = signal.SIGUSR1
"""From the manager to an engine: finish what you have and leave."""


class EngineOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to load and where to answer.

    root: the verified artifact. device, dtype: as set, "auto" allowed. address: a ZeroMQ address to bind. report: the
    file to report to. threads: on a CPU, 0 for the cores that may be used. server: id of the server process, with
    which the engine ends. low_priority: whether loading yields to what is served already. cache_bytes: of a task that
    generates. metrics: the folder that the server's processes count in, or empty.
    """

    model: str
    version: str
    root: str
    device: str
    dtype: str
    address: str
    report: str
    threads: int
    server: int
    low_priority: bool = False
    cache_bytes: int = 0
    metrics: str = ""


class EngineProperties(msgspec.Struct, frozen=True, kw_only=True):
    """The results of an engine's load: part of its report, and of its entry in the routing table.

    dtype_note: why the dtype is not the fastest, or empty. execution: the model's optimisations by name, or "eager".
    notes: what the contract's record lacks because an earlier release wrote it; which optimisations the model was
    refused, and why. split: on a CPU, forward passes side by side × threads of each. budget_tokens: of a batch.
    tokens_per_second: measured.
    """

    device: str = ""
    dtype: str = ""
    dtype_note: str = ""
    execution: str = ""
    notes: tuple[str, ...] = ()
    split: str = ""
    budget_tokens: int = 0
    tokens_per_second: float = 0.0

    def properties(self) -> dict[str, Any]:
        """These fields by name, to make a record of another class of them."""
        return {name: getattr(self, name) for name in EngineProperties.__struct_fields__}


class EngineReport(EngineProperties, frozen=True, kw_only=True):
    """How far an engine is. state: "waiting" (for its order), "loading", "ready" or "failed"; then error says why.

    device_bytes: memory that it holds on a GPU.
    """

    pid: int
    state: EngineState
    error: str = ""
    device_bytes: int = 0


def order_path(report: str) -> str:
    """The file of the order of the engine that reports to `report`. It is the engine's lease as well: an engine whose
    order is gone leaves.
    """
    return report.removesuffix(".json") + ".order"


def read_report(path: Path) -> EngineReport | None:
    """The last report, None before the first."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineReport)
    except FileNotFoundError:
        return None
