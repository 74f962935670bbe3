"""A scheduler for a loaded model: its decoder checked, its cache bounded."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from registry.contract import Contract
from serving.engine.generation.scheduler import Scheduler
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.verification import check_sampling, choose_decoder, try_out
from serving.errors import EngineError
from serving.processors.tokenizer import TextEncoder
from serving.runtime.limits import available_memory, own_groups

logger = logging.getLogger("headwaiter.engine")

MAX_ROWS = {"cpu": 64, "cuda": 256}
"""Rows that are written together at most, by kind of device; ours."""
PASS_TOKENS = {"cpu": 192, "cuda": 512}
"""Tokens of rows that join in one forward pass, by kind of device: a CPU is busy with fewer; ours."""
HOST_BYTES = 1 << 30
"""Of the cache on a CPU, unless that is more than a tenth of what is free; ours."""
DEVICE_SHARE = 0.5
"""Of what a GPU has free once the model is loaded; ours."""
GROWTH = 2
"""A cache that grows is there twice for a moment."""


def make_scheduler(
    module: Any,
    contract: Contract,
    encoder: TextEncoder,
    cache_bytes: int = 0,
    note: Callable[[str], None] = logger.warning,
) -> Scheduler:
    """Looks how the model must be called; raises EngineError. cache_bytes: of keys and values, 0 for a default.

    note: is told which better ways are refused, and why.
    """
    vocabulary = contract.processor.vocabulary
    decoder = choose_decoder(module, contract.processor.pad_token_id, vocabulary, note)
    check_sampling(decoder, vocabulary)
    single = None
    if module.dtype != torch.float32 and not isinstance(decoder, SequentialDecoder):
        single = SequentialDecoder(module, contract.processor.pad_token_id)
        if problem := try_out(single, vocabulary):
            note(f"rows with a seed share their steps: {problem}")
            single = None

    def verify() -> None:
        problem = try_out(type(decoder)(module, contract.processor.pad_token_id), vocabulary)
        if problem is not None:
            raise EngineError(f"the model does not work any more: {problem}")

    rows = MAX_ROWS.get(module.device.type, MAX_ROWS["cpu"])
    budget = (cache_bytes or default_bytes(module.device)) // GROWTH
    limit = budget // decoder.token_bytes if decoder.token_bytes else rows * contract.max_tokens
    return Scheduler(
        decoder,
        encoder,
        isolated=single,
        limit_tokens=max(limit, contract.max_tokens),
        max_rows=rows,
        pass_tokens=PASS_TOKENS.get(module.device.type, PASS_TOKENS["cpu"]),
        verify=verify,
    )


def default_bytes(device: torch.device) -> int:
    """A share of what is free, never most of it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE)
    return min(HOST_BYTES, available_memory(own_groups()) // 10)
