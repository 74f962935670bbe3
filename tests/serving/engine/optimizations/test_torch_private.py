"""What a release of torch may take away costs speed, never an answer."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import serving
from registry.checks import load_model
from registry.contract import Contract
from registry.layout import MODEL_FOLDER
from registry.saved_processors import load_processor
from registry.staging import describe
from serving.engine.model import Model, choose_dtypes
from serving.engine.optimizations import torch_private
from serving.engine.optimizations.torch_private import WITHOUT, MissingName, lookup
from serving.engine.optimize import optimize
from serving.engine.process_state import prepare_process
from tests.alike import assert_alike
from tests.families import build

pytestmark = [pytest.mark.processor, pytest.mark.slow]

EAGER_WITHOUT = ("_subclasses.fake_tensor.FakeTensorMode", "utils._python_dispatch.TorchDispatchMode")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contract]:
    """Of a small classifier. Only to be read."""
    root = tmp_path_factory.mktemp("private")
    folder = build(root / MODEL_FOLDER, "bert", "AutoModelForSequenceClassification")
    module, processor = (
        load_model(folder, "text-classification", dtype="float32"),
        load_processor(folder, of_images=False),
    )
    contract = describe(root, module, processor, "text-classification", defaults={}, dtype="auto", max_tokens=None)
    return root, contract


def answers(model: Model) -> list[Any]:
    rows = [model.task.probe(model.contract, length).to_row(0, 0.0) for length in (3, 40, 9)]
    return [arrays[0] for arrays in model.run(rows)]


@pytest.fixture(scope="module")
def expected(artifact: tuple[Path, Contract]) -> list[Any]:
    return answers(Model(*artifact))


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_answers_without_each_name(
    name: str, artifact: tuple[Path, Contract], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.optimizations.prepacked_weights._choose_layout", lambda *given: given[1][-1])

    def without(wanted: str) -> Any:
        if wanted == name:
            raise MissingName(f"torch has no torch.{name}: {WITHOUT[name]}")
        return lookup(wanted)

    monkeypatch.setattr(torch_private, "lookup", without)
    prepare_process()
    assert choose_dtypes("cpu", "auto", "auto")[-1] == "float32"
    model = Model(*artifact)
    model.form = optimize(model)
    assert (model.form.describe() == "eager") == (name in EAGER_WITHOUT)
    for found, wanted in zip(answers(model), expected, strict=True):
        assert_alike(found, wanted)


def test_a_missing_name_says_what_happens_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name: lookup(name) for name in WITHOUT}.keys() == WITHOUT.keys(), "this release has them all"
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    with pytest.raises(MissingName, match=r"has no torch\.cpu\._is_amx_tile_supported: bfloat16 is not chosen for AMX"):
        lookup("cpu._is_amx_tile_supported")


def private(path: Path) -> list[str]:
    """Private names below `torch` in a file: attributes and imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            name = ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            name = f"{node.module}.{node.names[0].name}"
        else:
            continue
        own = [part for part in name.split(".") if part.startswith("_") and part != "__version__"]
        if name.startswith("torch.") and own:
            found.append(name)
    return found


def test_no_other_module_uses_a_private_name_of_torch() -> None:
    using = {path.name for path in Path(serving.__path__[0]).rglob("*.py") if private(path)}
    assert using == {"torch_private.py"}


@pytest.mark.server
def test_onednn_held_to_less_than_the_processor_has_means_float32() -> None:
    held = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    code = "from serving.engine.model import choose_dtypes; print(*choose_dtypes('cpu', 'auto', 'auto'))"
    done = subprocess.run([sys.executable, "-c", code], env=held, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float32"]
