"""int8 and its gate: layers run in int8 only where the answers to a sample stay those that the model gives in float32.

The sample is the artifact's own, see `registry.int8_sample`, or generated where it has none. The layers that lose most
are found on it, too. The gate runs at logging, where the contract records its result, and at each load that makes the
int8 form. Of models that write texts, `generation.int8_texts` compares what they write.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from math import inf
from typing import Any, ClassVar

import torch

from registry.contract import Int8
from serving.engine.generated_inputs import generate_inputs
from serving.engine.model import Model
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.engine.optimizations.int8_products import find_layers
from serving.engine.probe_lengths import count_weights
from serving.engine.timing import CLOCK, Clock, seconds_of
from serving.errors import EngineError, ServingError
from serving.tasks.base.request import Request, convert_request
from serving.wire.messages import Encoded, EncodedRow, Row, RowArrays

Trace = Callable[[ExecutionForm], ExecutionForm]
TimedCalls = Sequence[Callable[[], object]]
AnyAnswers = Sequence[Any]
MIN_SHARE, MIN_COSINE = 0.995, 0.999
"""The least mean agreement with float32 (`Task.agreement`): share of equal labels and spans, cosine of vectors."""
MAX_LAYER_ERROR = 0.1
"""Layers whose output is off by a larger share stay in float32. See bench/NOTES.md, "int8 on a CPU"."""
ATTEMPTS, KEPT_SHARE = 4, 0.75
"""Where the gate is missed, the layers with the greatest errors stay in float32, and this share is tried again."""
GENERATED = 200
"""Inputs that are generated where there is no sample."""
ERROR_ITEMS = 32
"""Inputs on which the layers' errors are measured."""
BATCH_TOKENS = 1024
"""Of a forward pass over the sample, with padding."""
TIMED_LENGTHS = ((6, 8, 9, 10, 11, 12, 13, 14) * 3, (9, 70, 20, 9, 45, 33, 96, 12, 9, 28, 17, 24))
"""Tokens of the rows of the batches by which int8 is compared in speed: short texts, and mixed ones."""
REPEATS = 7
SAMPLE_MULTIPLICATIONS = 4 * 10**11
"""In all forward passes over the sample: some 4 seconds on two cores. Untuned."""


class Int8Refused(EngineError):
    """int8 is not for this model; the message says why, with the figures."""


class Comparison:
    """A model's answers to inputs, in whatever its layers multiply in now. Texts are compared otherwise, by a subclass.

    what, measure: how a message calls the inputs, and what agrees.
    """

    takes_steps: ClassVar[bool] = False
    """As of `find_layers`."""
    measure = "answers agree by"
    least_tokens: ClassVar[int] = 1
    """Of the inputs that are compared, however large the model is."""

    def __init__(self, model: Model, sample: Sequence[object] = ()) -> None:
        """sample: inputs like those to come; generated ones where empty.

        As many as `SAMPLE_MULTIPLICATIONS` allow. Raises Int8Refused where there is none that the model takes.
        """
        self.model = model
        if model.task.embeds:
            self.measure = "vectors have a mean cosine of"
        self._request, self._encoded, self.what = _encode(model, sample, self.count_tokens, self.least_tokens)

    def count_tokens(self, row: EncodedRow) -> int:
        """Tokens of a row that go through the model each time."""
        return row.length

    def answers(self) -> AnyAnswers:
        """One for each input. The first call, of the model in float32, gives those that are expected."""
        return self._answer(self._encoded)

    def run_few(self) -> None:
        """Run the model on inputs that show the layers what theirs are like."""
        self._answer(self._encoded[:ERROR_ITEMS])

    def agreement(self, expected: AnyAnswers, found: AnyAnswers) -> float:
        """The mean share of each answer that is the same, 0..1."""
        task, contract = self.model.task, self.model.contract
        shares = [task.agreement(one, other, contract).share for one, other in zip(expected, found, strict=True)]
        return sum(shares) / len(shares)

    def _answer(self, inputs: Sequence[Encoded[Any]]) -> list[Any]:
        """The answers, computed in batches of rows of similar lengths."""
        model, parameters = self.model, self._request.parameters
        rows = [row.to_row(0, 0.0) for encoded in inputs for row in encoded.rows]
        arrays: list[RowArrays] = [[] for _ in rows]
        for indices in group_rows(rows):
            for index, found in zip(indices, model.run([rows[index] for index in indices]), strict=True):
                arrays[index] = found
        each, version = iter(arrays), model.version_context
        return [
            model.task.decode(list(islice(each, len(encoded.rows))), encoded.decode_context, parameters, version)
            for encoded in inputs
        ]


