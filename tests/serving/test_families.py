"""Every family and head: logged, served with many lengths in a batch, and equal to plain transformers one at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from registry.errors import UnsupportedHead
from registry.flavor import log_model
from registry.heads import HEADS, architectures, model_class, tasks_of
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.engine.optimizations.torchscript import TracedModule
from serving.engine.optimizations.unpadded import FAMILIES as PACKED
from tests.families import FAMILIES, build, cells, make_tokenizer
from tests.local import Local
from tests.plain_answers import CHECKS, Plain
from tests.serving.engine.optimizations.test_unpadded import READ_FIRST

pytestmark = [pytest.mark.processor, pytest.mark.sweep]

MODULE_BY_MODULE = {
    *((family, task) for family in ("t5", "mt5", "umt5") for task in ("feature-extraction", "text-classification")),
    ("bart", "text-classification"),
    *(("deberta", task) for task in ("feature-extraction", "text-classification", "token-classification")),
    *(("deberta", task) for task in ("question-answering", "fill-mask")),
}
"""Half a model is called, the head looks for a token in the ids, or long rows are treated otherwise: no graph."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    """One embedded registry for all cells."""
    return RegistrySettings.from_environment({"HEADWAITER_HOME": str(tmp_path_factory.mktemp("families"))})


@pytest.mark.parametrize(("family", "task"), cells())
@torch.inference_mode()
def test_served_answers_are_those_of_plain_transformers(
    registry: RegistrySettings, tmp_path: Path, family: str, task: str
) -> None:
    from registry.cache import fetch

    folder = build(tmp_path / "saved", family, HEADS[task].auto_class)
    logged = log_model(folder, task=task, name=f"{family}.{task}", settings=registry)
    resolved = Versions(registry).resolve(Reference(name=logged.name, version=logged.version))
    root, contract = fetch(resolved, registry)
    assert contract.model_class == model_class(task, family)
    run = tmp_path / "run"
    run.mkdir()
    local = Local(root, run)
    generates = local.model.task.generates
    assert isinstance(local.model.module, TracedModule) != (generates or (family, task) in MODULE_BY_MODULE)
    form = local.model.form
    assert form.is_packed == (family in PACKED and not generates)
    assert form.prunes_to_first_token == (form.is_packed and task in READ_FIRST and family != "albert")
    CHECKS[task](Plain(root / "model", HEADS[task].auto_class), local)
    assert max(local.model.batches) > 1, "rows of several lengths must have shared a batch"


HEADS_OF_FAMILIES = {
    "bert": "Seq Tok QA MLM CLM MC NSP",
    "roberta": "Seq Tok QA MLM CLM MC",
    "electra": "Seq Tok QA MLM CLM MC",
    "deberta": "Seq Tok QA MLM",
    "deberta-v2": "Seq Tok QA MLM MC",
    "distilbert": "Seq Tok QA MLM MC",
    "albert": "Seq Tok QA MLM MC",
    "gpt2": "Seq Tok QA CLM",
    "llama": "Seq Tok QA CLM",
    "mistral": "Seq Tok QA CLM",
    "gptj": "Seq QA CLM",
    "t5": "Seq Tok QA S2S",
    "mt5": "Seq Tok QA S2S",
    "umt5": "Seq Tok QA S2S",
    "bart": "Seq QA MLM CLM S2S",
    "vit": "Img",
}
SHORT_NAMES = {
    "Seq": "text-classification",
    "Tok": "token-classification",
    "QA": "question-answering",
    "MLM": "fill-mask",
    "CLM": "text-generation",
    "S2S": "text2text-generation",
    "MC": "multiple-choice",
    "NSP": "next-sentence-prediction",
    "Img": "image-classification",
}


def test_the_installed_transformers_has_the_cells_that_are_known() -> None:
    known = {
        (family, task)
        for family, names in HEADS_OF_FAMILIES.items()
        for task in ("feature-extraction", *(SHORT_NAMES[name] for name in names.split()))
    }
    assert set(cells()) == known


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_that_does_not_exist_is_refused_with_the_tasks_that_do(family: str) -> None:
    for task in HEADS:
        if family in architectures(task):
            continue
        with pytest.raises(UnsupportedHead) as refused:
            model_class(task, family)
        assert all(other in str(refused.value) for other in tasks_of(family))


def test_a_tokenizer_is_the_same_in_each_process() -> None:
    command = "from tests.families import make_tokenizer; print(make_tokenizer('t5').backend_tokenizer.to_str())"
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.rstrip("\n") == make_tokenizer("t5").backend_tokenizer.to_str()
