from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serving.engine.generation import factory
from serving.runtime.control_groups import ControlGroups
from tests.serving.engine.generation.rows import Encoder, finish, load, row


def test_the_default_of_the_key_value_cache_follows_the_memory_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(str(100 << 20))
    (tmp_path / "memory.current").write_text(str(20 << 20))
    monkeypatch.setattr(factory, "own_groups", lambda: ControlGroups(memory=(tmp_path,)))
    assert factory.default_bytes(torch.device("cpu")) == (80 << 20) // 10


@pytest.mark.processor
def test_a_look_at_the_model_after_a_fault_leaves_nothing_on_it() -> None:
    module = load("bart")
    contract: Any = SimpleNamespace(
        max_tokens=64, processor=SimpleNamespace(vocabulary=module.config.vocab_size, pad_token_id=0)
    )
    encoder: Any = Encoder()
    scheduler = factory.make_scheduler(module, contract, encoder, cache_bytes=1 << 20)
    table, fails = module.get_decoder().embed_positions, [True, True]
    before = dict(table._forward_hooks)
    assert before, "this decoder tells the model its positions by a hook"

    def fail(*_: object) -> None:
        if fails:
            fails.pop()
            raise RuntimeError("no memory")

    hook = module.register_forward_pre_hook(fail)
    try:
        scheduler.add(b"f", row(1, [5, 6, 7]), 0.0)
        assert finish(scheduler).failures == {1: "failed"}
    finally:
        hook.remove()
    assert not fails
    assert dict(table._forward_hooks) == before
