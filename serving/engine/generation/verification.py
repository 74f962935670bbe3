"""Whether a decoder generates what transformers' `generate` does for each row alone.

Checked before a version serves, because models differ in how they count positions and keep state. A model that cannot
be batched gets the sequential decoder.
"""

import logging
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy
import torch
from transformers import LogitsProcessorList

from registry.redaction import describe_error
from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.decoder import Decoder
from serving.engine.generation.sampling import Sampler, choose
from serving.engine.generation.seq2seq_decoder import Seq2SeqDecoder
from serving.engine.generation.sequential import PositionedDecoder, SequentialDecoder
from serving.engine.generation.uncached import UncachedDecoder
from serving.engine.optimizations.torchscript import NotTraceable
from serving.engine.tolerances import DECODING, agree
from serving.errors import EngineError
from serving.wire.messages import Row, SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("headwaiter.engine")

TOKENS = 6

KINDS: dict[bool, tuple[type[Decoder], ...]] = {
    False: (CausalDecoder, SequentialDecoder, PositionedDecoder, UncachedDecoder),
    True: (Seq2SeqDecoder, SequentialDecoder),
}
"""Whether a model has an encoder → the decoders that may fit it, best first."""


def choose_decoder(
    module: "PreTrainedModel",
    pad_token_id: int,
    vocabulary: int,
    note: Callable[[str], None] = logger.warning,
    *,
    is_sequential: bool = False,
) -> Decoder:
    """The best decoder that generates what `generate` does. Blocks for some forward passes.

    is_sequential: whether only the one that takes rows one by one is tried. note: called with the reason for each
    better one that is refused. Raises EngineError where none fits.
    """
    problems = []
    for kind in KINDS[module.config.is_encoder_decoder][-1 if is_sequential else 0 :]:
        decoder = kind(module, pad_token_id)
        problem = try_out(decoder, vocabulary)
        if problem is None:
            return decoder
        decoder.unhook()
        note(f"{kind.__name__} does not fit this model: {problem}")
        problems.append(problem)
    raise not_as_generate(problems[-1])


def not_as_generate(problem: str) -> EngineError:
    """The error of a model that no decoder fits. problem: how the last one that was tried differs."""
    return EngineError(
        f"the model's texts come out otherwise than transformers' generate writes them: {problem}; check "
        "the values of generation_config.json, or save the model again with save_pretrained"
    )


def choose_steps(decoder: Decoder, vocabulary: int, max_tokens: int, note: Callable[[str], None] = logger.info) -> None:
    """Run a chosen decoder's steps as a graph if it then still generates the same. Blocks.

    note: called with the reason if not.
    """
    if not isinstance(decoder, CausalDecoder) or decoder.device.type != "cpu":
        return
    try:
        with torch.inference_mode():
            decoder.trace(vocabulary, max_tokens)
        problem = try_out(decoder, vocabulary)
    except Exception as error:  # tracing may raise anything
        problem = str(error) if isinstance(error, NotTraceable) else describe_error(error)
    if problem is not None:
        decoder.untrace()
        note("steps are taken module by module: " + problem.partition("\n")[0])


def try_out(decoder: Decoder, vocabulary: int) -> str | None:
    """How the decoder differs from `generate`, in words, or None. It has no rows afterwards."""
    try:
        with torch.inference_mode():
            problem = find_difference(decoder, vocabulary)
    except Exception as error:  # a model may raise anything where it cannot be called like this
        problem = describe_error(error)
    decoder.clear()
    return problem


def find_difference(decoder: Decoder, vocabulary: int) -> str | None:
    """The first difference from `generate` in the logits of given tokens, or None.

    Rows have several lengths. One is added, one is removed and one is preempted midway.
    """
    prompts = [[(7 * place + 3 * row + 5) % vocabulary for place in range(2 + 3 * row)] for row in range(3)]
    expected = [_generate(decoder.module, prompt, TOKENS - 2 * (prompt == prompts[0])) for prompt in prompts]
    tolerance = DECODING.of(decoder.module.dtype)
    running, places = [1, 0], [0, 0, 0]
    logits = list(decoder.prefill([prompts[row] for row in running], [[], []]))
    while running:
        for row, found in zip(running, logits, strict=True):
            wanted = expected[row][0][places[row]]
            if not agree(found, wanted, tolerance, least=1.0):
                return f"{type(decoder.module).__name__} gives other logits at token {places[row]} of row {row}"
            places[row] += 1
        gone = {place for place, row in enumerate(running) if places[row] == len(expected[row][1])}
        added = [2] if places == [2, 2, 0] else []
        if places == [4, 4, 2]:  # row 0 ends, and row 1 is preempted
            added = [1]
            gone.add(running.index(1))
        running = [running[place] for place in decoder.remove(gone)]
        logits = list(decoder.step([expected[row][1][places[row] - 1] for row in running])) if running else []
        if added:
            (row,) = added
            logits += list(decoder.prefill([prompts[row]], [expected[row][1][: places[row]]]))
            running.append(row)
    return None


