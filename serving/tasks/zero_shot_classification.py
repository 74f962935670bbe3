"""zero-shot-classification: labels of the request, scored by a model of natural language inference.

The text is the premise and each label a hypothesis, one row per label. The rules are those of transformers'
`ZeroShotClassificationPipeline` (5.23): the softmax of the entailment logits over the labels; or, for several labels at
once and for a single label, entailment against contradiction for each. The entailment label is the one whose name
starts with "entail".
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.agreement import Agreement, of_labels
from serving.tasks.base.answers import LabelScore, softmax
from serving.tasks.base.cost import OBJECT_BYTES, ItemCost, answer_text
from serving.tasks.base.scoring import Scoring, accuracy, f1_macro
from serving.tasks.base.task import Batch, Task, probe_text
from serving.tasks.base.version_context import VersionContext
from serving.tasks.text_classification import mark_ends
from serving.wire.messages import Encoded, EncodedRow, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MAX_CANDIDATES = 512
MAX_LABELS_TEXT = 128 * MAX_CANDIDATES
"""Characters of labels in one text. Untuned: long labels are sent as a list."""


class Parameters(TextParameters, frozen=True):
    """candidate_labels: at least one. hypothesis_template: has `{}` where the label goes; default: the contract's.

    multi_label: whether each label is scored by itself, so that several can be true.
    """

    candidate_labels: (
        Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_CANDIDATES)]
        | Annotated[str, msgspec.Meta(max_length=MAX_LABELS_TEXT)]
    ) = ()
    hypothesis_template: str | None = None
    multi_label: bool | None = None


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The template and labels of a request without them."""

    hypothesis_template: str = "This example is {}."
    candidate_labels: tuple[str, ...] = ()
    multi_label: bool | msgspec.UnsetType = msgspec.UNSET


class ZeroShotClassification(Task[str, Parameters, list[str]]):
    """(rows, labels) logits → themselves, float32. `decode` combines an item's rows."""

    name = "zero-shot-classification"
    takes_pairs = True
    parameters_type = Parameters
    defaults_type = Defaults
    example = ("The new phone has a brilliant screen.", "The match went into extra time after a late goal.")
    example_parameters = {"candidate_labels": ["technology", "sports", "politics"]}

    def problem(self, contract: Contract) -> str | None:
        """One label must be entailment."""
        if _entailment(contract) is None:
            return (
                f"none of the labels ({', '.join(contract.labels)}) starts with 'entail': zero-shot-classification "
                "needs a model of natural language inference; set config.id2label to its real labels"
            )
        return None

    def needed_parameters(self, contract: Contract) -> Sequence[str]:
        """The labels, unless the contract has some."""
        return () if contract.defaults.get("candidate_labels") else ("candidate_labels",)

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """One hypothesis."""
        return mark_ends(probe_text(contract, length), contract)

    def prepare(self, model: "PreTrainedModel", contract: Contract) -> None:
        """Set the padding token, as text-classification does."""
        model.config.get_text_config().pad_token_id = contract.processor.pad_token_id

    def predictions(self, answer: list[LabelScore]) -> Sequence[tuple[str, float]]:
        """None: each of the clients' labels would be a metric series."""
        return ()

    def scoring(self, contract: Contract) -> Scoring:
        """By the best of the candidate labels."""
        metrics = {"accuracy": accuracy, "f1_macro": f1_macro}
        return Scoring(str, "one of the candidate labels", lambda answer: answer[0]["label"], metrics)

    def agreement(self, one: list[LabelScore], other: list[LabelScore], contract: Contract) -> Agreement:
        """By the best of the candidate labels."""
        return of_labels(one, other, self.scoring(contract).read)

    def cost(self, item: str, parameters: Parameters, version: VersionContext) -> ItemCost:
        """One row per label: the text, and the template with the label at each of its places."""
        labels = _candidates(parameters, version)
        template = _template(parameters, version)
        places, own = template.count("{}"), len(item) + len(template)
        return ItemCost(len(labels), sum([own + places * (len(label) - 2) for label in labels]))

    def answer_bytes(self, encoded: Encoded[list[str]], parameters: Parameters, version: VersionContext) -> int:
        """An object per label."""
        labels = encoded.decode_context
        return OBJECT_BYTES * len(labels) + answer_text(sum(map(len, labels)))

    def encode(self, item: str, parameters: Parameters, version: VersionContext) -> Encoded[list[str]]:
        """One row per label, as premise and hypothesis."""
        labels = _candidates(parameters, version)
        template = _template(parameters, version)
        rows = [version.tokenizer.row(item, template.replace("{}", label), parameters=parameters) for label in labels]
        return Encoded([mark_ends(row, version.contract) for row in rows], labels)

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """The logits."""
        return (model(**batch.inputs).logits.float(),)

    def decode(
        self, rows: Sequence[RowArrays], labels: list[str], parameters: Parameters, version: VersionContext
    ) -> list[LabelScore]:
        """`[{"label": …, "score": …}, …]` over the candidate labels, best first."""
        logits = numpy.stack([row[0] for row in rows])
        entailment = _entailment(version.contract) or 0
        own = version.defaults.multi_label is True
        if len(labels) == 1 or (own if parameters.multi_label is None else parameters.multi_label):
            contradiction = -1 if entailment == 0 else 0
            scores = softmax(logits[:, [contradiction, entailment]], axis=1)[:, 1]
        else:
            scores = softmax(logits[:, entailment], axis=0)
        order = numpy.argsort(-scores, kind="stable").tolist()
        return [{"label": labels[index], "score": float(scores[index])} for index in order]


def _candidates(parameters: Parameters, version: VersionContext) -> list[str]:
    """The labels as the pipeline reads them: those of a list as they are, those of a text stripped, none empty."""
    given = parameters.candidate_labels or version.defaults.candidate_labels
    if isinstance(given, str):
        parts = given.split(",", MAX_CANDIDATES)
        if len(parts) > MAX_CANDIDATES:
            raise Unprocessable(
                f"parameters.candidate_labels has more labels than the {MAX_CANDIDATES} that may be given: give fewer"
            )
        labels = [label for part in parts if (label := part.strip())]
    else:
        labels = list(given)
    if not labels or not all(map(str.strip, labels)):
        raise Unprocessable("parameters.candidate_labels needs at least one label, and none of a list may be empty")
    return labels


def _template(parameters: Parameters, version: VersionContext) -> str:
    template: str = parameters.hypothesis_template or version.defaults.hypothesis_template
    if "{}" not in template:
        raise Unprocessable(
            f"parameters.hypothesis_template {template!r} has no {{}} where the label goes: write it as "
            "'This example is {}.'"
        )
    return template


def _entailment(contract: Contract) -> int | None:
    return next((index for index, label in enumerate(contract.labels) if label.lower().startswith("entail")), None)


TASK = ZeroShotClassification()