@torch.inference_mode()
def quantize(comparison: Comparison, *, is_timed: bool = True, trace: Trace | None = None) -> Int8:
    """Let the model's layers run in int8 from now on where its answers stay the same; how far the answers agree.

    comparison: of a model in float32, on a CPU, its weights not prepacked, in the form that serves, proved. is_timed:
    whether only layers that are faster in int8 on this machine run in it, and others are prepacked where that is
    faster. trace: makes the graph of a form, which is then what gives the compared answers; None for a model that
    runs without. Blocks for several forward passes over the sample. Raises Int8Refused; the model runs in float32 then.
    """
    model = comparison.model
    proved = model.form
    expected = comparison.answers()
    model.form = proved.eager
    layers = find_layers(model.module, model.measurements, is_timed=is_timed, takes_steps=comparison.takes_steps)

    def run_in_int8(names: Sequence[str]) -> None:
        layers.use(names)
        model.form = replace(proved.eager, int8_layers=len(names), is_bucketed=True)
        model.layers_changed()
        if is_timed:
            model.prepack()
        if trace is not None:
            model.form = trace(model.form)

    try:
        layers.smooth(comparison.run_few)
        errors = layers.errors(comparison.run_few)
        found, names = _search(comparison, expected, errors, run_in_int8)
    except Exception:
        layers.use(())
        model.form = proved
        model.layers_changed()
        raise
    layers.finish()
    return Int8(inputs=len(expected), agreement=round(found, 6), float_layers=len(errors) - len(names))


def _search(
    comparison: Comparison,
    expected: AnyAnswers,
    errors: Mapping[str, float],
    run_in_int8: Callable[[Sequence[str]], None],
) -> tuple[float, Sequence[str]]:
    """How far answers agree with `expected`, and the layers that run in int8, as many as the gate lets pass.

    errors: of the layers by name. Raises Int8Refused where the gate lets none pass.
    """
    names = sorted((name for name, error in errors.items() if error <= MAX_LAYER_ERROR), key=lambda name: errors[name])
    if not names:
        raise Int8Refused(
            "int8 is not used: no linear layer is both faster and accurate enough in int8 on this machine"
        )
    least = MIN_COSINE if comparison.model.task.embeds else MIN_SHARE
    found = 0.0
    for _ in range(ATTEMPTS):
        run_in_int8(names)
        found = comparison.agreement(expected, comparison.answers())
        if found >= least:
            return found, names
        names = names[: int(len(names) * KEPT_SHARE)]
        if not names:  # without any the answers would agree
            break
    raise Int8Refused(
        f"int8 is not used: on {len(expected):,} {comparison.what} {comparison.measure} {found:.4f} "
        f"with those in float32, at least {least:g} is required"
    )


@torch.inference_mode()
def time_beside(calls: TimedCalls, rivals: TimedCalls, clock: Clock = CLOCK, *, repeats: int = REPEATS) -> float:
    """How many times as fast as `rivals` the calls are, all together. Blocks for some of each."""
    least = {id(each): [inf] * len(each) for each in (calls, rivals)}
    for _ in range(repeats):
        for each in (calls, rivals):  # in turns, so that a disturbance hits both
            for index, call in enumerate(each):
                least[id(each)][index] = min(least[id(each)][index], seconds_of(call, clock))
    return sum(least[id(rivals)]) / sum(least[id(calls)])


def typical_passes(model: Model) -> TimedCalls:
    """Forward passes over typical batches."""
    longest = model.contract.max_tokens
    batches = [
        [model.probe(min(length, longest), index) for index, length in enumerate(each)] for each in TIMED_LENGTHS
    ]
    return [partial(model.run, rows) for rows in batches]


def check_kind(model: Model) -> None:
    """Raise Int8Refused for models that never run in int8."""
    reasons = {
        "the model runs on a GPU": model.device.type != "cpu",
        "the inputs are images": model.contract.processor.image is not None,
        "a forward pass changes the model": model.is_restored,
        f"its batches have {model.form.batching}": model.form.batching != "any lengths",
    }
    for reason, holds in reasons.items():
        if holds:
            raise Int8Refused(f"int8 is not used: {reason}")


def _encode(
    model: Model, sample: Sequence[object], count_tokens: Callable[[EncodedRow], int], least_tokens: int
) -> tuple[Request, list[Encoded[Any]], str]:
    """The request for the inputs that the model takes, their rows, and how a message calls them."""
    example, version, what = model.contract.example, model.version_context, "inputs of the sample"
    parameters: object = None
    if not sample:
        sample, what = generate_inputs(model.contract, version.tokenizer, GENERATED), "generated inputs"
        parameters = example.parameters if example is not None else None
    left = max(least_tokens, SAMPLE_MULTIPLICATIONS // max(1, count_weights(model.module)))
    items, encoded = list[Any](), list[Encoded[Any]]()
    request = convert_request(list(sample), parameters, model.task, max_rows=1_000_000) if sample else None
    for item in request.items if request is not None else ():
        try:
            found = model.task.encode(item, request.parameters, version)  # type: ignore[union-attr]  # it has items
        except ServingError:  # a generated text may be too long, or lack what the task needs
            continue
        left -= sum(count_tokens(row) for row in found.rows)
        if left < 0 and items:
            break
        items.append(item)
        encoded.append(found)
    if request is None or not items:
        raise Int8Refused("int8 is not used: there are no inputs to compare answers on; log the model with --sample")
    return Request(items, True, request.parameters), encoded, what


def group_rows(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Numbers of rows of one batch key that share a forward pass."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: (rows[index].batch_key, rows[index].length)):
        row = rows[index]
        if batch and (row.batch_key != rows[batch[0]].batch_key or (len(batch) + 1) * row.length > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
