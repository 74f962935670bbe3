"""The answers of a model as transformers runs it, which every form of it must give.

Rows of similar length share a forward pass there, so little is padded; a form gets each case as one batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import torch
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from serving.engine.model import Model
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.torchscript import are_alike
from serving.engine.probe_lengths import probe_lengths
from serving.wire.messages import Row

Inputs = Mapping[str, torch.Tensor]
SHORT_TOKENS = 11
"""Length of the traced rows: no length for which a model has a special case."""
MIXED_LENGTHS = (9, 3, 70, 20, 9, 1, 45, 33, 5, 7, 2, 12, 9, 4, 6, 8, 17)
"""Lengths of the rows that exercise attention blocks and bucketing: short and long ones, 17 being no bucket size."""
OUTPUTS = ("logits", "last_hidden_state", "start_logits", "end_logits")
SIMILAR_TOKENS = 8
"""Rows whose lengths differ by less share a forward pass of the model as it is: the padding takes less than a pass."""


class DifferentAnswer(Exception):
    """A form answers otherwise than the model; the message says where."""


class ReferenceAnswers:
    """Answers of the model as transformers runs it, to compare forms with."""

    def __init__(self, model: Model, *, pads_long_rows: bool) -> None:
        """pads_long_rows: whether one case is a long row beside a short one. Blocks for some ten forward passes."""
        longest = model.contract.max_tokens
        short = min(SHORT_TOKENS, longest)
        self._model = model
        self._longest, self._short = longest, short
        self._equal = [min(short + 6, longest)] * 3
        long = probe_lengths(model)[0] if pads_long_rows else 0
        short_row = min(5, longest)
        self._cases: list[tuple[Sequence[int], bool]] = [
            ([1], False),
            (self._equal, True),
            ([min(length, longest) for length in MIXED_LENGTHS], True),
        ]
        if longest <= 2 * long:  # then this pair costs no more than the row alone and a shorter pair
            self._cases.append(([longest, short_row], True))
        else:
            self._cases += [([longest], False), *[([long, short_row], True)] * pads_long_rows]
        self._expected = [_answer_grouped(model, lengths, types=types) for lengths, types in self._cases]

    def extremes(self) -> list[dict[str, torch.Tensor]]:
        """Inputs of few short rows, and of many longest ones."""
        few = [self._short, max(1, self._short - 3)]
        many = [self._longest, *[max(1, self._longest - 1)] * 3]
        return [inputs_of(self._model, lengths, types=True) for lengths in (few, many)]

    def reads_first_token_only(self) -> bool:
        """Whether the head answers the same where the states of all other tokens are lost."""
        expected = self._expected[1]
        if expected.keys() != {"logits"}:
            return False

        def lose(_module: object, _args: object, output: BaseModelOutput) -> None:
            output.last_hidden_state[:, 1:] = torch.nan

        plain = self._model.form.module
        hook = plain.base_model.register_forward_hook(lose)
        try:
            found = plain(**inputs_of(self._model, self._equal, types=True))
            return all(map(torch.equal, found.logits, expected["logits"]))
        finally:
            hook.remove()

    def check(self, form: ExecutionForm) -> None:
        """Raises DifferentAnswer where the form answers otherwise, or what it raises itself."""
        for (lengths, types), expected in zip(self._cases, self._expected, strict=True):
            inputs = inputs_of(self._model, lengths, types=types, form=form)
            _compare(_all_tokens(form.module(**inputs), lengths, inputs), expected, inputs, self._model.compute_dtype)


def inputs_of(
    model: Model, lengths: Sequence[int], *, types: bool, form: ExecutionForm | None = None
) -> dict[str, torch.Tensor]:
    """The task's arguments to the module of `form` (the model's own if None), for rows of random ordinary tokens.

    types: whether the second half of each row has token type 1, where the model has types.
    """
    return _inputs_of(model, _rows_of(model, lengths, types=types), form or model.form)


def _rows_of(model: Model, lengths: Sequence[int], *, types: bool) -> list[Row]:
    return [model.probe(length, index, types=types) for index, length in enumerate(lengths)]


def _inputs_of(model: Model, rows: Sequence[Row], form: ExecutionForm) -> dict[str, torch.Tensor]:
    try:
        model.task.forward(_Recorder(form.module), model.batch(rows, form, all_tokens=True))
    except _Recorded as recorded:
        return recorded.inputs
    raise DifferentAnswer("the task calls a part of the model only")


class _Recorded(Exception):
    """Carries the inputs that the module was called with."""

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.inputs = inputs


class _Recorder:
    """Stands in for the module until it is called."""

    def __init__(self, module: object) -> None:
        self._module = module

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)

    def __call__(self, **inputs: torch.Tensor) -> None:
        raise _Recorded(inputs)


def _answer_grouped(model: Model, lengths: Sequence[int], *, types: bool) -> "_RowOutputs":
    """The answers of the model as it is, a forward pass for rows of similar length, so that little is padded."""
    rows = _rows_of(model, lengths, types=types)
    found: dict[int, dict[str, torch.Tensor]] = {}
    for group in _group(rows):
        inputs = _inputs_of(model, group, model.form)
        outputs = _by_row(model.form.module(**inputs), inputs)
        found |= {row.id: {name: each[index] for name, each in outputs.items()} for index, row in enumerate(group)}
    return {name: [found[row.id][name] for row in rows] for name in found[rows[0].id]}


def _group(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows by length; a group's longest is at most twice as long as its shortest, or `SIMILAR_TOKENS` longer."""
    group: list[Row] = []
    for row in sorted(rows, key=lambda each: each.length):
        if group and row.length > max(2 * group[0].length, group[0].length + SIMILAR_TOKENS):
            yield group
            group = []
        group.append(row)
    yield group


_RowOutputs = Mapping[str, Sequence[torch.Tensor]]
"""Outputs of a module by name, each of them row by row, without padding."""


def _by_row(outputs: object, inputs: Inputs) -> _RowOutputs:
    mask = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    given = {name: output for name in OUTPUTS if (output := getattr(outputs, name, None)) is not None}
    return {
        name: [row[mask[index]] for index, row in enumerate(output)]
        if mask is not None and (name != "logits" or output.ndim > 2)
        else list(output)
        for name, output in given.items()
    }


def _all_tokens(outputs: MaskedLMOutput, lengths: Sequence[int], inputs: Inputs) -> object:
    """The outputs as (rows, tokens, size), of a head that was told to compute all tokens, too."""
    if "head_indices" not in inputs:
        return outputs
    rows = outputs.logits[0, : sum(lengths)].split(list(lengths))
    return SimpleNamespace(logits=torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True))


def _compare(outputs: object, expected: _RowOutputs, inputs: Inputs, dtype: torch.dtype) -> None:
    """Raises DifferentAnswer where an output differs at a token that is not padding. dtype: of the outputs."""
    found = _by_row(outputs, inputs)
    for name, wanted in expected.items():
        if not are_alike(torch.cat(_flat(found[name])), torch.cat(_flat(wanted)), dtype):
            shape = tuple(next(iter(inputs.values())).shape)
            raise DifferentAnswer(f"its {name} differ for rows of shape {shape}")


def _flat(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [row.flatten() for row in rows]
