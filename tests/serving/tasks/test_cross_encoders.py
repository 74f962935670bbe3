"""The activation that sentence-transformers writes into a CrossEncoder's config.json becomes the contract's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from registry.errors import CheckpointWarning, IncompleteArtifact
from registry.sentence_folder import MODULES, WHOLE
from registry.staging import stage
from serving.engine.predictor import Predictor
from serving.tasks import get_task
from tests.sentence_folders import edit
from tests.small_models import build_model

TASK = get_task("text-classification")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "6.2.0"}}, "none"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "none"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
        ({"sentence_transformers": {"version": "6.2.0"}}, None),
        ({}, None),
    ],
)
def test_scores_are_those_of_the_cross_encoder(tmp_path: Path, keys: dict[str, Any], expected: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **keys}))
    assert TASK.defaults(tmp_path, {}).get("function_to_apply") == expected
    assert TASK.defaults(tmp_path, {"function_to_apply": "softmax"})["function_to_apply"] == "softmax"


def test_an_activation_that_is_not_served_is_warned_of(tmp_path: Path) -> None:
    keys = {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}
    (tmp_path / "config.json").write_text(json.dumps(keys))
    with pytest.warns(CheckpointWarning, match=r"activation torch\.nn\.modules\.activation\.Tanh, which is not served"):
        assert TASK.defaults(tmp_path, {}) == {}


PAIRS = [("a quick fox", text) for text in ("the lazy dog", "a fox that is quick", "nothing")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CrossEncoder with an activation that is not its default, as the installed release saves it."""
    import torch
    from sentence_transformers import CrossEncoder

    root = tmp_path_factory.mktemp("cross-encoder")
    base = build_model(root / "base", "regression")
    edit(base / "config.json", {"problem_type": None})
    model = CrossEncoder(str(base), device="cpu", activation_fn=torch.nn.Identity())
    model.save_pretrained(str(root / "saved"))
    return root / "saved"


@pytest.mark.slow
def test_scores_of_the_installed_releases_folder(saved: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    stage(tmp_path, saved, None, TASK.name)
    ranked = Predictor(tmp_path).answer({"query": PAIRS[0][0], "texts": [text for _, text in PAIRS]})
    model = CrossEncoder(str(saved), device="cpu")
    expected = [float(model.predict([pair], show_progress_bar=False)[0]) for pair in PAIRS]
    assert [entry["score"] for entry in sorted(ranked, key=lambda entry: entry["index"])] == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (WHOLE, {"prompts": {"query": "q: "}, "default_prompt_name": "query"}, "default_prompt_name"),
        (WHOLE, {"strange": 1}, "strange"),
        (
            MODULES,
            lambda modules: [*modules, modules[0] | {"type": "x.Dense", "path": "1_Dense"}],
            "Transformer, Dense",
        ),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        ("sentence_bert_config.json", {"max_seq_length": 9}, "max_seq_length"),
    ],
)
def test_what_is_not_served_is_refused_by_file_and_key(
    saved: Path, tmp_path: Path, file: str, change: Any, said: str
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(saved, folder)
    edit(folder / file, change)
    with pytest.raises(IncompleteArtifact, match=rf"^{file}.*{said}"):
        TASK.defaults(folder, {})
