"""Whether a model's rows, written together, come out as transformers' `generate` writes each alone.

Looked at before a version serves: models differ in how they count positions and keep state, and one that does not fit
is written through `generate` itself instead.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

from serving.engine.generation.decoder import CausalDecoder, Decoder, Seq2SeqDecoder
from serving.engine.generation.sequential import SingleDecoder
from serving.engine.optimizations.torchscript import NotTraceable
from serving.engine.tolerances import DECODING
from serving.errors import EngineError

logger = logging.getLogger("headwaiter.engine")

TOKENS = 6

KINDS: dict[bool, tuple[type[Decoder], ...]] = {
    False: (CausalDecoder, SingleDecoder),
    True: (Seq2SeqDecoder, SingleDecoder),
}
"""By whether there is an encoder: the decoders that may fit a model, best first."""


def choose_decoder(
    module: Any, pad_token_id: int, vocabulary: int, note: Callable[[str], None] = logger.warning
) -> Decoder:
    """The best decoder that writes what `generate` does; raises EngineError where none does. Some forward passes.

    note: is told why better ones are refused.
    """
    problems = []
    for kind in KINDS[module.config.is_encoder_decoder]:
        decoder = kind(module, pad_token_id)
        problem = try_out(decoder, vocabulary)
        if problem is None:
            return decoder
        decoder.unhook()
        note(f"{kind.__name__} does not fit this model: {problem}")
        problems.append(problem)
    raise EngineError(f"the model's texts come out otherwise than transformers' generate writes them: {problems[-1]}")


def choose_steps(decoder: Decoder, vocabulary: int, max_tokens: int, note: Callable[[str], None] = logger.info) -> None:
    """Let a decoder that was chosen take its steps as a graph where it then still writes the same. Blocks.

    note: is told why not.
    """
    if not isinstance(decoder, CausalDecoder) or decoder.device.type != "cpu":
        return
    try:
        with torch.inference_mode():
            decoder.trace(vocabulary, max_tokens)
        problem = try_out(decoder, vocabulary)
    except Exception as error:  # tracing may raise anything
        problem = str(error) if isinstance(error, NotTraceable) else f"{type(error).__name__}: {error}"
    if problem is not None:
        decoder.untrace()
        note("steps are taken module by module: " + problem.partition("\n")[0])


def try_out(decoder: Decoder, vocabulary: int) -> str | None:
    """What is wrong with the decoder in words, or None; its rows are gone after that."""
    try:
        with torch.inference_mode():
            problem = find_difference(decoder, vocabulary)
    except Exception as error:  # a model may raise anything where it cannot be called like this
        problem = f"{type(error).__name__}: {error}"
    decoder.clear()
    return problem


def find_difference(decoder: Decoder, vocabulary: int) -> str | None:
    """Write rows of several lengths, of which one joins and others leave midway; the first difference, or None."""
    prompts = [[(7 * place + 3 * row + 5) % vocabulary for place in range(2 + 3 * row)] for row in range(3)]
    expected = [_generate(decoder.module, prompt) for prompt in prompts]
    tolerance = DECODING.of(decoder.module.dtype)
    running, places = [1, 0], [0, 0, 0]
    logits = list(decoder.join([prompts[row] for row in running], [[], []]))
    while running:
        for row, found in zip(running, logits, strict=True):
            wanted = expected[row][0][places[row]]
            if (found.float() - wanted).abs().max() > tolerance * max(1.0, float(wanted.abs().max())):
                return f"{type(decoder.module).__name__} gives other logits at token {places[row]} of row {row}"
            places[row] += 1
        gone = {place for place, row in enumerate(running) if places[row] == len(expected[row][1])}
        running = [running[place] for place in decoder.leave(gone)]
        logits = list(decoder.step([expected[row][1][places[row] - 1] for row in running])) if running else []
        if places == [2, 2, 0]:
            logits += list(decoder.join([prompts[2]], [[]]))
            running.append(2)
    return None


def _generate(module: Any, prompt: list[int]) -> tuple[list[torch.Tensor], list[int]]:
    """The logits of each new token and the tokens; greedily."""
    ids = torch.tensor([prompt], device=module.device)
    made = module.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return [scores[0].float() for scores in made.logits], made.sequences[0, -len(made.logits) :].tolist()
