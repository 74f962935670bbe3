from pathlib import Path

import pytest

from serving.wire.engine_orders import EngineOrder


@pytest.fixture
def order(tmp_path: Path) -> EngineOrder:
    """For an engine of this process as its server; nothing is there to load."""
    return EngineOrder(
        model="m",
        version="1",
        root=str(tmp_path),
        device="cpu",
        dtype="auto",
        address=f"ipc://{tmp_path}/1.sock",
        report=f"{tmp_path}/1.json",
        threads=0,
        run=str(tmp_path),
    )
