"""fill-mask: the likeliest tokens for each mask of a text.

The answers are those of transformers' `FillMaskPipeline` (5.23): for one mask a list of candidates, for several one
list a mask. Of the logits only the masks' are looked at, and only the best candidates, or those that were asked for,
leave the device.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypedDict
from weakref import WeakKeyDictionary

import msgspec
import numpy

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.processors.clean_up import clean_up
from serving.processors.tokenizer import TextEncoder, TextParameters
from serving.tasks.base.agreement import Agreement, distance, mean
from serving.tasks.base.answers import best_scores
from serving.tasks.base.cost import CHARACTERS_OF_A_TOKEN, OBJECT_BYTES, answer_text
from serving.tasks.base.filled_text import FilledText
from serving.tasks.base.scoring import Scoring, accuracy
from serving.tasks.base.task import Batch, Task, probe_text, upload
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import AnyArray, Encoded, EncodedRow, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MAX_CANDIDATES = 100
"""The most candidates for one mask."""
MAX_TARGETS = 1000
SLICE = 256
"""Masks whose probabilities are computed at a time. Untuned."""
Target = Annotated[str, msgspec.Meta(max_length=64)]
MAX_TARGET_CHARACTERS = 16 * MAX_TARGETS
"""Of all targets together, which are tokenized one by one. Untuned: each may be a long word."""
TopK = Annotated[int, msgspec.Meta(ge=1, le=MAX_CANDIDATES)]


class Parameters(TextParameters, frozen=True):
    """top_k: candidates per mask, best first. targets: only these tokens are scored."""

    top_k: TopK | None = None
    targets: Annotated[tuple[Target, ...], msgspec.Meta(min_length=1, max_length=MAX_TARGETS)] | Target | None = None


class Defaults(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """What a request without parameters gets."""

    top_k: TopK = 5


class MaskPayload(msgspec.Struct, array_like=True, frozen=True):
    """A row's `payload`: the places of its masks, and the ids to score, empty for the best of all."""

    places: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Masks:
    """A text's ids, the places of its masks, and the target ids, empty for the best of all."""

    ids: Sequence[int]
    places: Sequence[int]
    targets: Sequence[int]


