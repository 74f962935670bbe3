"""A kept graph answers as the model did and needs torch alone. A graph that was changed since is not used."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import torch

from registry.artifact import read_contract
from serving.engine import __main__ as process
from serving.engine.kept_graph import FOLDER, STALE_SECONDS
from serving.engine.loading import Loaded, finds_kept, load_engine, load_kept
from serving.engine.optimizations.prepacked_weights import WeightLayout
from serving.engine.optimizations.torchscript import TracedModule
from serving.wire.engine_orders import EngineOrder
from tests.abilities import needs
from tests.alike import assert_alike

pytestmark = [pytest.mark.processor, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
FIXTURE = ROOT / "tests" / "fixtures" / "artifact-of-format-1"
WITHOUT_TRANSFORMERS = """
import sys
from pathlib import Path
import msgspec
from serving.engine.loading import load_kept
from serving.engine.process_state import prepare_graphs
from serving.wire.engine_orders import EngineOrder
prepare_graphs()
loaded = load_kept(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=EngineOrder))
print(loaded.report.execution, "transformers" in sys.modules)
"""


@pytest.fixture
def cached(order: EngineOrder, tmp_path: Path) -> EngineOrder:
    """An order for an artifact in the cache."""
    cache = tmp_path / "cache"
    root = shutil.copytree(FIXTURE, cache / read_contract(FIXTURE).digest)
    return msgspec.structs.replace(order, root=str(root), cache=str(cache), threads=1)


def keep(order: EngineOrder) -> Loaded:
    """Load the artifact, and keep its graph."""
    assert load_kept(order) is None
    assert not finds_kept(order)
    loaded = load_engine(order)
    assert loaded.keep is not None
    loaded.keep()
    return loaded


def file_of(order: EngineOrder, suffix: str) -> Path:
    (path,) = (Path(order.root) / FOLDER).glob(f"*{suffix}")
    return path


def answers(loaded: Loaded) -> list[torch.Tensor]:
    """Of batches of one row, equal rows, and rows of many lengths."""
    model, found = loaded.model, []
    for lengths in ([1], [7, 7], [9, 3, 30, 9, 1, 17], [model.contract.max_tokens]):
        rows = [model.probe(min(length, model.contract.max_tokens), index) for index, length in enumerate(lengths)]
        found += [torch.from_numpy(array) for arrays in model.run(rows) for array in arrays]
    return found


def test_an_engine_that_loads_beside_others_has_kept_its_graph_before_it_serves(
    cached: EngineOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "own_autogroup", lambda: None)
    loaded = process._load_beside_others(msgspec.structs.replace(cached, low_priority=True))
    assert loaded.keep is None
    assert finds_kept(cached)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=needs("packed bfloat16"))])
@pytest.mark.parametrize("layout", list(WeightLayout))
def test_a_kept_graph_answers_as_the_model_does(
    cached: EngineOrder, dtype: str, layout: WeightLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.optimizations.prepacked_weights._choose_layout", lambda *_: layout)
    order = msgspec.structs.replace(cached, dtype=dtype)
    first = keep(order)
    assert finds_kept(order)
    kept = load_kept(order)
    assert kept is not None
    assert kept.model.measurements.made == []
    assert replace(kept.model.form, module=first.model.module) == first.model.form
    assert kept.cost == first.cost
    assert kept.report == first.report
    assert kept.keep is None
    for found, expected in zip(answers(kept), answers(first), strict=True):
        assert_alike(found, expected)
    with pytest.raises(RuntimeError, match="does not take pixels"):
        kept.model.module(pixels=torch.zeros(1))


@pytest.mark.parametrize(("more_bytes", "is_kept"), [(0, False), (1 << 30, True)])
def test_a_graph_is_kept_within_the_caches_bound_only(
    cached: EngineOrder, caplog: pytest.LogCaptureFixture, more_bytes: int, is_kept: bool
) -> None:
    size = sum(path.stat().st_size for path in Path(cached.root).rglob("*") if path.is_file())
    order = msgspec.structs.replace(cached, max_cache_bytes=size + more_bytes)
    keep(order)
    assert finds_kept(order) == is_kept
    assert ("HEADWAITER_ARTIFACT_CACHE_BYTES" in caplog.text) != is_kept
    assert (Path(order.root) / "MLmodel").exists(), "what runs stays"


@pytest.mark.server
def test_a_kept_graph_needs_neither_transformers_nor_the_weights(cached: EngineOrder, tmp_path: Path) -> None:
    first = keep(cached)
    (Path(cached.root) / "model" / "model.safetensors").unlink()
    path = tmp_path / "order"
    path.write_bytes(msgspec.json.encode(cached))
    command = [sys.executable, "-c", WITHOUT_TRANSFORMERS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == f"{first.report.execution} False"


def change_a_byte(order: EngineOrder) -> None:
    path = file_of(order, ".pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_the_record(order: EngineOrder) -> None:
    file_of(order, ".json").write_text("{}")


def let_others_write(order: EngineOrder) -> None:
    file_of(order, ".pt").chmod(0o602)


def remove(order: EngineOrder) -> None:
    file_of(order, ".pt").unlink()


@pytest.mark.sweep
@pytest.mark.parametrize("damage", [change_a_byte, damage_the_record, let_others_write, remove])
def test_a_graph_that_is_not_what_was_kept_is_not_used(
    cached: EngineOrder, damage: Callable[[EngineOrder], None]
) -> None:
    keep(cached)
    assert file_of(cached, ".pt").stat().st_mode & 0o777 == 0o600
    damage(cached)
    assert load_kept(cached) is None
    assert not finds_kept(cached), "nobody tries it again"
    keep(cached)
    assert load_kept(cached) is not None


@pytest.mark.sweep
@pytest.mark.parametrize("change", [{"threads": 2}, {"dtype": "float32"}, {"cache": ""}])
def test_a_graph_is_of_its_settings(cached: EngineOrder, change: dict[str, Any]) -> None:
    keep(cached)
    order = msgspec.structs.replace(cached, **change)
    assert not finds_kept(order)
    assert load_kept(order) is None


@torch.no_grad()
def test_a_graph_that_answers_the_example_otherwise_is_not_used(
    cached: EngineOrder, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_engine(cached)
    script = cast(TracedModule, loaded.model.module).script
    assert script is not None
    assert loaded.keep is not None
    for weights in script.parameters():
        if not weights.is_mkldnn:
            weights.copy_(torch.ones_like(weights))
    loaded.keep()
    assert load_kept(cached) is None
    assert not finds_kept(cached), "nobody tries it again"
    assert "does not answer the contract's example" in caplog.text


def test_an_artifact_outside_the_cache_has_no_graph(cached: EngineOrder, tmp_path: Path) -> None:
    root = shutil.copytree(cached.root, tmp_path / "elsewhere")
    assert load_engine(msgspec.structs.replace(cached, root=str(root))).keep is None


def test_what_killed_processes_left_is_removed(cached: EngineOrder) -> None:
    folder = Path(cached.root) / FOLDER
    folder.mkdir()
    for name, age in (("old.tmp", 2.0), ("old.pt", 2.0), ("new.tmp", 0.5)):
        (folder / name).touch()
        then = (folder / name).stat().st_mtime - age * STALE_SECONDS
        os.utime(folder / name, (then, then))
    keep(cached)
    assert {path.name for path in folder.iterdir() if path.stem in ("old", "new")} == {"new.tmp"}
