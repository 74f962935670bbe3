"""Engines outlive the manager that started them: the next one finds their orders in the run folder and goes on with
them, so that a manager's crash costs no request and loads nothing again.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from registry.artifact import read_contract
from registry.errors import ArtifactError, ContractError
from registry.redaction import redact
from serving.manager.engine_process import EngineProcess
from serving.manager.managed_version import ManagedVersion
from serving.runtime.run_folder import ENGINES
from serving.wire.engine_orders import EngineOrder, order_path, read_report
from serving.wire.routing_table import Table, TableFile
from serving.wire.version_state import VersionKey

logger = logging.getLogger("headwaiter.manager")


def enter(run: Path) -> tuple[Table, dict[VersionKey, ManagedVersion]]:
    """What the last manager of this server left in the run folder: the table, and the versions that it held.

    What cannot be read or is not this server's counts as not there. Raises OSError where there is no run folder.
    """
    (run / ENGINES).mkdir(exist_ok=True)
    left = TableFile(run).read()
    engines: dict[VersionKey, list[EngineProcess]] = defaultdict(list)
    for path in sorted((run / ENGINES).glob("*.order")):
        engine = _adopt_engine(path, run)
        if engine is None:
            with suppress(OSError):
                path.unlink()  # an engine without an order leaves
        else:
            engines[engine.order.model, engine.order.version].append(engine)
    held = {}
    for (name, version), found in engines.items():
        try:
            held[name, version] = _adopt_version(found, left)
            logger.info("adopted %s/%s with %d engines", name, version, len(found))
        except (ArtifactError, ContractError, OSError) as error:
            logger.warning("%s/%s is loaded anew, as its files cannot be read: %s", name, version, redact(str(error)))
            for engine in found:
                engine.kill()
    return left, held


def unloaded_versions(left: Table) -> Iterator[tuple[VersionKey, ManagedVersion]]:
    """The versions in the table that were loaded on demand only; they still are."""
    now = time.monotonic()
    for name, model in left.models.items():
        for version, entry in model.versions.items():
            if entry.on_demand:
                root = Path(entry.root) if entry.root else None
                unloaded = ManagedVersion(name, version, None, state="unloaded", root=root, contract=entry.contract)
                unloaded.load_seconds, unloaded.unloaded_at = entry.load_seconds, now
                yield (name, version), unloaded


def _adopt_engine(path: Path, run: Path) -> EngineProcess | None:
    """The engine of the order in the file `path`, None where it never said who it is or has failed."""
    try:
        order = msgspec.json.decode(path.read_bytes(), type=EngineOrder)
    except (OSError, msgspec.DecodeError):
        return None
    report = read_report(Path(order.report))
    is_own = (order_path(order.report), order.run) == (str(path), str(run))
    if not is_own or report is None or report.state == "failed":
        return None
    return EngineProcess.adopt(order, report)


def _adopt_version(engines: list[EngineProcess], left: Table) -> ManagedVersion:
    """The version of these engines. Raises ArtifactError, ContractError or OSError where its files cannot be read."""
    order = engines[0].order
    root = Path(order.root)
    known = left.models[order.model].versions.get(order.version) if order.model in left.models else None
    contract = known.contract if known is not None else None
    return ManagedVersion.adopt(root, contract or read_contract(root), engines)
