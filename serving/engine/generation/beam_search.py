"""Beam search by transformers' own `generate`, one step at a time between the steps of other rows.

`generate` runs in a thread of its own that waits at each step until it is resumed. So it never runs beside anything
else, and it can be ended at any step.
"""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from serving.engine.generation.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.engine.generation.sequence import Sequence


SETTINGS = (
    *("do_sample", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("num_beams", "length_penalty", "early_stopping", "min_new_tokens", "forced_bos_token_id"),
)
"""Arguments of `generate`, named as in `SamplingSettings`."""


class _Closed(BaseException):
    """The search's result is no longer wanted."""


class _Pause(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Calls `wait` at each step of `generate`; leaves the scores as they are."""

    def __init__(self, wait: "Callable[[], None]") -> None:
        self._wait = wait

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._wait()
        return scores


class BeamSearch:
    """A search over sequences of the same settings. sequences: those whose result is still wanted."""

    def __init__(self, decoder: Decoder, sequences: Iterable["Sequence"]) -> None:
        self.sequences = list(sequences)
        self._all = list(self.sequences)
        self._decoder = decoder
        self._resume = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._found: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="headwaiter-search", daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """Take one step; whether it was the last. Then each sequence has its `searched_tokens`. Raises what the model
        does.
        """
        self._resume.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error
        if self._found is None:
            return False
        start = 1 if self._decoder.module.config.is_encoder_decoder else max(len(each.prompt) for each in self._all)
        for sequence, row in zip(self._all, self._found.tolist(), strict=True):
            sequence.searched_tokens = row[start:]
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
                    self._found = self._search()
        except _Closed:
            pass
        except Exception as error:  # `step` raises it
            self._error = error
        self._paused.release()

    def _search(self) -> torch.Tensor:
        settings, decoder = self._all[0].settings, self._decoder
        given = {name: value for name in SETTINGS if (value := getattr(settings, name)) is not None}
        if settings.seed is not None:
            torch.manual_seed(settings.seed)
        checks = [check for check in (self._all[0].stop_check,) if check is not None]
        ids, mask = decoder.pad_prompts([sequence.prompt for sequence in self._all])
        found: torch.Tensor = decoder.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=settings.max_new_tokens,
            logits_processor=LogitsProcessorList([_Pause(self._wait)]),
            stopping_criteria=StoppingCriteriaList(checks),
            **given,
        )
        return found

    def _wait(self) -> None:
        self._paused.release()
        self._resume.acquire()
        if self._is_closed:
            raise _Closed
