"""What int8 is compared by where a model writes texts: the tokens that it takes for the likeliest, and its steps' time.

Texts are written greedily in float32. In int8 the same texts are given token by token, so that one other choice does
not change those after it. It is the engine's decoder that does both.
"""

from collections.abc import Sequence
from functools import partial

import torch

from serving.engine.generation.decoder import Decoder
from serving.engine.generation.model import GenerationModel
from serving.engine.int8 import Comparison, Int8Refused, TimedCalls, group_rows
from serving.wire.messages import EncodedRow

TEXT_TOKENS = 32
"""The most tokens that are compared of a text."""
FEW_TEXTS = 8
"""Texts on which layers are shown their inputs, each in one prefill."""
MIN_PLACES = 200
"""Of fewer tokens not one may differ, so that a model passes by chance."""
TIMED_ROWS = (1, 8)
"""Rows of the batches by which int8 is compared in speed: one text, and several."""
TIMED_PROMPT, TIMED_STEPS, TEXT_REPEATS = 16, 8, 3


class TextComparison(Comparison):
    """The tokens of a sample's texts."""

    takes_steps = True
    measure = "tokens agree by"
    least_tokens = 4 * MIN_PLACES  # with prompts
    model: GenerationModel

    def __init__(self, model: GenerationModel, sample: Sequence[object] = ()) -> None:
        """Arguments and errors as of `Comparison`."""
        super().__init__(model, sample)
        self._rows = [encoded.rows[0].to_row(0, 0.0) for encoded in self._encoded]
        self._prompts = [list(memoryview(row.tokens).cast("i")) for row in self._rows]
        self._texts: list[list[int]] | None = None

    def count_tokens(self, row: EncodedRow) -> int:
        """Those of the prompt and of the text."""
        return row.length + self._room(row.length)

    def answers(self) -> list[list[int]]:
        """The likeliest token at each place of the text of each prompt."""
        found: list[list[int]] = [[] for _ in self._prompts]
        for indices in group_rows(self._rows):
            prompts = [self._prompts[index] for index in indices]
            given = None if self._texts is None else [self._texts[index] for index in indices]
            counts = [self._room(len(prompt)) for prompt in prompts] if given is None else [*map(len, given)]
            chosen = write(self.model.scheduler.decoder, prompts, counts, self._ends(), given)
            for index, tokens in zip(indices, chosen, strict=True):
                found[index] = tokens
        if (places := sum(map(len, found))) < MIN_PLACES:
            raise Int8Refused(
                f"int8 is not used: {self.what} give {places} tokens to compare, of at least {MIN_PLACES}: log the "
                "model with a larger --sample"
            )
        self._texts = self._texts or found
        return found

    def run_few(self) -> None:
        """Prompts with their texts, of which the decoder computes all tokens together."""
        assert self._texts is not None
        decoder = self.model.scheduler.decoder
        for prompt, text in [*zip(self._prompts, self._texts, strict=True)][:FEW_TEXTS]:
            decoder.prefill([prompt], [text[:-1]])
            decoder.clear()

    def agreement(self, expected: Sequence[list[int]], found: Sequence[list[int]]) -> float:
        """The share of places with the same token, 0..1."""
        places = [one == other for pair in zip(expected, found, strict=True) for one, other in zip(*pair, strict=True)]
        return sum(places) / len(places)

    def _room(self, length: int) -> int:
        """New tokens after a prompt of that length."""
        decoder, longest = self.model.scheduler.decoder, self.model.contract.max_tokens
        room = decoder.max_new_tokens if self.model.module.config.is_encoder_decoder else longest - length
        return max(1, min(TEXT_TOKENS, TEXT_TOKENS if room is None else room))

    def _ends(self) -> set[int]:
        ends = self.model.module.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}


@torch.inference_mode()
def write(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    ends: set[int],
    given: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """The likeliest token at each place of the text of each prompt. The decoder has no rows before and after.

    counts: places of each text; one that is not given ends at a token of `ends`, too. given: the texts of which each
    next token is taken, instead of the likeliest.
    """
    chosen: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    try:
        logits = decoder.prefill(prompts, [[] for _ in prompts])
        while running:
            for row, token in zip(running, logits.argmax(-1).tolist(), strict=True):
                chosen[row].append(token)
            gone = {
                index
                for index, row in enumerate(running)
                if len(chosen[row]) == counts[row] or (given is None and chosen[row][-1] in ends)
            }
            running = [running[index] for index in decoder.remove(gone)]
            texts = chosen if given is None else given
            if running:
                logits = decoder.step([texts[row][len(chosen[row]) - 1] for row in running])
    finally:
        decoder.clear()
    return chosen


def typical_texts(model: GenerationModel) -> TimedCalls:
    """Writing a few tokens of one text, and of several at a time."""
    longest, decoder = model.contract.max_tokens, model.scheduler.decoder
    prompt = memoryview(model.probe(max(1, min(TIMED_PROMPT, longest - TIMED_STEPS))).tokens).cast("i").tolist()
    steps = max(1, min(TIMED_STEPS, longest - len(prompt)))
    return [partial(write, decoder, [prompt] * rows, [steps] * rows, set[int]()) for rows in TIMED_ROWS]
