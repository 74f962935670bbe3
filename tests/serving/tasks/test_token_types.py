"""A tokenizer may give a pair a token type that the model has no embedding for: it is refused, and no failure."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from registry.contract import Contract
from registry.errors import CheckpointWarning
from registry.staging import stage
from serving.engine.predictor import Predictor
from serving.errors import Unprocessable
from tests.alike import assert_alike
from tests.families import make_tokenizer
from tests.local import Local

pytestmark = pytest.mark.slow


TASK = "text-classification"
PAIR = {"text": "the quick fox", "text_pair": "a lazy dog"}


def save(folder: Path, inputs: list[str], auto_class: str = "AutoModelForSequenceClassification") -> Path:
    """A BERT with one token type, and a tokenizer that makes `inputs`."""
    tokenizer = make_tokenizer("bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    config = transformers.BertConfig(vocab_size=len(tokenizer), type_vocab_size=1, **sizes, **labels)
    getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": inputs}))
    return folder


def log(root: Path, inputs: list[str]) -> Contract:
    contract: Contract = stage(root, save(root / "checkpoint", inputs), None, TASK)
    return contract


def test_pairs_are_refused_and_logging_says_so(tmp_path: Path) -> None:
    with pytest.warns(CheckpointWarning, match=r"type_vocab_size in config.json\): pairs are refused"):
        contract = log(tmp_path, ["input_ids", "token_type_ids", "attention_mask"])
    assert contract.processor.token_types == 1
    assert contract.batching == "any lengths", "no row of the proof was one that the model cannot take"
    (tmp_path / "run").mkdir()
    single, pair = Local(tmp_path, tmp_path / "run").answers([{"inputs": "fox"}, {"inputs": PAIR}])
    assert single[0][0]["score"] > 0
    assert isinstance(pair, Unprocessable)
    assert "token type 1; this model has embeddings for 1 (type_vocab_size in config.json): send one text" in str(pair)


def test_without_token_types_pairs_are_answered_as_transformers_answers_them(tmp_path: Path) -> None:
    contract = log(tmp_path, ["input_ids", "attention_mask"])
    assert contract.processor.inputs == ("input_ids", "attention_mask")
    plain: Any = transformers.pipeline(TASK, model=str(tmp_path / "model"), device="cpu", top_k=None)
    (found,) = Predictor(tmp_path).answer(PAIR)
    assert_alike(found, plain(PAIR))


def test_a_task_of_pairs_is_refused_at_logging(tmp_path: Path) -> None:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    folder = save(tmp_path / "checkpoint", names, "AutoModelForQuestionAnswering")
    with pytest.warns(CheckpointWarning), pytest.raises(Unprocessable, match="type_vocab_size in config.json"):
        stage(tmp_path, folder, None, "question-answering")