class Candidate(TypedDict):
    """A token for a mask. token: its id. sequence: the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


class FillMask(Task[str, Parameters, Masks]):
    """(rows, tokens, vocabulary) logits → for each mask the candidates' scores (float32) and ids (int32).

    The arrays are (rows, masks, candidates), padded with zeros.
    """

    name = "fill-mask"
    parameters_type = Parameters
    defaults_type = Defaults
    example = ()

    def problem(self, contract: Contract) -> str | None:
        """The tokenizer must have a mask token."""
        if contract.processor.mask_token_id is None:
            return (
                "the tokenizer has no mask token: set tokenizer.mask_token to the one that the model was trained with"
            )
        if contract.processor.mask_token_id >= contract.processor.vocabulary:
            return (
                f"the model has no embedding for the tokenizer's mask token (id {contract.processor.mask_token_id}): "
                "log it for the task that it was trained for"
            )
        return None

    def input_notes(self, version: VersionContext) -> Mapping[str, str]:
        """The mask token."""
        return {"mask_token": version.tokenizer.token_of(version.contract.processor.mask_token_id or 0)}

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A text with one mask."""
        return probe_text(
            contract, length, _batch_key(Defaults().top_k), msgspec.msgpack.encode(MaskPayload([length // 2], []))
        )

    def make_example(self, version: VersionContext) -> list[object]:
        """Texts with the tokenizer's own mask token."""
        mask = version.tokenizer.token_of(version.contract.processor.mask_token_id or 0)
        return [
            f"Paris is the {mask} of France.",
            f"The {mask} sat on the mat, and nobody knew where it had come from.",
        ]

    def scoring(self, contract: Contract) -> Scoring:
        """By the likeliest token for a text's only mask."""
        return Scoring(str, "the mask's token", lambda answer: answer[0]["token_str"].strip(), {"accuracy": accuracy})

    def agreement(
        self,
        one: list[Candidate] | list[list[Candidate]],
        other: list[Candidate] | list[list[Candidate]],
        contract: Contract,
    ) -> Agreement:
        """By the likeliest token of each mask."""
        masks = [_by_mask(answer) for answer in (one, other)]
        return mean([_agree(first, second) for first, second in zip(*masks, strict=True)])

    def answer_bytes(self, encoded: Encoded[Masks], parameters: Parameters, version: VersionContext) -> int:
        """Each candidate of each mask is an object with the whole text."""
        masks = encoded.decode_context
        candidates = len(masks.places) * _candidates(masks, parameters, version)
        return candidates * (OBJECT_BYTES + answer_text(CHARACTERS_OF_A_TOKEN * len(masks.ids)))

    def encode(self, item: str, parameters: Parameters, version: VersionContext) -> Encoded[Masks]:
        """One row per text."""
        row, encoding = version.tokenizer.encode(item, parameters=parameters)
        mask = version.contract.processor.mask_token_id
        places = [place for place, token in enumerate(encoding.ids) if token == mask]
        if not places:
            raise Unprocessable(
                f"inputs has no {version.tokenizer.token_of(mask or 0)}: write it where a token is to be filled in"
            )
        targets = _known_targets(parameters.targets, version)
        payload = msgspec.msgpack.encode(MaskPayload(places, targets))
        batch_key = "targets" if targets else _batch_key(parameters.top_k or version.defaults.top_k)
        return Encoded(
            [EncodedRow(row.length, row.tokens, row.types, batch_key, payload)], Masks(encoding.ids, places, targets)
        )

    def head_positions(self, payloads: Sequence[bytes]) -> AnyArray:
        """The masks."""
        wanted = _decode(payloads)
        rows = numpy.repeat(numpy.arange(len(wanted)), [len(found.places) for found in wanted])
        return numpy.stack([rows, numpy.concatenate([found.places for found in wanted])])

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """The probabilities at the masks, reduced to the candidates."""
        import torch

        logits = batch.at_head_positions(model(**batch.inputs).logits)
        assert batch.head_positions is not None
        rows = batch.head_positions[0]
        if batch.key == "targets":
            ids = upload(_table([found.targets for found in _decode(batch.payloads)])[rows], logits.device)
            given = zip(_probabilities(logits), _slices(ids), strict=True)
            scores = torch.cat([all_scores.gather(-1, some) for all_scores, some in given])
        else:
            count = min(int(batch.key), logits.shape[-1])
            best = [best_scores(all_scores, count) for all_scores in _probabilities(logits)]
            scores, ids = (torch.cat(parts) for parts in zip(*best, strict=True))
        return _by_row(scores, rows, len(batch.lengths)), _by_row(ids.to(torch.int32), rows, len(batch.lengths))

    def decode(
        self, rows: Sequence[RowArrays], masks: Masks, parameters: Parameters, version: VersionContext
    ) -> list[Candidate] | list[list[Candidate]]:
        """`[{"score", "token", "token_str", "sequence"}, …]`, or one such list per mask."""
        ids, places, targets = masks.ids, masks.places, masks.targets
        scores, tokens = rows[0]
        count = _candidates(masks, parameters, version)
        answer = []
        for index, place in enumerate(places):
            width = len(targets) or scores.shape[1]
            order = numpy.argsort(-scores[index, :width], kind="stable")[:count].tolist()
            filled = FilledText(version.tokenizer, ids, place, skips_special=len(places) == 1)
            found = zip(tokens[index, order].tolist(), scores[index, order].tolist(), strict=True)
            answer.append([_candidate(filled, token, score, version) for token, score in found])
        return answer[0] if len(places) == 1 else answer


def _by_mask(answer: list[Candidate] | list[list[Candidate]]) -> list[list[Candidate]]:
    """The candidates of each mask; an answer for one mask has no list around it."""
    inner = [each for each in answer if isinstance(each, list)]
    return inner or [[each for each in answer if not isinstance(each, list)]]


def _agree(one: list[Candidate], other: list[Candidate]) -> Agreement:
    scores = [{entry["token_str"]: entry["score"] for entry in candidates} for candidates in (one, other)]
    return Agreement(float(one[0]["token_str"] == other[0]["token_str"]), distance(*scores))


def _candidates(masks: Masks, parameters: Parameters, version: VersionContext) -> int:
    """The number of candidates for each mask."""
    top_k: int = parameters.top_k or version.defaults.top_k
    return min(top_k, len(masks.targets) or top_k)


def _candidate(filled: FilledText, token: int, score: float, version: VersionContext) -> Candidate:
    texts = version.tokenizer.read([token], skip_special_tokens=False), filled.read(token)
    text, sequence = map(clean_up, texts) if version.tokenizer.cleans_up else texts
    return {"score": score, "token": token, "token_str": text, "sequence": sequence}


_last_targets: WeakKeyDictionary[TextEncoder, tuple[object, list[int]]] = WeakKeyDictionary()
"""The targets of the last request and their ids, by tokenizer."""


def _known_targets(targets: tuple[str, ...] | str | None, version: VersionContext) -> list[int]:
    """Ids of the targets, found once for all inputs of a request."""
    if targets is None:
        return []
    known = _last_targets.get(version.tokenizer)
    if known is None or known[0] is not targets:
        known = _last_targets[version.tokenizer] = targets, _target_ids(targets, version)
    return known[1]


def _target_ids(targets: tuple[str, ...] | str, version: VersionContext) -> list[int]:
    """Ids of the targets, each once. A target that is not in the vocabulary stands for its first token."""
    ids: list[int] = []
    given = [targets] if isinstance(targets, str) else targets
    if (characters := sum(map(len, given))) > MAX_TARGET_CHARACTERS:
        raise Unprocessable(
            f"parameters.targets has {characters:,} characters, at most {MAX_TARGET_CHARACTERS:,} are taken: send fewer"
        )
    for target in given:
        found = version.tokenizer.id_of(target)
        tokens = [found] if found is not None else version.tokenizer.tokenize(target)[:1]
        if not tokens:
            raise Unprocessable(
                f"parameters.targets holds {target!r}, of which the tokenizer makes no token: leave it out"
            )
        version.tokenizer.refuse_absent(tokens, "parameters.targets")
        ids += tokens
    return list(dict.fromkeys(ids))


def _batch_key(top_k: int) -> str:
    """Round `top_k` up to a bucket size, so that requests with different ones share batches."""
    return str(next(size for size in (5, 20, MAX_CANDIDATES) if top_k <= size))


def _slices(masks: "torch.Tensor") -> Iterator["torch.Tensor"]:
    """SLICE masks at a time."""
    for start in range(0, len(masks), SLICE):
        yield masks[start : start + SLICE]


def _probabilities(logits: "torch.Tensor") -> Iterator["torch.Tensor"]:
    """(masks, vocabulary), SLICE masks at a time, as all of the vocabulary is large."""
    for part in _slices(logits):
        yield part.float().softmax(-1)


def _by_row(masks: "torch.Tensor", rows: AnyArray, count: int) -> "torch.Tensor":
    """(masks, candidates) → (rows, masks, candidates), padded with zeros. rows: of each mask, ascending."""
    counts = numpy.bincount(rows, minlength=count)
    order = numpy.arange(len(rows)) - (counts.cumsum() - counts)[rows]
    table = masks.new_zeros((count, int(counts.max()), masks.shape[-1]))
    table[tuple(upload(numpy.stack([rows, order]), masks.device))] = masks
    return table


def _decode(payloads: Sequence[bytes]) -> list[MaskPayload]:
    return [msgspec.msgpack.decode(payload, type=MaskPayload) for payload in payloads]


def _table(lists: Sequence[Sequence[int]]) -> AnyArray:
    """(rows, longest) int64, shorter lists filled with 0."""
    longest = max(map(len, lists))
    return numpy.array([[*found, *[0] * (longest - len(found))] for found in lists])


TASK = FillMask()
