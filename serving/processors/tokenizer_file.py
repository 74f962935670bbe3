"""A `tokenizer.json` in memory, and the copies of it that truncate.

Truncation is a setting of a tokenizer, and changing it while another thread encodes gives wrong rows, so each thread
truncates with a copy of its own. A copy shares the vocabulary, because reading it again would stop the event loop.
"""

import threading
from pathlib import Path
from weakref import WeakValueDictionary

from tokenizers import Tokenizer

from registry.contract import Side
from serving.processors.word_cache import WordCache


class TokenizerFile:
    """A tokenizer's file in memory, shared by all versions that have the same file.

    `tokenizers` (0.23) holds the GIL while it reads or writes one, so the process' event loop stands still meanwhile,
    also when a thread does it: 0.4 s for a file of 11 MB (Intel Xeon with AMX, AVX-512 and VNNI).
    """

    def __init__(self, path: Path) -> None:
        self.exact = Tokenizer.from_file(str(path))
        self.exact.no_padding()
        self.exact.no_truncation()
        self.words = WordCache.of(self.exact)
        self._thread = threading.local()

    @classmethod
    def shared(cls, path: Path, digest: str) -> "TokenizerFile":
        """The file of this digest, read at its first use."""
        return _shared.get(digest) or _shared.setdefault(digest, cls(path))

    def cutter(
        self, max_tokens: int, *, stride: int = 0, strategy: str = "longest_first", direction: Side = "right"
    ) -> Tokenizer:
        """The thread's copy that truncates, with these settings until the next call.

        A copy per setting would cost too much with many added tokens: 7 µs for each.
        """
        cutting: Tokenizer | None = getattr(self._thread, "cutting", None)
        if cutting is None:
            cutting = self._thread.cutting = _copy(self.exact)
        cutting.enable_truncation(max_tokens, stride=stride, strategy=strategy, direction=direction)
        return cutting


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with settings of its own that shares all else but the table of added tokens.

    Added by ascending ids, the tokens get the ids that they have.
    """
    copied = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (found := getattr(tokenizer, part)) is not None:
            setattr(copied, part, found)
    copied.add_tokens([token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())])
    return copied


_shared: WeakValueDictionary[str, TokenizerFile] = WeakValueDictionary()
"""The files in use, by the file's digest."""
