"""A version as the front's side of a task sees it: contract, encoder, defaults."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from registry.contract import Contract

if TYPE_CHECKING:
    from serving.processors.chat_template import ChatTemplate
    from serving.processors.images import ImageReader
    from serving.processors.tokenizer import TextEncoder

UNKNOWN_WIDTH = 1024
"""Stands for the numbers of a vector of a model whose contract shows none. Untuned: of most encoders it is less."""


@dataclass(frozen=True)
class VersionContext:
    """A version as the front's side of a task sees it.

    encoder: what `Task.make_encoder` returned. defaults: the contract's, of the task's `defaults_type`. chat: the
    version's chat template, or None.
    """

    contract: Contract
    encoder: "TextEncoder | ImageReader"
    defaults: Any
    chat: "ChatTemplate | None" = None

    @cached_property
    def tokenizer(self) -> "TextEncoder":
        """The encoder of a version whose task makes it a tokenizer, as most tasks do."""
        return cast("TextEncoder", self.encoder)

    @cached_property
    def answer_width(self) -> int:
        """The numbers of a vector, by the contract's example; `UNKNOWN_WIDTH` where that has no vector."""
        found: Any = self.contract.example.output if self.contract.example is not None else None
        first = found
        while isinstance(first, list) and first:
            found, first = first, first[0]
        return len(found) if isinstance(first, float) and isinstance(found, list) else UNKNOWN_WIDTH

    @property
    def image_reader(self) -> "ImageReader":
        """The encoder of a version whose task makes it an image reader."""
        return cast("ImageReader", self.encoder)
