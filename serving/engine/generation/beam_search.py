"""Beam search by transformers' own `generate`, one step at a time between the steps of other rows.

`generate` runs in a thread of its own that waits at each step until it is resumed. So it never runs beside anything
else, and it can be ended at any step.
"""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.utils import ModelOutput

from serving.engine.generation.admission import count_search
from serving.engine.generation.decoder import Decoder
from serving.engine.generation.sampling import NextToken, score

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.engine.generation.sequence import Sequence


SETTINGS = ("num_beams", "length_penalty", "early_stopping", "min_new_tokens", "forced_bos_token_id")
"""Arguments of `generate`, named as in `SamplingSettings`, beside those that a `Sampler` bounds."""


class _Closed(BaseException):
    """The search's result is no longer wanted."""


class _Pause(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Calls `wait` at each step of `generate`; leaves the scores as they are."""

    def __init__(self, wait: "Callable[[], None]") -> None:
        self._wait = wait

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._wait()
        return scores


class _Given(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Leaves `generate` one token a step: those of a text, in order. choices: the tokens with their scores.

    Each is scored at its step: the logits of all steps together may be larger than the model.
    """

    def __init__(self, tokens: list[int], top: int) -> None:
        self._tokens, self._top = iter(tokens), top
        self._logits: torch.Tensor | None = None
        self.choices: list[NextToken] = []

    def hook(self, _module: torch.nn.Module, _args: object, output: ModelOutput) -> None:
        """Take the logits of a step's first forward pass; others come of `guidance_scale`, and of other rows."""
        if self._logits is None:
            self._logits = output.logits[:, -1].clone()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert self._logits is not None
        token = next(self._tokens)
        self.choices += score(self._logits, torch.tensor([token], device=scores.device), self._top)
        self._logits = None
        given = torch.full_like(scores, float("-inf"))
        given[:, token] = 0.0
        return given


class BeamSearch:
    """A search over sequences of the same settings. sequences: those whose result is still wanted.

    max_cached_tokens: positions of the cache that it may come to.
    """

    def __init__(self, decoder: Decoder, sequences: Iterable["Sequence"]) -> None:
        self.sequences = list(sequences)
        self.max_cached_tokens = count_search(self.sequences)
        self._all = list(self.sequences)
        self._decoder = decoder
        self._resume = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._found: list[list[NextToken]] | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="headwaiter-search", daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """Take one step; whether it was the last. Then each sequence has what it found. Raises what the model does."""
        self._resume.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error
        if self._found is None:
            return False
        for sequence, choices in zip(self._all, self._found, strict=True):
            sequence.searched = choices
        return True

    def remove(self, gone: Iterable["Sequence"]) -> None:
        """Forget these sequences. The search ends when no sequence is left."""
        gone = list(gone)
        self.sequences = [sequence for sequence in self.sequences if sequence not in gone]
        if not self.sequences:
            self._is_closed = True
            self._resume.release()
            self._thread.join()

    def _run(self) -> None:
        self._resume.acquire()
        try:
            if not self._is_closed:
                with torch.inference_mode():
                    rows = self._search()
                    self._found = [self._score(each, row) for each, row in zip(self._all, rows, strict=True)]
        except _Closed:
            pass
        except Exception as error:  # `step` raises it
            self._error = error
        self._paused.release()

    def _search(self) -> list[list[int]]:
        """The new tokens of each sequence, in a place of its own among the best where its settings say so."""
        settings, decoder = self._all[0].settings, self._decoder
        given = {name: value for name in SETTINGS if (value := getattr(settings, name)) is not None}
        given |= self._all[0].sampler.given
        rank = self._all[0].sampler.rank
        if settings.seed is not None:
            torch.manual_seed(settings.seed)
        checks = [check for check in (self._all[0].stop_check,) if check is not None]
        ids, mask = self._pad([sequence.prompt for sequence in self._all])
        found: torch.Tensor = decoder.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=settings.max_new_tokens,
            num_return_sequences=rank + 1,
            logits_processor=LogitsProcessorList([_Pause(self._wait)]),
            stopping_criteria=StoppingCriteriaList(checks),
            **given,
        )
        start = 1 if decoder.module.config.is_encoder_decoder else ids.shape[1]
        rows: list[list[int]] = found[rank :: rank + 1, start:].tolist()
        return rows

    def _pad(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompts' ids and mask; without padding, not even to a bucketed width, where rules would see it."""
        if self._all[0].sampler.is_plain:
            return self._decoder.pad_prompts(prompts)
        ids = torch.tensor(prompts, device=self._decoder.device)
        return ids, torch.ones_like(ids)

    def _score(self, sequence: "Sequence", row: list[int]) -> list[NextToken]:
        """The tokens up to the first one that ends a text; with their scores where the row asks for them.

        The model's own scores are those of a search of one beam that is given these tokens.
        """
        ends = (position for position, token in enumerate(row, 1) if token in sequence.ends)
        tokens, top = row[: next(ends, len(row))], sequence.settings.top
        if top is None or not tokens:
            return [NextToken(token) for token in tokens]
        ids, mask = self._decoder.pad_prompts([sequence.prompt])
        given = _Given(tokens, top)
        hook = self._decoder.module.register_forward_hook(given.hook)
        try:
            self._decoder.module.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=len(tokens),
                do_sample=False,
                num_beams=1,
                logits_processor=LogitsProcessorList([_Pause(self._wait), given]),
            )
        finally:
            hook.remove()
        return given.choices

    def _wait(self) -> None:
        self._paused.release()
        self._resume.acquire()
        if self._is_closed:
            raise _Closed
