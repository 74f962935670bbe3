"""Between manager and engine: the order that says what to load, the engine's report, and the fork of an engine."""

import signal
from pathlib import Path
from typing import Any, Literal

import msgspec

EngineState = Literal["waiting", "loading", "ready", "failed"]
"""A process' state: the template waits for orders; an engine loads, answers, or has ended without having answered."""

STOP_SIGNAL = signal.SIGUSR1
"""From the manager to an engine: finish what you have and leave."""

TEMPLATE_SOCKET = "template.sock"
"""The template's Unix socket (SOCK_SEQPACKET) in the folder of the orders. Each connection is for one engine: it
carries a ForkRequest, and then a ForkReply once the engine is forked and once it has ended."""
WANTED_FILE = "template.wanted"
"""`WantedVersions`, beside the template's socket: written before the template starts."""
MAX_REQUEST_BYTES = 1 << 20
"""Of a ForkRequest. The kernel refuses to send a larger one than its buffer, of about 200 KiB."""


FORMAT = 1
"""Of what a server's processes write for each other: table, orders and messages. A manager of a release with another
format, as after an upgrade in place, adopts no engine of this one."""


class EngineOrder(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """What to load and where to answer.

    root: the artifact. digest: of its contract, or empty for one that is not compared, as in benchmarks. device,
    dtype: as set, "auto" allowed. address: a ZeroMQ address to bind. report: the file to report to. threads: on a CPU,
    0 for the cores that may be used. run: the run folder of the server, with which the engine ends. low_priority:
    whether loading yields to what is served already. cache_bytes: of a task that generates. hang_seconds: an engine
    that stands still for longer is replaced. cache: the folder of the artifact cache, in which what engines measure is
    kept; empty to keep nothing. max_cache_bytes: the bound of that folder, 0 for half of the disk.
    """

    model: str
    version: str
    root: str
    device: str
    dtype: str
    address: str
    report: str
    threads: int
    run: str
    low_priority: bool = False
    cache_bytes: int = 0
    digest: str = ""
    hang_seconds: float = 5.0
    cache: str = ""
    max_cache_bytes: int = 0


class EngineProperties(msgspec.Struct, frozen=True, kw_only=True):
    """The results of an engine's load: part of its report, and of its entry in the routing table.

    dtype_note: why the dtype is not the fastest, or empty. execution: the model's optimisations by name, or "eager".
    batching: which rows share a forward pass, as `registry.contract.Batching`.
    notes: what the contract's record lacks because an earlier release wrote it; which optimisations the model was
    refused, and why. split: on a CPU, forward passes side by side × threads of each. budget_tokens: of a batch.
    tokens_per_second: measured.
    """

    device: str = ""
    dtype: str = ""
    dtype_note: str = ""
    execution: str = ""
    batching: str = ""
    notes: tuple[str, ...] = ()
    split: str = ""
    budget_tokens: int = 0
    tokens_per_second: float = 0.0

    def properties(self) -> dict[str, Any]:
        """These fields by name, to make a record of another class of them."""
        return {name: getattr(self, name) for name in EngineProperties.__struct_fields__}


class EngineReport(EngineProperties, frozen=True, kw_only=True):
    """How far an engine is. state: as EngineState; of "failed" `error` says why.

    device_bytes: memory that it holds on a GPU. growth_bytes: memory that its forward passes are going to take beyond
    what it has when it becomes ready. is_damaged: of a failed one, whether a file of the artifact is not the one that
    was logged.
    """

    pid: int
    state: EngineState
    error: str = ""
    device_bytes: int = 0
    growth_bytes: int = 0
    is_damaged: bool = False


class WantedVersions(msgspec.Struct, frozen=True):
    """The artifacts of which engines are going to be forked first, as far as that is known. roots: their folders."""

    roots: tuple[str, ...] = ()


class ForkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """From the manager to the template, together with the descriptors of the engine's standard output and error.

    order: the path of the engine's order. environ, folder: the engine's environment and working directory.
    """

    order: str
    folder: str
    environ: dict[str, str]


class ForkReply(msgspec.Struct, frozen=True, kw_only=True):
    """From the template to the manager. pid: the engine's process id. status: None while it runs.

    Then status is the exit status, or the negative number of the signal that ended it, as in `subprocess`.
    """

    pid: int
    status: int | None = None


def order_path(report: str) -> str:
    """The file of the order of the engine that reports to `report`. It is the engine's lease as well: an engine whose
    order is gone leaves.
    """
    return report.removesuffix(".json") + ".order"


def read_report(path: Path) -> EngineReport | None:
    """The last report, None before the first, and where the file is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineReport)
    except (OSError, msgspec.DecodeError):
        return None
