"""The text of `/metrics`: what all processes of the server counted, and the state of every version from the table."""

import asyncio

from monitoring.metrics import VersionStatus, render
from serving.front import Front


async def render_metrics(front: Front) -> bytes:
    """The exposition; made in a thread, because reading every process' file takes milliseconds."""
    return await asyncio.to_thread(render, statuses(front))


def statuses(front: Front) -> list[VersionStatus]:
    """One record a version that the table names."""
    found = []
    for name, model in front.table.models.items():
        for version, entry in model.versions.items():
            engine = entry.engines[0] if entry.engines else None
            found.append(
                VersionStatus(
                    model=name,
                    version=version,
                    task=entry.contract.task if entry.contract else "",
                    state=entry.state,
                    aliases=tuple(alias for alias, live in model.aliases.items() if live == version),
                    head=entry.contract.model_class if entry.contract else "",
                    dtype=engine.dtype if engine else "",
                    device=engine.device if engine else "",
                )
            )
    return found
