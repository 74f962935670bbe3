"""Which rows may share a forward pass: proved on the loaded module before it serves, whatever its family.

A row's answer must not depend on the rows that it shares a batch with, nor on those that came before. Rows of several
lengths are answered alone, with all the inputs that transformers passes, and then in batches: padded on either side,
after longer and shorter rows, first and last. Where answers differ, only rows of equal length share a batch, and if
those differ too, none. A module that its forward passes change is restored after each one.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import get_args

import numpy
import torch

from registry.contract import Batching
from registry.errors import ContractError
from serving.engine.left_padding import LeftPadded
from serving.engine.model import Model
from serving.engine.module_state import Change, ModuleState
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.torchscript import are_alike
from serving.engine.probe_lengths import probe_lengths
from serving.wire.messages import AnyArray, Row, RowArrays

EQUAL_ROWS = 3
NOTES: dict[Batching, str] = {
    "any lengths, padded on the left": "rows are padded on the left: on the right, padding changes their answers",
    "equal lengths": "only rows of equal length share a batch: padding changes their answers",
    "one row": "no rows share a batch: they change each other's answers",
}
Answers = dict[int, RowArrays]
"""The arrays of rows, by the row's id."""


class BatchProof:
    """Answers of rows that were computed alone, which an execution form must also give them in a batch.

    The batching it chooses is never less strict than the contract's, because logging compares in float32.
    """

    @torch.inference_mode()
    def __init__(self, model: Model) -> None:
        """Blocks for some twenty forward passes.

        Raises ContractError where no row can be answered, or the same row gets different answers alone.
        """
        self._model = model
        state = ModuleState(model.module)
        lengths = [model.contract.max_tokens] * EQUAL_ROWS  # of images
        if model.contract.processor.image is None:
            lengths = probe_lengths(model)
        rows = [model.probe(length, index, types=index % 2 > 0) for index, length in enumerate(lengths)]
        self._expected = _answer_alone(model, rows, state)
        self._rows = [row for row in rows if row.id in self._expected]

    @torch.inference_mode()
    def holds_for(self, form: ExecutionForm) -> bool:
        """Whether rows of any lengths may share this form's forward passes. Blocks for three of them."""
        before, self._model.form = self._model.form, form
        try:
            return _agree(self._model, _mixed(self._rows), self._expected)
        finally:
            self._model.form = before

    @torch.inference_mode()
    def choose(self) -> None:
        """Let the model's form say which rows may share a batch. Blocks for up to twenty forward passes."""
        model, expected, plain = self._model, self._expected, self._model.form
        strictness = get_args(Batching).index
        for form, batches in _candidates(model, self._rows):
            if strictness(form.batching) < strictness(model.contract.batching):
                continue
            if form.batching == "equal lengths":
                model.form = plain
                expected = _answer(model, [[row] for batch in batches for row in batch])
            model.form = form
            if _agree(model, batches, expected):
                break
        else:
            model.form = replace(plain, batching="one row")
        if model.form.batching in NOTES:
            model.note(NOTES[model.form.batching])


def _candidates(model: Model, rows: Sequence[Row]) -> Iterable[tuple[ExecutionForm, list[list[Row]]]]:
    """Forms with the batches that must not change their rows' answers, the least strict form first."""
    plain, mixed = model.form, _mixed(rows)
    yield plain, mixed
    if model.contract.processor.image is None:
        yield replace(plain, batching="any lengths, padded on the left", module=LeftPadded(plain.module)), mixed
        numbers = range(EQUAL_ROWS)
        equal = [
            [model.probe(row.length, EQUAL_ROWS * row.id + each, types=each > 0) for each in numbers] for row in rows
        ]
        yield replace(plain, batching="equal lengths"), equal


def _mixed(rows: Sequence[Row]) -> list[list[Row]]:
    """Batches of rows of several lengths, of which the first is the longest."""
    longest, *others = rows
    short, long = others[:-2], others[-2:]
    # from some length on a model may treat rows otherwise, as in blocks, so two long ones share a batch
    return [short, short[::-1], [*short[1:2], *long, longest]]


