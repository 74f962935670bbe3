"""text-classification: a label, labels or a number for a text or a pair of texts.

The scores are those of transformers' pipeline (`TextClassificationPipeline.postprocess`, transformers 5): the raw
number for a regression, the sigmoid for several labels at once or a single label, else the softmax. A model with one
label also ranks texts by a query.
"""

import warnings
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from registry.checkpoint_files import read_json
from registry.contract import Contract
from registry.errors import CheckpointWarning
from registry.sentence_folder import read_cross_encoder
from serving.errors import Unprocessable
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.agreement import Agreement, distance, of_labels
from serving.tasks.base.answers import LabelScore, Ranked, best_labels, best_scores
from serving.tasks.base.cost import OBJECT_BYTES, ItemCost, answer_text, count_characters
from serving.tasks.base.fields import Positive
from serving.tasks.base.scoring import Activation, Scoring, of_classes
from serving.tasks.base.task import Batch, Task, probe_text
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import Encoded, EncodedRow, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MAX_LABELS = 512
"""The most labels of one answer. Of a head with more labels only the best ones leave the device."""


ACTIVATIONS: dict[str, Activation] = {"Identity": "none", "Sigmoid": "sigmoid", "Softmax": "softmax"}
"""Classes of torch.nn → the activation, as a CrossEncoder's files name them."""


class CrossEncoderKeys(msgspec.Struct, frozen=True):
    """What sentence-transformers says of a CrossEncoder in `config.json`. activation_fn: full name of a class."""

    activation_fn: str | None = None


class ConfigKeys(msgspec.Struct, frozen=True):
    """The keys of a CrossEncoder in `config.json`: of sentence-transformers 4 and later, and of earlier ones."""

    sentence_transformers: CrossEncoderKeys | None = None
    sbert_ce_default_activation_function: str | None = None


