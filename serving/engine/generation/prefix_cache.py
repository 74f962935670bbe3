"""Keys and values of the first tokens of prompts, in blocks, for later prompts that begin with the same tokens.

A block is found by the block before it and its own token ids. The ids themselves are compared, no hash stands for them,
so a wrong block is never found. The first block of a prompt is found by the prompt's caller instead of a block: nobody
finds, or can tell by an answer's time, what somebody else's prompts begin with.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

BLOCK_TOKENS = 16
"""Tokens of a block; of what prompts have in common at most as many are computed again. See bench/NOTES.md, Writing
texts."""

LayerStates = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer."""


@dataclass(frozen=True, eq=False)
class Block:
    """keys, values: (layers, heads, BLOCK_TOKENS, size)."""

    keys: torch.Tensor
    values: torch.Tensor


class PrefixCache:
    """The blocks that were used last, at most `max_blocks`. `len()` counts them."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[tuple[Block | str, tuple[int, ...]], Block] = OrderedDict()
        """By the block before it, or the caller, and its tokens. The one that was used last is at the end.

        A block is used later than those behind it, so it leaves after them.
        """

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, caller: str, tokens: Sequence[int]) -> list[Block]:
        """The blocks of the longest known prefix of a prompt, in order. Its last token is in none of them."""
        found: list[Block] = []
        before: Block | str = caller
        names = []
        for part in _split(tokens[:-1]):
            block = self._blocks.get((before, part))
            if block is None:
                break
            names.append((before, part))
            found.append(block)
            before = block
        self._use(names)
        return found

    def add(self, caller: str, tokens: Sequence[int], states: LayerStates) -> None:
        """Keep the blocks of a prompt that are new, of its first `max_blocks`. states: (heads, tokens, size) each.

        Raises RuntimeError where layers differ in size.
        """
        before: Block | str = caller
        names = []
        for number, part in enumerate(_split(tokens[: self._max_blocks * BLOCK_TOKENS])):
            name = (before, part)
            names.append(name)
            if name not in self._blocks:
                if len(self._blocks) == self._max_blocks:
                    self._blocks.popitem(last=False)  # none of this prompt: those were used just now
                span = slice(number * BLOCK_TOKENS, (number + 1) * BLOCK_TOKENS)
                keys, values = (torch.stack([layer[half][:, span] for layer in states]) for half in (0, 1))
                self._blocks[name] = Block(keys, values)
            self._blocks.move_to_end(name)
            before = self._blocks[name]
        self._use(names)

    def _use(self, names: Sequence[tuple[Block | str, tuple[int, ...]]]) -> None:
        """Let the blocks of a prompt be the ones that were used last, the first of them last of all."""
        for name in reversed(names):
            self._blocks.move_to_end(name)


def lay_out(prefixes: Sequence[Sequence[Block]], lengths: Sequence[int]) -> LayerStates:
    """The first tokens of several prompts, padded on the left: (rows, heads, longest, size) each.

    prefixes: the blocks of each prompt. lengths: how many of their tokens to take; not 0 for all of them.
    """
    halves = []
    longest = max(lengths)
    some = next(blocks[0] for blocks in prefixes if blocks)
    for name in ("keys", "values"):
        layers, heads, _, size = getattr(some, name).shape
        states = getattr(some, name).new_zeros((layers, len(prefixes), heads, longest, size))
        for row, (blocks, length) in enumerate(zip(prefixes, lengths, strict=True)):
            if length:
                known = torch.cat([getattr(block, name) for block in blocks], dim=2)
                states[:, row, :, longest - length :] = known[:, :, :length]
        halves.append(states)
    return list(zip(*halves, strict=True))


def _split(tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The tokens of each whole block."""
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        yield tuple(tokens[end - BLOCK_TOKENS : end])
