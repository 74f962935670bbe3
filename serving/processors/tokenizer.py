"""Text → rows of token ids, by the tokenizer's own file and without transformers. Front side.

The engine pads. A front encodes long texts in threads; `tokenizer_file` says how these truncate.
"""

from array import array
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import msgspec
from tokenizers import Encoding, Tokenizer

from registry.contract import Contract, Side
from registry.layout import MODEL_FOLDER
from serving.errors import Unprocessable
from serving.processors.long_texts import MAX_TEXT_TOKENS, are_too_many, count_up_to, cut, shorten
from serving.processors.normalized_length import expands
from serving.processors.panics import contain_panics
from serving.processors.tokenizer_file import TokenizerFile
from serving.processors.windows import MAX_WINDOWS, WindowPlan
from serving.wire.messages import EncodedRow

MIN_CHARACTERS_PER_TOKEN = 8
"""A text may have this many characters for each token of the model's limit. Untuned: above the 4 to 5 of real text."""
CHARACTERS_PER_TOKEN = 64
"""A text of more characters than this times `max_tokens` is over-long and not tokenized. Untuned: far above the 4 to 5
of real text."""
LONG_CHARACTERS = 4096
"""Longer texts are tokenized by a thread. Untuned: a WordPiece tokenizer takes 2 to 5 ms for this length."""
MAX_CHARACTERS = 1 << 18
"""Most characters of a text for a model that takes up to 32,768 tokens."""


class TextParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """truncate: cut an over-long text instead of refusing it; a number cuts to that many tokens.

    truncation_direction: the side that is cut off. Default: the contract's; left for a number, as in
    text-generation-inference.
    """

    truncate: bool | Annotated[int, msgspec.Meta(ge=1, lt=2**31)] = False
    truncation_direction: Side | None = None

    @property
    def max_tokens(self) -> int | None:
        """The number that `truncate` gives."""
        return None if isinstance(self.truncate, bool) else self.truncate

    @property
    def cut_side(self) -> Side | None:
        """The side that is cut off; None for the contract's."""
        return self.truncation_direction or (None if self.max_tokens is None else "left")


still_wanted: ContextVar[Callable[[], None]] = ContextVar("still_wanted", default=lambda: None)
"""Called before each row is tokenized. It raises ServingError once nobody waits for the rows of this context."""
count_tokens: ContextVar[Callable[[int], None]] = ContextVar("count_tokens", default=lambda _: None)
"""Called with each row's tokens. It raises ServingError once those of this context are more than a queue takes."""


