"""A loaded model whose task generates: rows of token ids → texts, token by token, on the model's device."""

from collections.abc import Sequence
from functools import cached_property

import msgspec
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from serving.engine.generation.factory import make_scheduler
from serving.engine.generation.scheduler import Scheduler
from serving.engine.model import Model
from serving.errors import Failed
from serving.tasks.base.generated_text import to_arrays
from serving.wire.messages import Failure, Row, RowArrays, TokenDelta


class GenerationModel(Model):
    """As `Model`; its rows go through a scheduler instead of single forward passes."""

    @cached_property
    def scheduler(self) -> Scheduler:
        """The scheduler of its rows; raises EngineError where no decoder fits the model."""
        return make_scheduler(
            self.module, self.contract, self.served.tokenizer, self.cache_bytes, self.note, self._stop_check()
        )

    def _stop_check(self) -> StopStringCriteria | None:
        """What finds the checkpoint's stop strings as `generate` does; None where it has none."""
        stops = self.served.defaults.stop_strings
        if not stops:
            return None
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(self.folder / "tokenizer.json"))
        return StopStringCriteria(tokenizer, list(stops))

    def run(self, rows: Sequence[Row]) -> list[RowArrays]:
        """Generate the whole text of each row; its arrays as `decode` reads them. Blocks. Raises Failed."""
        parts: dict[int, TokenDelta] = {}
        for row in rows:
            self.scheduler.add(b"", msgspec.structs.replace(row, deadline=float("inf"), streams=False), 0.0)
        while self.scheduler:
            for _, reply in self.scheduler.step():
                if isinstance(reply, Failure):
                    raise Failed(reply.message)
                parts[reply.id] = reply
        return [to_arrays(parts[row.id]) for row in rows]

    def _try_out(self) -> None:
        try:
            super()._try_out()
        except Exception:
            self.__dict__.pop("scheduler", None)  # it belongs to a module that does not work
            raise
