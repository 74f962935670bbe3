"""Text to rows of token ids, in a front: the tokenizer's own file, without transformers.

Padding is the engine's work. Truncation is a setting of a tokenizer, and changing it while another thread encodes gives
wrong rows, so each setting has a copy of its own; a front encodes in its event loop only.
"""

from array import array
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.tasks.base import EncodedRow

CHARACTERS_PER_TOKEN = 64
"""A text of more characters than this times `max_tokens` is over-long without being tokenized; ours."""


class TextEncoder:
    """The tokenizer of one version. Not for use from several threads."""

    def __init__(self, folder: Path, contract: Contract) -> None:
        self._path = str(folder / "tokenizer.json")
        self._exact = self._copy()
        self._truncating: dict[str, Tokenizer] = {}
        self._has_types = "token_type_ids" in contract.processor.inputs
        self.max_tokens = contract.max_tokens
        self.max_characters = contract.max_tokens * CHARACTERS_PER_TOKEN
        model = self._exact.model
        self.subword_prefix: str | None = getattr(model, "continuing_subword_prefix", None)

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        truncate: bool = False,
        direction: str = "right",
        kind: str = "",
    ) -> tuple[EncodedRow, Encoding]:
        """One row for a text or a pair of texts, special tokens included.

        truncate: cut to `max_tokens` (longest first of a pair) at the given side, "right" or "left"; else an over-long
        text raises Unprocessable, as an empty one does.
        """
        if not text or pair == "":
            raise Unprocessable("inputs holds an empty text: every text needs at least one character")
        limit = self.max_characters
        if truncate:
            text, pair = (
                _cut(text, limit, direction),
                _cut(pair, limit, direction) if pair is not None else None,
            )
        elif len(text) + len(pair or "") > limit:
            raise self._too_long(f"{len(text) + len(pair or ''):,} characters")
        encoding = self._exact.encode(text, pair)
        if len(encoding) > self.max_tokens:
            if not truncate:
                raise self._too_long(f"{len(encoding):,} tokens")
            encoding = self._truncator(direction).encode(text, pair)
        types = bytes(encoding.type_ids) if pair is not None and self._has_types else b""
        return EncodedRow(tokens=array("i", encoding.ids).tobytes(), types=types, kind=kind), encoding

    def join(self, tokens: list[str]) -> str:
        """Tokens as text, as `convert_tokens_to_string` of transformers' fast tokenizers does it."""
        decoder = self._exact.decoder
        return str(decoder.decode(tokens)) if decoder is not None else " ".join(tokens)

    def _too_long(self, size: str) -> Unprocessable:
        return Unprocessable(
            f"inputs has {size}, this model takes at most {self.max_tokens:,} tokens: shorten the text, "
            'or pass "parameters": {"truncate": true}'
        )

    def _truncator(self, direction: str) -> Tokenizer:
        if direction not in self._truncating:
            copy = self._copy()
            copy.enable_truncation(self.max_tokens, direction=direction)
            self._truncating[direction] = copy
        return self._truncating[direction]

    def _copy(self) -> Any:
        tokenizer = Tokenizer.from_file(self._path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


def _cut(text: str, limit: int, direction: str) -> str:
    return text[:limit] if direction == "right" else text[-limit:]