class Pair(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A text and optionally a second one; or a query and the texts to rank by how well they answer it."""

    text: str | None = None
    text_pair: str | None = None
    query: str | None = None
    texts: list[str] | None = None

    def __post_init__(self) -> None:
        """Exactly one of the two forms."""
        is_ranking = self.query is not None and bool(self.texts) and self.text is None and self.text_pair is None
        is_pair = self.text is not None and self.query is None and self.texts is None
        if is_ranking == is_pair:
            raise ValueError("give text and, for a pair, text_pair; or query and texts to rank")


class Parameters(TextParameters, frozen=True):
    """top_k: labels in the answer, best first; all by default, or where there are fewer.

    function_to_apply: instead of the contract's. return_text: whether the answer has the ranked texts.
    """

    top_k: Positive | None = None
    function_to_apply: Activation | None = None
    return_text: bool = False


class Defaults(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """What a request without parameters gets; None: the activation of the problem type, all labels."""

    function_to_apply: Activation | None = None
    top_k: Positive | None = None


def activation(contract: Contract) -> Activation:
    """The activation that turns logits into scores: the contract's own, or by problem type and number of labels."""
    own: Activation | None = contract.defaults.get("function_to_apply")
    if own is not None:
        return own
    if contract.problem_type == "regression":
        return "none"
    if contract.problem_type == "multi_label_classification" or len(contract.labels) == 1:
        return "sigmoid"
    return "softmax"


def mark_ends(row: EncodedRow, contract: Contract) -> EncodedRow:
    """Add the number of end tokens to a row's batch key, where the head reads its answer at the last of them.

    Sequence classifiers with encoder and decoder (T5, BART) refuse a batch whose rows differ in that number
    (transformers 5.23), so such rows do not share one. Raises Unprocessable for a row that has none.
    """
    if not contract.is_encoder_decoder:
        return row
    end = array("i", [contract.processor.eos_token_id or 0]).tobytes()
    ends = sum(row.tokens[start : start + 4] == end for start in range(0, len(row.tokens), 4))
    if not ends:
        raise Unprocessable(
            "inputs has no end token after tokenizing, and this model reads its answer there: log the model again with "
            "a tokenizer that adds one"
        )
    return msgspec.structs.replace(row, batch_key=f"{row.batch_key}/{ends}")


class TextClassification(Task[str | Pair, Parameters, list[str] | None]):
    """(rows, labels) logits → the best labels' scores (rows, k) float32 and indices (rows, k) int32, best first."""

    name = "text-classification"
    item_type = str | Pair
    parameters_type = Parameters
    defaults_type = Defaults
    ranks = True
    example = (
        "I love this.",
        "The parcel came two weeks late, and nobody at the desk could tell me where it had been all that time.",
        "What time does it open?",
    )

    def folder_settings(self, folder: Path) -> dict[str, object]:
        """The activation of a CrossEncoder, where `config_sentence_transformers.json` or `config.json` states one."""
        path = folder / "config.json"
        keys = read_json(path, ConfigKeys) if path.is_file() else ConfigKeys()
        own = keys.sentence_transformers.activation_fn if keys.sentence_transformers else None
        name = read_cross_encoder(folder) or own or keys.sbert_ce_default_activation_function
        if name is None:
            return super().folder_settings(folder)
        found = ACTIVATIONS.get(name.rpartition(".")[2])
        if found is None:
            warnings.warn(
                f"the checkpoint's files name the activation {name}, which is not served: scores are transformers' own",
                CheckpointWarning,
                stacklevel=2,
            )
        return super().folder_settings(folder) | ({"function_to_apply": found} if found else {})

    def wraps_single_answer(self, item: str | Pair) -> bool:
        """Labels are a list of lists, a ranking is a list."""
        return isinstance(item, str) or item.texts is None

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A text with the contract's activation."""
        return mark_ends(probe_text(contract, length, activation(contract)), contract)

    def prepare(self, model: "PreTrainedModel", contract: Contract) -> None:
        """Set the padding token: a decoder reads its answer at a row's last other token (transformers 5.23)."""
        model.config.get_text_config().pad_token_id = contract.processor.pad_token_id

    def predictions(self, answer: list[LabelScore] | list[Ranked]) -> Sequence[tuple[str, float]]:
        """The best label. Regressions and rankings have no confidence in 0..1 and are left out."""
        best = answer[0]
        return ((best["label"], best["score"]),) if "label" in best and 0.0 <= best["score"] <= 1.0 else ()

    def scoring(self, contract: Contract) -> Scoring:
        """By the best label, the labels above one half, or the number."""
        return of_classes(contract, activation(contract))

    def agreement(
        self, one: list[LabelScore] | list[Ranked], other: list[LabelScore] | list[Ranked], contract: Contract
    ) -> Agreement:
        """By the label, the labels above one half or the number; of a ranking by the best text."""
        ranked = [{entry["index"]: entry["score"] for entry in answer if "index" in entry} for answer in (one, other)]
        if all(ranked):
            return Agreement(float(next(iter(ranked[0])) == next(iter(ranked[1]))), distance(*ranked))
        return of_labels(one, other, self.scoring(contract).read)

    def cost(self, item: str | Pair, parameters: Parameters, version: VersionContext) -> ItemCost:
        """One row per text or pair; a ranking has the query in each text's row."""
        if isinstance(item, str):
            return ItemCost(1, len(item))
        if item.texts is None:
            return ItemCost(1, count_characters(item))
        return ItemCost(len(item.texts), len(item.texts) * len(item.query or "") + sum(map(len, item.texts)))

    def answer_bytes(self, encoded: Encoded[list[str] | None], parameters: Parameters, version: VersionContext) -> int:
        """An object per label, or per ranked text."""
        texts = encoded.decode_context
        if texts is None:
            most = min(len(version.contract.labels), MAX_LABELS)
            return OBJECT_BYTES * min(most, parameters.top_k or version.defaults.top_k or most)
        return OBJECT_BYTES * len(texts) + (answer_text(sum(map(len, texts))) if parameters.return_text else 0)

    def encode(self, item: str | Pair, parameters: Parameters, version: VersionContext) -> Encoded[list[str] | None]:
        """One row per text or pair; a ranking has one row per text."""
        contract = version.contract
        most = min(len(contract.labels), MAX_LABELS)
        if parameters.top_k is not None and most < min(parameters.top_k, len(contract.labels)):
            raise Unprocessable(
                f"parameters.top_k is {parameters.top_k:,}, at most {most} of this model's {len(contract.labels):,} "
                "labels are answered: ask for fewer"
            )
        if isinstance(item, str) or item.texts is None:
            pairs = [(item, None) if isinstance(item, str) else (item.text or "", item.text_pair)]
        else:
            pairs = [(item.query or "", text) for text in item.texts]
            if most != 1:
                raise Unprocessable(f"texts are ranked by a model with one label, this one has {most}: send text")
        batch_key = parameters.function_to_apply or activation(contract)
        tokenizer = version.tokenizer
        rows = [
            mark_ends(tokenizer.row(text, pair, parameters=parameters, batch_key=batch_key), contract)
            for text, pair in pairs
        ]
        return Encoded(rows, None if isinstance(item, str) else item.texts)

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """Scores in float32, sorted on the device."""
        import torch

        logits = model(**batch.inputs).logits.float()
        function = batch.key.partition("/")[0]
        if function == "softmax":
            logits = logits.softmax(-1)
        elif function == "sigmoid":
            logits = logits.sigmoid()
        scores, labels = best_scores(logits, MAX_LABELS)
        return scores, labels.to(torch.int32)

    def decode(
        self,
        rows: Sequence[RowArrays],
        texts: list[str] | None,
        parameters: Parameters,
        version: VersionContext,
    ) -> list[LabelScore] | list[Ranked]:
        """`[{"label": …, "score": …}, …]`, or of a ranking `[{"index": …, "score": …}, …]`; best first."""
        if texts is not None:
            return _rank(texts, [float(scores[0]) for scores, _ in rows], parameters)
        return best_labels(rows[0], version.contract.labels, parameters.top_k or version.defaults.top_k)


def _rank(texts: Sequence[str], scores: Sequence[float], parameters: Parameters) -> list[Ranked]:
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: parameters.top_k]
    if parameters.return_text:
        return [{"index": index, "score": scores[index], "text": texts[index]} for index in order]
    return [{"index": index, "score": scores[index]} for index in order]


TASK = TextClassification()
