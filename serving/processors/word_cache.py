"""A cache of words' token ids: a BERT tokenizer's ids of a text, more than ten times faster.

BERT's normalizer works on single characters, its pre-tokenizer splits at every space, and WordPiece reads one word at a
time (tokenizers 0.22). So a text's ids are the ids of its words between spaces, one after the other. Text has few
different words, and each is tokenized once. Tokenizers for which a space can belong to a word get no cache.
"""

from array import array

from tokenizers import Tokenizer

MAX_WORDS = 1 << 16
"""The cache is emptied at this size. Untuned: about 10 MB."""
MAX_CHARACTERS = 32
"""Longer words are not cached. Untuned: words of a language are shorter."""
LONG_CHARACTERS = 1024
"""A longer word is tokenized without the GIL. Untuned: 1,024 Chinese characters, each a word to BERT, take 5 ms."""
NORMALIZERS = (None, "BertNormalizer")
PRE_TOKENIZERS = ("BertPreTokenizer",)


class WordCache(dict[str, bytes]):
    """Word → ids, int32 bytes. A missing word is tokenized when it is looked up."""

    def __init__(self, tokenizer: Tokenizer, before: bytes, after: bytes) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._before, self._after = before, after

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "WordCache | None":
        """The cache of a tokenizer that neither truncates nor pads; None where a word's ids can depend on the next."""
        if (
            _kind(tokenizer.normalizer) not in NORMALIZERS
            or _kind(tokenizer.pre_tokenizer) not in PRE_TOKENIZERS
            or _kind(tokenizer.model) != "WordPiece"
            or any(" " in token.content for token in tokenizer.get_added_tokens_decoder().values())
        ):
            return None
        around = tokenizer.encode("a")  # special tokens come before and after the text
        mask = around.special_tokens_mask
        start, length = mask.index(0), mask.count(0)
        return cls(tokenizer, _pack(around.ids[:start]), _pack(around.ids[start + length :]))

    def encode(self, text: str) -> bytes:
        """The ids of a text with the special tokens around it, int32 bytes."""
        return self._before + b"".join([self[word] for word in text.split(" ")]) + self._after

    def __missing__(self, word: str) -> bytes:
        if len(word) > LONG_CHARACTERS:  # without the GIL, which `encode` holds (tokenizers 0.23)
            return _pack(self._tokenizer.encode_batch([word], add_special_tokens=False)[0].ids)
        ids = _pack(self._tokenizer.encode(word, add_special_tokens=False).ids)
        if len(word) <= MAX_CHARACTERS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _kind(part: object) -> str | None:
    return None if part is None else type(part).__name__


def _pack(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()
