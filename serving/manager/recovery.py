"""Engines outlive the manager that started them: the next one finds their orders in the run folder and goes on with
them, so that a manager's crash costs no request and loads nothing again.
"""

import logging
from collections import defaultdict
from pathlib import Path

import msgspec

from registry.artifact import read_contract
from serving.manager.engine_process import EngineProcess
from serving.manager.managed_version import ManagedVersion
from serving.manager.policy import VersionKey
from serving.runtime.server_process import ENGINES, claim
from serving.wire.engine_orders import EngineOrder, read_report
from serving.wire.routing_table import Table, TableFile

logger = logging.getLogger("headwaiter.manager")


def enter(run: Path, server: int) -> tuple[Table, dict[VersionKey, ManagedVersion]]:
    """Make the run folder this server's own: what its last manager left in the table, and the versions it held."""
    if not claim(run, server):
        return Table(), {}
    left = TableFile(run).read()
    return left, _adopt(run / ENGINES, left)


def _adopt(folder: Path, left: Table) -> dict[VersionKey, ManagedVersion]:
    engines: dict[VersionKey, list[EngineProcess]] = defaultdict(list)
    for path in sorted(folder.glob("*.order")):
        try:
            order = msgspec.json.decode(path.read_bytes(), type=EngineOrder)
            report = read_report(Path(order.report))
        except (OSError, msgspec.DecodeError):
            report = None
        if report is None or report.state == "failed":
            path.unlink(missing_ok=True)  # it never said who it is: without its order it leaves
            continue
        engines[order.model, order.version].append(EngineProcess.adopt(order, report))
    held = {}
    for (name, version), found in engines.items():
        root = Path(found[0].order.root)
        known = left.models[name].versions.get(version) if name in left.models else None
        contract = known.contract if known is not None else None
        held[name, version] = ManagedVersion.adopt(root, contract or read_contract(root), found)
        logger.info("adopted %s/%s with %d engines", name, version, len(found))
    return held
