"""What differs between tasks that generate and those that do not is decided in one place, and a form is one record."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import serving.engine
from serving.engine.optimizations.execution_form import ExecutionForm

FOLDER = Path(serving.engine.__path__[0])


def test_the_engine_asks_in_one_place_whether_a_task_generates() -> None:
    asking = [path.name for path in FOLDER.rglob("*.py") if ".generates" in path.read_text(encoding="utf-8")]
    assert asking == ["assembly.py"]


def test_a_form_is_replaced_and_never_changed() -> None:
    form = ExecutionForm(module=None, is_packed=True, cuda_graph_tokens=128)
    assert form.describe() == "packed sequences, CUDA graphs up to 128 tokens"
    assert ExecutionForm(module=None).describe() == "eager"
    with pytest.raises(FrozenInstanceError):
        form.is_packed = False  # type: ignore[misc]  # that is what is refused
