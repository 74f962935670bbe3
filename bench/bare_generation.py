"""Generation by transformers without a server, in a process of its own: all prompts known in advance through
`generate_batch`, or one after the other through `generate`. Or the bound of one text at a time, what its products alone
would allow. Tokens a second as JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from serving.engine.optimizations.prepacked_weights import prepack_weights

BLOCK_TOKENS = 32


def generate_batch(model: Any, prompts: list[list[int]], new_tokens: int) -> int:
    """Continuous batching over all of them; the number of new tokens."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    longest = sum(len(prompt) + new_tokens for prompt in prompts)
    found = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=model.config.pad_token_id
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            block_size=BLOCK_TOKENS, num_blocks=longest // BLOCK_TOKENS + 2 * len(prompts), max_batch_tokens=1024
        ),
    )
    return sum(len(output.generated_tokens) for output in found.values())


def generate(model: Any, prompts: list[list[int]], new_tokens: int) -> int:
    """One after the other; the number of new tokens."""
    written = 0
    for prompt in prompts:
        ids = torch.tensor([prompt])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
        written += made.shape[1] - len(prompt)
    return written


@torch.inference_mode()
def products(model: Any, prompts: list[list[int]], new_tokens: int) -> int:
    """Every weight times one row, as often as there would be tokens; their number."""
    prepack_weights(model, lambda: None)
    layers = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    rows = [torch.ones(1, each.in_features, dtype=model.dtype) for each in layers]
    for _ in range(len(prompts) * new_tokens):
        for layer, row in zip(layers, rows, strict=True):
            layer(row)
    return len(prompts) * new_tokens


WAYS = {"generate_batch": generate_batch, "generate": generate, "products": products}


def main() -> None:
    """Parse the arguments, warm up, measure, print."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(prog="python -m bench.bare_generation")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--prompts", required=True, type=Path, help="file with one prompt per line")
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval()
    prompts = [tokenizer(line)["input_ids"] for line in options.prompts.read_text(encoding="utf-8").splitlines()]
    way = WAYS[options.way]
    way(model, prompts[:2], 4)
    best = 0.0
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        began = time.perf_counter()
        written = way(model, prompts, options.new_tokens)
        best = max(best, written / (time.perf_counter() - began))
    print(json.dumps({"tokens_per_second": best}))


if __name__ == "__main__":
    main()
