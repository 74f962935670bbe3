"""The lengths of the rows that a proof runs. They depend on the model alone, so every load of it proves the same.

Some rows are longer than every span within which attention works, and all are short enough to be cheap. No clock is
read: a busy machine would prove less than a quiet one.
"""

import re
from collections.abc import Iterator

from torch.nn import Embedding, Module

from serving.engine.model import Model

SHORT = (9, 3, 20, 5)
"""Tokens of the short rows: few, in no order, and on both sides of a convolution's width."""
MIDDLE = 70
LONG = 320
"""Tokens of the longest row, unless the configuration states a span that is longer or the model is large."""
MAX_TOKENS = 4096
"""Longer rows are not run: attention may take more memory than the machine has."""
PROOF_MULTIPLICATIONS = 2 * 10**11
"""In a forward pass over the longest row of a proof: some 2 seconds on two cores. Untuned."""
SPANS = re.compile(r"(window(_size|_len)?|block_size|chunk_(size|length)|radius|distance|position_buckets)\Z")
"""Keys of a configuration that state a number of tokens within which attention works, or by which it cuts rows."""
OWN_SPANS = ("local_attention", "num_landmarks", "segment_means_seq_len", "local_transformer_stride")
"""Keys of ModernBERT, Nyströmformer and CANINE with the same meaning."""


def probe_lengths(model: Model) -> list[int]:
    """Tokens of the rows of a proof, each at most the model's limit: the longest, the short ones, two thirds of it.

    So two long rows of different lengths share a batch, each longer than every span that `SPANS` finds.
    """
    limit = model.contract.max_tokens
    wanted = max(LONG, max(_spans(model.module)) * 3 // 2 + 3)
    affordable = max(MIDDLE, longest_affordable(model, PROOF_MULTIPLICATIONS))
    longest = min(limit, wanted, affordable)
    return [longest, *(min(length, limit) for length in (*SHORT, MIDDLE)), max(1, longest * 2 // 3)]


def longest_affordable(model: Model, multiplications: int) -> int:
    """The most tokens of a row whose forward pass takes at most `multiplications`.

    They are 1 to `MAX_TOKENS` and at most the model's limit. A token is multiplied with each weight once, except those
    of embeddings.
    """
    most = min(model.contract.max_tokens, MAX_TOKENS)
    return max(1, min(most, multiplications // max(1, count_weights(model.module))))


def _spans(module: Module) -> Iterator[int]:
    """Spans of attention that the module's configurations state, in tokens, and 0."""
    yield 0
    configs = {id(config): config for part in module.modules() if (config := getattr(part, "config", None))}
    for config in configs.values():
        for name, value in vars(config).items():
            if not (SPANS.search(name) or name in OWN_SPANS):
                continue
            # up to this number of blocks BigBird uses full attention (transformers 5.23)
            blocks = 5 + 2 * getattr(config, "num_random_blocks", -2) if name == "block_size" else 1
            values = value if isinstance(value, list | tuple) else [value]
            yield from (span * blocks for span in values if isinstance(span, int))


def count_weights(module: Module) -> int:
    """Weights that each token is multiplied with."""
    parts = (part for part in module.modules() if not isinstance(part, Embedding))
    weights = {id(each): each.numel() for part in parts for each in part.parameters(recurse=False)}
    return sum(weights.values())
