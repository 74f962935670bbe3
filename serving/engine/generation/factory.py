"""A scheduler for a loaded model: verifies its decoder and sizes its cache."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from transformers import StopStringCriteria

from registry.contract import Contract
from serving.engine.generation.scheduler import Scheduler
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.verification import check_sampling, choose_decoder, try_out
from serving.engine.optimizations.int8_products import precision
from serving.errors import EngineError
from serving.processors.tokenizer import TextEncoder
from serving.runtime.limits import available_memory, own_groups

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("headwaiter.engine")

MAX_ROWS = {"cpu": 64, "cuda": 256}
"""Most sequences at a time, by device type. Untuned."""
PASS_TOKENS = {"cpu": 192, "cuda": 512}
"""Tokens of one prefill, by device type. Tuned on a CPU, see bench/NOTES.md, Writing texts; untuned on a GPU."""
HOST_BYTES = 1 << 30
"""Size of the cache on a CPU, at most a tenth of the free memory. Untuned."""
DEVICE_SHARE = 0.5
"""Share of a GPU's free memory for the cache, once the model is loaded. Untuned: leaves room for activations."""
GROWTH = 2
"""A growing cache briefly exists twice."""


def make_scheduler(
    module: "PreTrainedModel",
    contract: Contract,
    encoder: TextEncoder,
    cache_bytes: int = 0,
    note: Callable[[str], None] = logger.warning,
    *,
    stop_check: StopStringCriteria | None = None,
    is_sequential: bool = False,
) -> Scheduler:
    """Choose and verify a model's decoder. cache_bytes: of keys and values, 0 for a default. Blocks.

    note: called with the reason for each better decoder that is refused. stop_check: the checkpoint's stop strings.
    is_sequential: as of `choose_decoder`. Raises EngineError where none fits.
    """
    vocabulary = contract.processor.vocabulary
    decoder = choose_decoder(module, contract.processor.pad_token_id, vocabulary, note, is_sequential=is_sequential)
    check_sampling(decoder, vocabulary)
    single = None
    if precision(module) != "float32" and not isinstance(decoder, SequentialDecoder):
        single = SequentialDecoder(module, contract.processor.pad_token_id)
        if problem := try_out(single, vocabulary):
            note(f"rows with a seed share their steps: {problem}")
            single = None

    def verify() -> None:
        probe = type(decoder)(module, contract.processor.pad_token_id)  # the decoder itself has rows
        try:
            problem = try_out(probe, vocabulary)
        finally:
            probe.unhook()
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
        stop_check=stop_check,
        verify=verify,
    )


def default_bytes(device: torch.device) -> int:
    """Default bytes of the cache: a share of the device's free memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE)
    return min(HOST_BYTES, available_memory(own_groups()) // 10)
