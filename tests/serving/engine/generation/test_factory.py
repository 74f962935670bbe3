from pathlib import Path

import pytest
import torch

from serving.engine.generation import factory
from serving.runtime.control_groups import ControlGroups


def test_the_default_of_the_key_value_cache_follows_the_memory_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(str(100 << 20))
    (tmp_path / "memory.current").write_text(str(20 << 20))
    monkeypatch.setattr(factory, "own_groups", lambda: ControlGroups(memory=(tmp_path,)))
    assert factory.default_bytes(torch.device("cpu")) == (80 << 20) // 10