@contain_panics
class TextEncoder:
    """The tokenizer of one version. Safe for several threads.

    exact: neither truncates nor pads; not to be changed. max_tokens: of a row. special_ids: of special tokens, which
    `read` leaves out. absent: special tokens without an embedding, by id. subword_prefix: WordPiece's prefix of a
    word's later tokens, None for other tokenizers. cleans_up: whether texts for clients pass `clean_up`.
    truncation_side: that is cut off where a request names none.
    """

    def __init__(self, folder: Path, contract: Contract) -> None:
        path = folder / "tokenizer.json"
        digest = contract.files.get(f"{MODEL_FOLDER}/{path.name}", str(path))
        self._file = TokenizerFile.shared(path, digest)
        self.exact = self._file.exact
        self._words = self._file.words
        self._has_types = "token_type_ids" in contract.processor.inputs
        if self._has_types and any(self.exact.encode("a").type_ids):
            self._words = None  # it knows no token types
        self._types = contract.processor.token_types
        self.truncation_side = contract.processor.truncation_side
        self._is_text_first = contract.processor.padding_side == "left"
        self.max_tokens = contract.max_tokens
        self.cleans_up = contract.processor.cleans_up is True
        added = self.exact.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.absent: dict[int, str] = {}
        if not contract.derived:  # records of format 1 have the number of tokens, which ids with gaps exceed
            self.absent = {
                token_id: token.content
                for token_id, token in added.items()
                if token_id >= contract.processor.vocabulary
            }
        most = max(MAX_CHARACTERS, min(contract.max_tokens, MAX_TEXT_TOKENS) * MIN_CHARACTERS_PER_TOKEN)
        self.max_characters = min(most, contract.max_tokens * CHARACTERS_PER_TOKEN)
        self.subword_prefix: str | None = getattr(self.exact.model, "continuing_subword_prefix", None)

    def row(
        self,
        text: str,
        pair: str | None = None,
        *,
        parameters: TextParameters | None = None,
        batch_key: str = "",
        max_tokens: int | None = None,
        special: bool = True,
    ) -> EncodedRow:
        """The row that `encode` returns, without the tokens' places in the text; often much faster."""
        is_plain = pair is None and special and not self.absent
        if is_plain and text and self._words is not None and len(text) <= min(self.max_characters, MAX_CHARACTERS):
            tokens = self._words.encode(text)
            length, most = len(tokens) // 4, self.max_row_tokens(parameters, max_tokens)
            if 0 < length <= most:
                return EncodedRow(length, tokens, b"", batch_key)
            if length > most and not (parameters is not None and parameters.truncate):
                raise self._too_long(f"{length:,} tokens", most)
        return self.encode(
            text, pair, parameters=parameters, batch_key=batch_key, max_tokens=max_tokens, special=special
        )[0]

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        parameters: TextParameters | None = None,
        batch_key: str = "",
        max_tokens: int | None = None,
        special: bool = True,
    ) -> tuple[EncodedRow, Encoding]:
        """One row for a text or a pair of texts, special tokens included.

        parameters: whether an over-long text is cut to `max_tokens` (default: the model's; of a pair the longer text is
        cut first), and at which side. special: whether special tokens are added. Raises Unprocessable for an over-long
        text that is not cut, and for an empty one; and what `still_wanted` raises.
        """
        still_wanted.get()()
        if not text or pair == "":
            raise Unprocessable("inputs holds an empty text: every text needs at least one character")
        most, limit = min(self.max_row_tokens(parameters, max_tokens), MAX_TEXT_TOKENS), self.max_characters
        truncate = parameters is not None and bool(parameters.truncate)
        direction = (parameters.cut_side if parameters is not None else None) or self.truncation_side
        if truncate:
            given = [cut(each, limit, direction) for each in (text, pair) if each is not None]
            text, *rest = shorten(most, given, direction, self._count)
            pair = rest[0] if rest else None
        elif len(text) + len(pair or "") > limit:
            raise self._too_long(f"{len(text) + len(pair or ''):,} characters", most)
        elif are_too_many(most, [text, pair or ""], self._count):
            raise self._too_long(f"more than {most:,} tokens", most)
        fixed = self.exact.num_special_tokens_to_add(pair is not None) if special else 0
        is_cut = truncate and most > fixed and len(text) + len(pair or "") > MIN_CHARACTERS_PER_TOKEN * most
        if not is_cut:  # a text that is hardly within the limit is not tokenized just to see that
            encoding = self._tokenize(self.exact, text, pair, special=special)
            is_cut = len(encoding) > most
            if is_cut and not truncate:
                raise self._too_long(f"{len(encoding):,} tokens", most)
            if is_cut and most <= fixed:  # the tokenizer would not cut at all
                raise Unprocessable(f"parameters.truncate leaves {most} tokens, of which {fixed} are special: cut less")
        if is_cut:
            cutter = self._file.cutter(most, direction=direction)
            encoding = self._tokenize(cutter, text, pair, special=special)
        return self._row(encoding, batch_key), encoding

    def windows(
        self, text: str, before: str | None = None, *, stride: int, max_tokens: int | None = None
    ) -> list[tuple[EncodedRow, Encoding]]:
        """The text in overlapping windows of at most `max_tokens` tokens (default, and most: the model's).

        before: a text that each window holds in full, as a question: before the text, or behind it where the tokenizer
        pads on the left. stride: tokens that neighbours share.
        Raises Unprocessable where a text is empty, `before` leaves no room, or there would be too many windows.
        """
        if not text or before == "":
            raise Unprocessable("inputs holds an empty text: every text needs at least one character")
        most = min(max_tokens or self.max_tokens, self.max_tokens)
        fixed = self.exact.num_special_tokens_to_add(before is not None)
        if before is not None:
            fixed += count_up_to(most, [before[: self.max_characters]], self._count)
        plan = WindowPlan.of(most, fixed, stride)
        if len(text) > min(MAX_CHARACTERS, MAX_WINDOWS * plan.step * CHARACTERS_PER_TOKEN):
            raise self._too_many(f"{len(text):,} characters")
        plan.check_total(text, self._count)
        texts = (text, before) if before is None or self._is_text_first else (before, text)
        strategy = "longest_first" if before is None else ("only_first", "only_second")[self.text_sequence]
        first = self._tokenize(self._file.cutter(most, stride=plan.stride, strategy=strategy), *texts)
        found = [first, *first.overflowing]
        if len(found) > MAX_WINDOWS:
            raise self._too_many(f"{len(found):,} windows")
        return [(self._row(encoding, ""), encoding) for encoding in found]

    @property
    def text_sequence(self) -> int:
        """Which sequence of a window of two texts is the text that was cut into windows: 0 or 1."""
        return 0 if self._is_text_first else 1

    def frame(self, *, is_pair: bool) -> list[tuple[int | None, int]]:
        """The id and token type of each special token of a text or pair, and (None, type) where a text's tokens go."""
        encoding = self.exact.encode("a", "a" if is_pair else None)
        parts = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
        frame: list[tuple[int | None, int]] = []
        for sequence, tokens in groupby(parts, key=itemgetter(2)):
            found = [(token if sequence is None else None, kind) for token, kind, _ in tokens]
            frame += found if sequence is None else found[:1]
        return frame

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text without special tokens. At most `max_characters` are read."""
        ids: list[int] = self._tokenize(self.exact, text[: self.max_characters], special=False).ids
        return ids

    def split(self, text: str, *, special: bool = True) -> Encoding:
        """A text's tokens, as many as there are. Raises Unprocessable past `max_characters` or `MAX_TEXT_TOKENS`."""
        if len(text) > self.max_characters:
            raise Unprocessable(
                f"the text has {len(text):,} characters, this model's tokenizer reads at most {self.max_characters:,}: "
                "send it in parts"
            )
        if are_too_many(MAX_TEXT_TOKENS, [text], self._count):
            raise Unprocessable(f"the text has more than {MAX_TEXT_TOKENS:,} tokens: send it in parts")
        return self._tokenize(self.exact, text, special=special)

    def _count(self, part: str) -> int:
        return len(self._tokenize(self.exact, part, special=False))

    def refuse_absent(self, ids: Sequence[int], field: str) -> None:
        """Raise Unprocessable where the model has no embedding for one of the ids. field: of the request."""
        found = next((token for token in ids if token in self.absent), None)
        if found is not None:
            raise Unprocessable(
                f"{field} has the token {self.absent[found]!r} (id {found}), for which this model has no embedding: "
                "leave it out"
            )

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary, None for another text."""
        found: int | None = self.exact.token_to_id(token)
        return found

    def token_of(self, token_id: int) -> str:
        """The vocabulary's text of a token."""
        return str(self.exact.id_to_token(token_id))

    def join(self, tokens: list[str]) -> str:
        """Join tokens to text as `convert_tokens_to_string` of transformers' fast tokenizers does."""
        decoder = self.exact.decoder
        return str(decoder.decode(tokens)) if decoder is not None else " ".join(tokens)

    def has_id(self, token_id: int) -> bool:
        """Whether the vocabulary has a token of this id."""
        return self.exact.id_to_token(token_id) is not None

    def read(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Decode ids."""
        return str(self.exact.decode(ids, skip_special_tokens=skip_special_tokens))

    @staticmethod
    def _tokenize(tokenizer: Tokenizer, text: str, pair: str | None = None, *, special: bool = True) -> Encoding:
        """The encoding of a text or pair. Of a long one without the GIL, which `Tokenizer.encode` holds (0.23)."""
        if len(text) + len(pair or "") <= LONG_CHARACTERS:
            return tokenizer.encode(text, pair, add_special_tokens=special)
        for each in (text, pair or ""):
            if not each.isascii() and expands(each, MAX_CHARACTERS):
                raise Unprocessable(
                    f"inputs has a text of {len(each):,} characters that stand for far more, such as ligatures of "
                    "whole phrases: write them out, and send the text in parts"
                )
        return tokenizer.encode_batch([text if pair is None else (text, pair)], add_special_tokens=special)[0]

    def max_row_tokens(self, parameters: TextParameters | None, max_tokens: int | None) -> int:
        """The most tokens of a row: the least of the model's limit and those of the caller and the request."""
        wanted = parameters.max_tokens if parameters is not None else None
        return min(self.max_tokens, max_tokens or self.max_tokens, wanted or self.max_tokens)

    def _row(self, encoding: Encoding, batch_key: str) -> EncodedRow:
        count_tokens.get()(len(encoding))
        if not len(encoding):
            raise Unprocessable("inputs holds a text without a single token: write something the tokenizer knows")
        if self.absent:
            self.refuse_absent(encoding.ids, "inputs")
        types = bytes(encoding.type_ids) if self._has_types and any(encoding.type_ids) else b""
        if types and isinstance(self._types, int) and max(types) >= self._types:
            raise Unprocessable(
                f"inputs is a pair of texts, and gets the token type {max(types)}; this model has embeddings for "
                f"{self._types} (type_vocab_size in config.json): send one text, or log the model again with a "
                "tokenizer whose model_input_names in tokenizer_config.json has no token_type_ids"
            )
        return EncodedRow(len(encoding), array("i", encoding.ids).tobytes(), types, batch_key)

    def _too_long(self, size: str, max_tokens: int) -> Unprocessable:
        return Unprocessable(
            f"inputs has {size}, this model takes at most {max_tokens:,} tokens: shorten the text, "
            'or pass "parameters": {"truncate": true}'
        )

    def _too_many(self, size: str) -> Unprocessable:
        return Unprocessable(
            f"inputs has {size}; a text may be cut into at most {MAX_WINDOWS} windows of this model: send it in parts"
        )
