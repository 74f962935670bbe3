"""A row's answer depends neither on the rows that it shares a batch with, nor on those that came before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import torch
import transformers

from registry.artifact import read_contract
from registry.contract import Batching
from registry.errors import ContractError
from registry.staging import make_contract
from serving.engine.assembly import optimize_model
from serving.engine.batch_invariance import BatchProof
from serving.engine.model import Model
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.probe_lengths import LONG
from tests.alike import assert_alike
from tests.artifacts import make_artifact
from tests.families import make_tokenizer, texts_of
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.sweep]

TEXTS = ["fox", "the lazy dog jumps over a quick brown fox again", *texts_of(10, 1, 60)]
TASK = "text-classification"


def served(root: Path) -> Local:
    (root / "run").mkdir()
    return Local(root, root / "run")


def alone(root: Path, text: str) -> dict[str, float]:
    """The scores that a freshly loaded model gives to a text alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(root / "model", dtype=torch.float32)
    encoded = transformers.AutoTokenizer.from_pretrained(root / "model")(text, return_tensors="pt")
    with torch.inference_mode():
        scores = model.eval()(**encoded).logits[0].softmax(-1).tolist()
    return {model.config.id2label[index]: score for index, score in enumerate(scores)}


@pytest.mark.parametrize(
    ("family", "batching"),
    [
        ("xlnet", "any lengths, padded on the left"),
        ("big_bird", "equal lengths"),
        ("bart", "any lengths"),
        ("opt", "any lengths"),
        ("gpt2", "any lengths"),
        ("t5", "any lengths"),
        ("longformer", "any lengths"),
        ("convbert", "equal lengths"),
        ("fnet", "equal lengths"),
    ],
)
def test_answers_in_batches_are_those_of_transformers_alone(tmp_path: Path, family: str, batching: Batching) -> None:
    contract = make_artifact(tmp_path, family, TASK)
    assert contract.batching == batching
    local = served(tmp_path)
    assert local.model.form.batching == batching
    for texts in (TEXTS, TEXTS[::-1]):
        answers = local.answers([{"inputs": text, "parameters": {"truncate": True}} for text in texts])
        for answer, text in zip(answers, texts, strict=True):
            if len(text.split()) < 25:
                assert_alike({entry["label"]: entry["score"] for entry in answer[0]}, alone(tmp_path, text))
    if batching != "equal lengths":
        assert max(local.model.batches) > 1, "rows of several lengths must have shared a batch"


@pytest.mark.parametrize(
    ("family", "task", "batching"),
    [
        ("roformer", "multiple-choice", "any lengths, padded on the left"),
        ("longformer", "question-answering", "any lengths"),
        ("big_bird", "question-answering", "equal lengths"),
        ("vit", "image-classification", "any lengths"),
        ("vit", "feature-extraction", "any lengths"),
        ("bert", "next-sentence-prediction", "any lengths"),
        ("roberta", "token-classification", "any lengths"),
        ("albert", "fill-mask", "any lengths"),
        ("bigbird_pegasus", "feature-extraction", "equal lengths"),  # asked first whether it takes a text alone
    ],
)
def test_heads_are_proved_with_rows_as_requests_make_them(
    tmp_path: Path, family: str, task: str, batching: Batching
) -> None:
    assert make_artifact(tmp_path, family, task).batching == batching


def test_blocks_of_the_usual_size_are_reached(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("big_bird")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    config = transformers.BigBirdConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes, **labels)
    assert config.block_size == 64, "rows of up to 704 tokens are attended to in full"
    torch.manual_seed(0)
    model = transformers.BigBirdForTokenClassification(config).eval()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 4096}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    contract = make_contract(tmp_path, model, tokenizer, "token-classification", origin=folder)
    assert (contract.max_tokens, contract.batching) == (4096, "equal lengths")


def test_a_proof_is_cheap(root: Path) -> None:
    model = Model(root, read_contract(root))
    tokens = []

    def note(logits: torch.Tensor, inputs: dict[str, torch.Tensor], _: object) -> torch.Tensor:
        tokens.append(inputs["input_ids"].numel())
        return logits

    model.form = ExecutionForm(Changed(model.module, note).eval())  # type: ignore[arg-type]  # stands for a model
    BatchProof(model).choose()
    assert sum(tokens) < 9 * LONG