def try_batches(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> str | None:
    """How the logits of the first two tokens after each prompt differ in a shared prefill, in words, or None.

    Two prefills are looked at: all prompts in order, then the last one before the first. A sequential decoder shares
    none, and yet may fail after a long prompt. The decoder has no rows afterwards.
    """
    tolerance = DECODING.of(decoder.module.dtype)
    places = range(len(prompts))
    try:
        with torch.inference_mode():
            expected = [_generate(decoder.module, list(prompt), 2) for prompt in prompts]
            for order in (places, (places[-1], places[0])):
                first = decoder.prefill([prompts[place] for place in order], [[] for _ in order])
                found = first, decoder.step([expected[place][1][0] for place in order])
                decoder.clear()
                for token, row in product(range(2), range(len(order))):
                    wanted, prompt = expected[order[row]][0][token], prompts[order[row]]
                    if not agree(found[token][row], wanted, tolerance, least=1.0):
                        where = f"token {token} of a prompt of {len(prompt)} tokens among others"
                        return f"{type(decoder.module).__name__} gives other logits at {where}"
    except Exception as error:  # a model may raise anything where it cannot be called like this
        return f"{type(error).__name__}: {error}"
    finally:
        decoder.clear()
    return None


def check_sampling(decoder: Decoder, vocabulary: int) -> None:
    """Set up and apply the sampling of one row, as requests will have it; raises EngineError where that fails.

    Sampling rules are set up by private methods of transformers, which no other check of a load calls. Looked at:
    what the checkpoint asks for, greedily and drawn, and the same with a repetition penalty.
    """
    prompt = [5 % vocabulary, 7 % vocabulary]
    row = Row(0, len(prompt), numpy.asarray(prompt, dtype=numpy.int32).tobytes(), b"", "", 0.0)
    is_own = bool(decoder.module.generation_config.do_sample)
    drawn: dict[str, Any] = {} if is_own else {"temperature": 1.0, "top_k": 50, "top_p": 1.0}  # as requests can
    asked = [
        SamplingSettings(TOKENS, do_sample=is_drawn, repetition_penalty=penalty, seed=0, top=1, **drawn)
        for is_drawn in (False, True)
        for penalty in (None, 1.2)
    ]
    try:
        with torch.inference_mode():
            logits = decoder.prefill([prompt], [[]])
            for settings in asked:
                sampler = Sampler(decoder.module, settings, row)
                sampler.process(decoder.history(prompt), logits.float())
                choose(logits, [sampler], [decoder.history(prompt)])
    except Exception as error:  # transformers' code may raise anything
        problem = describe_error(error)
        raise EngineError(f"the model's sampling cannot be set up as transformers' generate does: {problem}") from error
    finally:
        decoder.clear()


class _GivenTokens:
    """A logits processor that lets `generate` write tokens that differ from each other and end no text.

    Random or badly trained models repeat one token, such as padding, and so show no fault in positions.
    """

    def __init__(self, module: "PreTrainedModel", prompt: Sequence[int]) -> None:
        config = module.generation_config
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        self._avoided = {*ends, config.pad_token_id, config.bos_token_id, config.decoder_start_token_id}
        self._next = len(prompt)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of one possible token."""
        count = scores.shape[-1]
        self._next += 11
        while self._next % count in self._avoided and count > len(self._avoided):
            self._next += 1
        given = torch.full_like(scores, float("-inf"))
        given[:, self._next % count] = 0.0
        return given


def _generate(
    module: "PreTrainedModel", prompt: list[int], tokens: int = TOKENS
) -> tuple[list[torch.Tensor], list[int]]:
    """The logits of each new token, and the tokens that were given for them."""
    ids = torch.tensor([prompt], device=module.device)
    made = module.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        logits_processor=LogitsProcessorList([_GivenTokens(module, prompt)]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    return [scores[0].float() for scores in made.logits], made.sequences[0, -len(made.logits) :].tolist()
