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
from serving.engine.generation.prefix_cache import BLOCK_TOKENS, PrefixCache
from serving.engine.generation.sampling import Sampler, choose
from serving.engine.generation.seq2seq_decoder import Seq2SeqDecoder
from serving.engine.generation.sequential import PositionedDecoder, SequentialDecoder
from serving.engine.generation.uncached import UncachedDecoder
from serving.engine.optimizations.int8_products import precision
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
    if not isinstance(decoder, CausalDecoder | Seq2SeqDecoder) or decoder.device.type != "cpu":
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
    prompts = [[(7 * position + 3 * row + 5) % vocabulary for position in range(2 + 3 * row)] for row in range(3)]
    expected = [_generate(decoder.module, prompt, TOKENS - 2 * (prompt == prompts[0])) for prompt in prompts]
    tolerance = DECODING.of(precision(decoder.module))
    running, written = [1, 0], [0, 0, 0]
    logits = list(decoder.prefill([prompts[row] for row in running], [[], []]))
    while running:
        for row, found in zip(running, logits, strict=True):
            wanted = expected[row][0][written[row]]
            if not agree(found, wanted, tolerance, min_scale=1.0):
                return f"{type(decoder.module).__name__} gives other logits at token {written[row]} of row {row}"
            written[row] += 1
        gone = {index for index, row in enumerate(running) if written[row] == len(expected[row][1])}
        added = [2] if written == [2, 2, 0] else []
        if written == [4, 4, 2]:  # row 0 ends, and row 1 is preempted
            added = [1]
            gone.add(running.index(1))
        running = [running[index] for index in decoder.remove(gone)]
        logits = list(decoder.step([expected[row][1][written[row] - 1] for row in running])) if running else []
        if added:
            (row,) = added
            logits += list(decoder.prefill([prompts[row]], [expected[row][1][: written[row]]]))
            running.append(row)
    return None


def try_batches(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> str | None:
    """How the logits of the first two tokens after each prompt differ in a shared prefill, in words, or None.

    Two prefills are looked at: all prompts in order, then the last one before the first. A sequential decoder shares
    none, and yet may fail after a long prompt. The decoder has no rows afterwards.
    """
    indices = range(len(prompts))
    try:
        with torch.inference_mode():
            expected = [_generate(decoder.module, list(prompt), 2) for prompt in prompts]
            for order in (indices, (indices[-1], indices[0])):
                chosen = [prompts[index] for index in order], [expected[index] for index in order]
                if problem := _find_prefill_difference(decoder, *chosen):
                    return f"{problem} among others"
    except Exception as error:  # a model may raise anything where it cannot be called like this
        return f"{type(error).__name__}: {error}"
    finally:
        decoder.clear()
    return None


def try_prefixes(decoder: CausalDecoder, prompt: Sequence[int], vocabulary: int) -> str | None:
    """How the logits of the first two tokens after a prompt differ where its first ones are known, in words, or None.

    What is known of a long prompt was computed in a short one, and the other way round, each time with other tokens
    behind it. Another prompt, of which nothing is known, shares the prefill. prompt: the long one. The decoder has no
    rows and shares no prefixes afterwards.
    """
    if _has_changing_rotation(decoder.module):
        return "its rotary positions depend on the length of the text"
    if len(prompt) < 2 * BLOCK_TOKENS:
        return f"its prompts are shorter than {2 * BLOCK_TOKENS} tokens"
    others = [[(token + shift) % vocabulary for token in prompt] for shift in (1, 2, 3)]
    half = len(prompt) // 2 // BLOCK_TOKENS * BLOCK_TOKENS
    long, short, strange = list(prompt), [*prompt[:BLOCK_TOKENS], *others[0][:3]], others[0][:8]
    known_short, known_long = [*prompt[:BLOCK_TOKENS], *others[1][:5]], [*prompt[:half], *others[2][half:]]
    max_width, decoder.max_width = decoder.max_width, 0  # no column more than is needed
    try:
        with torch.inference_mode():
            expected = {len(each): _generate(decoder.module, each, 2) for each in (long, short, strange)}
            for known, cases in ((known_short, [long]), (known_long, [short, long])):
                decoder.prefixes = PrefixCache(len(prompt))
                decoder.prefill([known], [[]])
                decoder.clear()
                for case in cases:
                    rows = [case, strange]
                    if problem := _find_prefill_difference(decoder, rows, [expected[len(each)] for each in rows]):
                        return f"{problem} whose first {decoder.reused[0]} are known"
                    assert decoder.reused[0] > 0, "the proof is of something that is known"
    except Exception as error:  # as above
        return describe_error(error)
    finally:
        decoder.clear()
        decoder.prefixes, decoder.max_width = None, max_width
    return None


def _has_changing_rotation(module: "PreTrainedModel") -> bool:
    """Whether a token's keys depend on how many tokens follow: transformers (5.23) scales these rotations by the text.

    Up to some length they are the same, and a proof need not be as long.
    """
    kinds = [getattr(part, "rope_type", None) for part in module.modules()]
    named = {name for kind in kinds for name in (kind.values() if isinstance(kind, dict) else [kind])}
    return not named.isdisjoint({"dynamic", "longrope"})


def _find_prefill_difference(
    decoder: Decoder, prompts: Sequence[Sequence[int]], expected: Sequence[tuple[list[torch.Tensor], list[int]]]
) -> str | None:
    """Where the logits of the first two tokens differ in a prefill of these prompts and a step, in words, or None.

    expected: of each prompt, as `_generate` returns it. The decoder has no rows afterwards.
    """
    tolerance = DECODING.of(precision(decoder.module))
    first = decoder.prefill(prompts, [[] for _ in prompts])
    found = first, decoder.step([given[0] for _, given in expected])
    decoder.clear()
    for token, row in product(range(2), range(len(prompts))):
        if not agree(found[token][row], expected[row][0][token], tolerance, min_scale=1.0):
            where = f"token {token} of a prompt of {len(prompts[row])} tokens"
            return f"{type(decoder.module).__name__} gives other logits at {where}"
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
