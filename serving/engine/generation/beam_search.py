"""A beam search by transformers' own `generate`, one step at a time between the steps of other rows.

`generate` runs in a thread that is stopped at each of its steps until it is told to go on; so it never runs beside
anything else, and whoever waits for it can let it go.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from serving.engine.generation.decoder import Decoder

if TYPE_CHECKING:
    from serving.engine.generation.sequence import Entry


SETTINGS = (
    *("do_sample", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("num_beams", "length_penalty", "early_stopping"),
)
"""Arguments of `generate`, named as in `Settings`."""


class _Closed(BaseException):
    """Nobody waits for the search any more."""


class _Pause(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Called at each step of `generate`; changes nothing."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._wait()
        return scores


class Search:
    """Rows of the same settings. entries: those that somebody still waits for."""

    def __init__(self, decoder: Decoder, entries: Sequence["Entry"]) -> None:
        self.entries = list(entries)
        self._all = list(entries)
        self._decoder = decoder
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._found: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="headwaiter-search", daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """One step; whether it was the last. Then each entry's `found` has its tokens. Raises what the model does."""
        self._turn.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        if self._found is None:
            return False
        start = 1 if self._decoder.module.config.is_encoder_decoder else max(len(each.prompt) for each in self._all)
        for entry, row in zip(self._all, self._found.tolist(), strict=True):
            entry.found = row[start:]
        return True

    def drop(self, gone: Sequence["Entry"]) -> None:
        """Nobody waits for these; where nobody is left the search ends."""
        self.entries = [entry for entry in self.entries if entry not in gone]
        if not self.entries:
            self._is_closed = True
            self._turn.release()
            self._thread.join()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self._is_closed:
                with torch.inference_mode():
                    self._found = self._search()
        except _Closed:
            pass
        except Exception as error:  # told by `step`
            self._error = error
        self._back.release()

    def _search(self) -> torch.Tensor:
        settings, decoder = self._all[0].settings, self._decoder
        given = {name: value for name in SETTINGS if (value := getattr(settings, name)) is not None}
        if settings.seed is not None:
            torch.manual_seed(settings.seed)
        ids, mask = decoder.pad_prompts([entry.prompt for entry in self._all])
        found: torch.Tensor = decoder.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=settings.max_new_tokens,
            logits_processor=LogitsProcessorList([_Pause(self._wait)]),
            **given,
        )
        return found

    def _wait(self) -> None:
        self._back.release()
        self._turn.acquire()
        if self._is_closed:
            raise _Closed
