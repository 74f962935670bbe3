"""A loaded model whose task generates: rows of token ids → texts, token by token, on the model's device."""

from collections.abc import Sequence
from functools import cached_property

import msgspec
import torch
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from registry.contract import Batching
from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.factory import make_scheduler
from serving.engine.generation.scheduler import Scheduler
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.verification import not_as_generate, try_batches, try_prefixes
from serving.engine.model import Model
from serving.engine.module_state import ModuleState
from serving.errors import Failed, Unprocessable
from serving.tasks.base.generated_text import to_arrays
from serving.wire.messages import Failure, Row, RowArrays, TokenDelta


class GenerationModel(Model):
    """As `Model`; its rows go through a scheduler instead of single forward passes."""

    has_frame = False

    @cached_property
    def scheduler(self) -> Scheduler:
        """The scheduler of its rows; raises EngineError where no decoder fits the model."""
        state = ModuleState(self.module)
        made = self._make_scheduler()
        changes = [change for change in state.changes() if change.is_setting]
        if changes and not self.is_restored:
            made.decoder.unhook()
            self.restore_always(state, changes)
            made = self._make_scheduler()
        return made

    def layers_changed(self) -> None:
        """Make the scheduler anew when it is next used: its decoder is verified, and may run a graph of the layers."""
        made = self.__dict__.pop("scheduler", None)
        if made is not None:
            made.decoder.unhook()

    def _make_scheduler(self, *, is_sequential: bool = False) -> Scheduler:
        return make_scheduler(
            self.module,
            self.contract,
            self.version_context.tokenizer,
            self.cache_bytes,
            self.note,
            stop_check=self._stop_check(),
            is_sequential=is_sequential,
        )

    def prove_batching(self, lengths: Sequence[int]) -> Batching:
        """Which rows are decoded together: any, unless prompts of these lengths change each other's logits. Blocks.

        Never less strict than the contract's. Raises EngineError where rows cannot be decoded one by one either.
        """
        prompts = [self._prompt(length) for length in lengths]
        is_sequential = isinstance(self.scheduler.decoder, SequentialDecoder)
        is_known = self.contract.batching == "one row" and not is_sequential
        problem = "they changed each other when it was logged" if is_known else self._try_batches(prompts)
        if problem is not None and not is_sequential:
            self.note(f"rows are decoded one by one: {problem}")
            self.scheduler.decoder.unhook()
            self.scheduler = self._make_scheduler(is_sequential=True)
            problem, is_sequential = self._try_batches(prompts), True
        if problem is not None:
            raise not_as_generate(problem)
        return "one row" if is_sequential else "any lengths"

    def prove_prefixes(self, length: int) -> bool:
        """Whether what is known of a prompt's first tokens changes no answer. length: of a long prompt. Blocks.

        That depends on the architecture, the code and the machine, so it is proved once for all weights.
        """
        decoder, vocabulary = self.scheduler.decoder, self.contract.processor.vocabulary
        if not isinstance(decoder, CausalDecoder):
            return False
        problem = self.measurements.recall(
            "prefixes", str, lambda: try_prefixes(decoder, self._prompt(length), vocabulary) or ""
        )
        if problem:
            self.note(f"prompts share no prefixes: {problem}")
        return not problem

    def _prompt(self, length: int) -> list[int]:
        """A prompt of that many tokens, or as many as leave a position for a new token."""
        row = self.probe(max(1, min(length, self.contract.max_tokens - 1)), length)
        return list(memoryview(row.tokens).cast("i"))

    def _try_batches(self, prompts: Sequence[Sequence[int]]) -> str | None:
        return try_batches(self.scheduler.decoder, prompts)

    @torch.inference_mode()
    def try_row(self, row: Row) -> None:
        """Run the module, or its encoder, on a prompt; raises what it raises."""
        half = self.module.get_encoder() if self.module.config.is_encoder_decoder else self.module
        half(input_ids=torch.tensor([list(memoryview(row.tokens).cast("i"))], device=self.device))

    def _stop_check(self) -> StopStringCriteria | None:
        """What finds the checkpoint's stop strings as `generate` does; None where it has none."""
        stops = self.version_context.defaults.stop_strings
        if not stops:
            return None
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=self.version_context.tokenizer.exact)
        return StopStringCriteria(tokenizer, list(stops))

    def run(self, rows: Sequence[Row]) -> list[RowArrays]:
        """Generate the whole text of each row; its arrays as `decode` reads them. Blocks.

        Raises Failed, or Unprocessable for settings that do not fit the model.
        """
        parts: dict[int, TokenDelta] = {}
        for row in rows:
            self.scheduler.add(b"", msgspec.structs.replace(row, deadline=float("inf"), streams=False), 0.0)
        while self.scheduler:
            for _, reply in self.scheduler.step():
                if isinstance(reply, Failure):
                    raise (Unprocessable if reply.reason == "refused" else Failed)(reply.message)
                parts[reply.id] = reply
        return [to_arrays(parts[row.id]) for row in rows]

    def _watch(self) -> None:
        """The scheduler does that."""

    def _try_out(self) -> None:
        try:
            super()._try_out()
        except Exception:
            self.__dict__.pop("scheduler", None)  # it belongs to a module that does not work
            raise