def _answer_alone(model: Model, rows: Sequence[Row], state: ModuleState) -> Answers:
    """Each row's answer in a forward pass of its own, without rows that the model refuses.

    state: of the module before its first forward pass. Where the module is changed, it is restored from now on.
    """
    plain, complete = model.form, replace(model.form, has_all_inputs=True)
    while True:
        expected, again, changes = Answers(), Answers(), dict[Change, None]()
        for answers, form, order in ((expected, complete, rows), (again, plain, rows[::-1])):
            for row in order:
                answers |= _answer(model, [[row]], form)
                changes |= dict.fromkeys(state.changes())
        differs = not _are_alike(model, again, expected)
        if model.is_restored or not ((differs and changes) or any(change.is_setting for change in changes)):
            break
        model.restore_always(state, list(changes))
    if not expected:
        raise ContractError(
            "the model answers no row, as its forward pass fails for every length: check its weights, and config.json "
            "for wrong values, and save both again with save_pretrained"
        )
    if differs:
        model.form = complete
        again = _answer(model, [[row] for row in reversed(rows)], complete)
        if not _are_alike(model, again, expected):
            raise ContractError(
                "the model answers the same row differently each time, so no answer of it can be relied on: "
                "turn off what is random or is kept between forward passes in its config.json (as hash_seed, mem_len)"
            )
        model.note("masks and token types are passed even where they say nothing: without them answers differ")
    return expected


def _answer(model: Model, batches: Iterable[Sequence[Row]], form: ExecutionForm | None = None) -> Answers:
    """The rows' answers, without those of batches that the model refuses."""
    model.form = form or model.form
    answers: Answers = {}
    for batch in batches:
        with suppress(Exception):  # a model may raise anything; the missing rows say so
            answers |= {row.id: arrays for row, arrays in zip(batch, model.run(batch), strict=True)}
    return answers


def _agree(model: Model, batches: Sequence[Sequence[Row]], expected: Answers) -> bool:
    """Whether every batch gives its rows the expected answers."""
    answered = [[row for row in batch if row.id in expected] for batch in batches]
    return all(
        _are_alike(model, _answer(model, [batch]), {row.id: expected[row.id] for row in batch})
        for batch in answered
        if batch
    )


def _are_alike(model: Model, found: Answers, expected: Answers) -> bool:
    """Whether each row has the same answers, at the scale of all rows': one row's may be next to nothing."""
    dtype = model.compute_dtype  # int8 is proved in float32, before `int8.quantize`
    if found.keys() != expected.keys():
        return False
    pairs = [(_by_label(found[row]), _by_label(arrays)) for row, arrays in expected.items()]
    if any([array.shape for array in one] != [array.shape for array in other] for one, other in pairs):
        return False
    founds, expecteds = ([_join(arrays) for arrays in zip(*side, strict=True)] for side in zip(*pairs, strict=True))
    return all(are_alike(one, other, dtype) for one, other in zip(founds, expecteds, strict=True))


def _by_label(arrays: RowArrays) -> RowArrays:
    """Scores in the order of the labels or tokens that they belong to, where an answer has both, best first."""
    if len(arrays) != 2 or arrays[0].shape != arrays[1].shape or arrays[1].dtype.kind != "i":
        return arrays
    scores, labels = arrays
    order = numpy.argsort(labels, axis=-1, kind="stable")
    return (numpy.take_along_axis(scores, order, -1), numpy.take_along_axis(labels, order, -1))


def _join(arrays: Sequence[AnyArray]) -> torch.Tensor:
    """Numbers of all rows, flat. What is not a number counts as 0: it is the model's own."""
    flat = numpy.concatenate([numpy.ravel(array).astype(numpy.float32) for array in arrays])
    return torch.from_numpy(numpy.where(numpy.isnan(flat), numpy.float32(0), flat))