def test_a_model_that_short_rows_change_is_restored_after_each_one(tmp_path: Path) -> None:
    make_artifact(tmp_path, "big_bird", TASK)
    local = served(tmp_path)
    assert any("changes it (attention_type" in note for note in local.model.notes)
    long = " ".join(["quick brown fox"] * 6)
    expected = alone(tmp_path, long)
    for inputs in ([long], [long, "fox"], ["fox", long]):
        answer = local.answers([{"inputs": text} for text in inputs])[inputs.index(long)]
        assert_alike({entry["label"]: entry["score"] for entry in answer[0]}, expected)


def test_a_model_is_watched_before_a_measurement_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = make_artifact(tmp_path, "big_bird", TASK)

    def measure(module: Any, try_out: Callable[[], None], *_: object, **__: object) -> int:
        try_out()
        return 0

    monkeypatch.setattr("serving.engine.optimizations.prepacked_weights.prepack_weights", measure)
    model = Model(tmp_path, contract)
    assert model.is_restored
    assert model.module.bert.attention_type == "block_sparse"


class Changed(torch.nn.Module):
    """A classifier whose logits become `change(logits, inputs, self)`."""

    def __init__(self, module: Any, change: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.module, self.change, self.seen, self.mode = module, change, 0, "first"
        self.config = module.config

    def forward(self, **inputs: torch.Tensor) -> Any:
        """As the classifier's."""
        output = self.module(**inputs)
        output.logits = self.change(output.logits, inputs, self)
        return output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier's artifact."""
    folder = tmp_path_factory.mktemp("bert")
    make_artifact(folder, "bert", TASK)
    return folder


def proved(root: Path, change: Callable[..., torch.Tensor]) -> Model:
    model = Model(root, read_contract(root))
    model.form = ExecutionForm(Changed(model.module, change).eval())  # type: ignore[arg-type]  # stands for a model
    BatchProof(model).choose()
    return model


def count(logits: torch.Tensor, module: Changed) -> torch.Tensor:
    module.seen += 1
    return logits * (module.seen > 12) + 1.0


def widen(logits: torch.Tensor, inputs: dict[str, torch.Tensor], least: int, most: int) -> torch.Tensor:
    """Rows of some length are answered otherwise beside longer ones, as by the sparse attention of BigBird."""
    ids = inputs["input_ids"]
    tokens = inputs.get("attention_mask", torch.ones_like(ids)).sum(1, keepdim=True)
    return logits * (1 + (tokens > least) * (tokens < most) * (ids.shape[1] > most))


def switch(logits: torch.Tensor, rows: int, module: Changed) -> torch.Tensor:
    found = logits * 2 if module.mode == "first" else logits
    module.mode = "first" if rows > 20 else "later"
    return found


@pytest.mark.parametrize(
    ("change", "batching", "note"),
    [
        (lambda logits, inputs, _: logits * 2, "any lengths", ""),
        (lambda logits, inputs, _: logits * inputs["input_ids"].shape[1], "equal lengths", "equal length"),
        (lambda logits, inputs, _: widen(logits, inputs, 50, 100), "equal lengths", "equal length"),
        (lambda logits, inputs, _: widen(logits, inputs, 100, 300), "equal lengths", "equal length"),
        (lambda logits, inputs, _: logits * len(inputs["input_ids"]), "one row", "no rows share"),
        (
            lambda logits, inputs, _: logits * (1 + ("attention_mask" in inputs)),
            "any lengths",
            "masks and token types are passed",
        ),
        (lambda logits, inputs, module: switch(logits, inputs["input_ids"].shape[1], module), "any lengths", "(mode)"),
        (lambda logits, inputs, module: count(logits, module), "any lengths", "(seen)"),
    ],
)
def test_what_depends_on_company_shares_no_batch(
    root: Path, change: Callable[..., torch.Tensor], batching: Batching, note: str
) -> None:
    model = proved(root, change)
    assert model.form.batching == batching
    assert note in " ".join(model.notes)
    assert bool(model.notes) == bool(note)


def test_a_row_whose_answer_is_next_to_nothing_is_compared_at_the_scale_of_others(tmp_path: Path) -> None:
    def shrink(logits: torch.Tensor, inputs: dict[str, torch.Tensor], _: object) -> torch.Tensor:
        """A row's answer is next to nothing, and rounded otherwise in a wider batch."""
        ids = inputs["input_ids"]
        tokens = inputs.get("attention_mask", torch.ones_like(ids)).sum(-1).reshape(logits.shape)
        return logits * torch.where(tokens == 5, 1e-6, 1.0) + 1e-9 * ids.shape[-1]

    make_artifact(tmp_path, "bert", "multiple-choice")
    assert proved(tmp_path, shrink).form.batching == "any lengths"


@pytest.mark.parametrize("batching", get_args(Batching))
def test_a_load_is_never_less_strict_than_the_contract(root: Path, batching: Batching) -> None:
    contract = msgspec.structs.replace(read_contract(root), batching=batching)
    model = Model(root, contract)
    BatchProof(model).choose()
    expected = "equal lengths" if "left" in batching else batching  # BERT counts positions from the left
    assert model.form.batching == expected


def test_a_model_that_answers_otherwise_each_time_is_refused(root: Path) -> None:
    with pytest.raises(ContractError, match="differently each time"):
        proved(root, lambda logits, *_: logits * float(torch.rand(())))


def test_what_is_not_proved_for_any_lengths_keeps_its_own_modules(tmp_path: Path) -> None:
    make_artifact(tmp_path, "xlnet", TASK)
    model = Model(tmp_path, read_contract(tmp_path))
    optimize_model(model)
    assert model.form.describe() == "eager"


def test_a_model_that_the_proof_finds_to_be_changed_by_its_forward_passes_keeps_its_own_modules(tmp_path: Path) -> None:
    make_artifact(tmp_path, "bert", TASK)
    model = Model(tmp_path, read_contract(tmp_path))
    assert not model.is_restored, "the first forward pass has short rows only"

    def remember(module: Any, _: object, inputs: dict[str, torch.Tensor], output: object) -> None:
        module.mode = "long" if inputs["input_ids"].shape[1] > 20 else "short"

    model.module.mode = "short"
    model.module.register_forward_hook(remember, with_kwargs=True)
    optimize_model(model)
    assert model.is_restored
    assert (model.form.describe(), model.form.batching) == ("eager", "any lengths")


def test_a_model_that_needs_its_masks_is_proved_as_it_is_where_no_form_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_artifact(tmp_path, "bert", TASK)
    model = Model(tmp_path, read_contract(tmp_path))

    def heed(_module: Any, _: object, inputs: dict[str, torch.Tensor], output: Any) -> None:
        output.logits = output.logits * (1 + ("attention_mask" in inputs)) * len(inputs["input_ids"])

    model.module.register_forward_hook(heed, with_kwargs=True)
    monkeypatch.setattr(BatchProof, "holds_for", lambda *_: False)
    optimize_model(model)
    assert (model.form.describe(), model.form.has_all_inputs) == ("eager", True)
    assert model.form.batching == "one row"


@pytest.mark.parametrize(
    ("holds", "form"),
    [
        (lambda _, form: not form.prunes_to_first_token, "packed sequences, TorchScript"),
        (lambda _, form: not form.is_packed, "TorchScript"),
        (lambda *_: False, "eager"),
    ],
    ids=["pruned", "packed", "none"],
)
def test_a_form_that_changes_answers_in_a_batch_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: Callable[..., bool], form: str
) -> None:
    make_artifact(tmp_path, "bert", TASK)
    model = Model(tmp_path, read_contract(tmp_path))
    monkeypatch.setattr(BatchProof, "holds_for", holds)
    optimize_model(model)
    assert model.form.describe() == form
    assert model.form.batching == "any lengths", "as the model itself proves"
    assert model.notes[-1].endswith("rows of different lengths change each other's answers")
    rows = [model.probe(length, index) for index, length in enumerate((3, 9))]
    together, alone = model.run(rows), [model.run([row])[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert_alike([one[0].tolist()], [other[0].tolist()])
