"""Benchmark (d): tokens/s and time to the first token of streamed completions, against what transformers does: (a) all
prompts known in advance through `generate_batch`, (b) `transformers serve` with continuous batching, (c) one prompt
after the other through `generate`. Then the time to the first token of prompts with a system prompt of their own, and
of prompts that share one, in turns.
"""

import contextlib
import importlib.util
import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.headwaiter_server import MODEL, headwaiter
from bench.models import encoder_folder, small_llama
from bench.processes import free_port, run_module, serving
from bench.prompts import MAX_WORDS, MIN_WORDS, make_prompts
from bench.report import rate, table
from bench.results import StreamResult, run_streams
from bench.texts import read_words

STREAMS = (1, 8, 32)
NEW_TOKENS = 48
PROMPTS = 40
ROUNDS = 3
"""Of each number of streams; the one with the median rate is reported."""
PEER = "transformers serve"
GOAL = 0.85
SYSTEM_WORDS, QUESTION_WORDS = 500, 20
"""Words, which are as many tokens, of a system prompt and of what follows it."""
QUESTIONS, TURNS = 8, 5
SOONER_GOAL = 3.0


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5 only a few prompts are measured."""
    folder = small_llama()
    words = read_words(encoder_folder() / "vocab.txt")
    prompts = make_prompts(PROMPTS if seconds >= 5 else 8, words)
    results: dict[str, list[StreamResult]] = {}
    with headwaiter(folder, task="text-generation") as (server, engine):
        root = server.url.partition("/models/")[0]
        results["Headwaiter"] = _stream(root, MODEL, prompts)
        system_prompts = _time_system_prompts(root, words, TURNS if seconds >= 5 else 1)
    known = _bare(folder, prompts, "generate_batch", engine.dtype)
    single = _bare(folder, prompts[: max(4, len(prompts) // 8)], "generate", engine.dtype)
    bound = _bare(folder, prompts[:8], "products", engine.dtype)
    with _transformers_serve(folder, engine.dtype) as root:
        if root:
            results[PEER] = _stream(root, str(folder), prompts)
    return "\n".join(
        [
            "## Generation: streamed completions of a small Llama (6 layers, 256 wide)",
            "",
            f"{len(prompts)} prompts of {MIN_WORDS} to {MAX_WORDS} words, {NEW_TOKENS} new tokens each, greedy, all in "
            f"{engine.dtype}.",
            f"Known in advance, through `generate_batch`: {rate(known)} tokens/s. One after the other, through "
            f"`generate`: {rate(single)} tokens/s. The products of one text at a time alone would allow {rate(bound)}.",
            "",
            _table(results, known, single),
            "",
            _verdict(results, known),
            "",
            system_prompts,
        ]
    )


def _bare(folder: Path, prompts: Sequence[str], way: str, dtype: str) -> float:
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as scratch:
        lines = Path(scratch) / "prompts.txt"
        lines.write_text("\n".join(prompts), encoding="utf-8")
        arguments = ["bench.bare_generation", "--model", str(folder), "--prompts", str(lines), "--way", way]
        arguments += ["--dtype", dtype]
        printed = run_module([*arguments, "--new-tokens", str(NEW_TOKENS)], os.environ)
        return float(json.loads(printed.splitlines()[-1])["tokens_per_second"])


def make_bodies(model: str, prompts: Sequence[str], new_tokens: int = NEW_TOKENS) -> list[dict[str, object]]:
    """Bodies of `/v1/completions` for the streaming client."""
    asked = {"model": model, "max_tokens": new_tokens, "stream": True, "temperature": 0}
    return [asked | {"prompt": prompt, "stream_options": {"include_usage": True}} for prompt in prompts]


def _stream(root: str, model: str, prompts: Sequence[str]) -> list[StreamResult]:
    url, bodies = f"{root}/v1/completions", make_bodies(model, prompts)
    run_streams(url, bodies[:4], 4)
    results = []
    for streams in STREAMS:
        rounds = [
            run_streams(url, bodies[: max(4, min(len(bodies), 8 * streams))], streams)
            for _ in range(ROUNDS if len(bodies) == PROMPTS else 1)
        ]
        results.append(sorted(rounds, key=lambda each: each.tokens_per_second)[len(rounds) // 2])
    return results


def _time_system_prompts(root: str, words: Sequence[str], turns: int) -> str:
    """The time to the first token of prompts with a system prompt of their own, and of prompts that share one.

    Both have as many tokens and the same questions; they run in turns. Told is the median of the turns' p50.
    """
    rng = random.Random(7)

    def draw(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    def time_first(prompts: Sequence[str]) -> float:
        return run_streams(f"{root}/v1/completions", make_bodies(MODEL, prompts, 2), 1).first_token_p50_ms

    system = draw(SYSTEM_WORDS)
    time_first([f"{system} {draw(QUESTION_WORDS)}" for _ in range(2)])
    own_times, shared_times = [], []
    for _ in range(turns):
        questions = [draw(QUESTION_WORDS) for _ in range(QUESTIONS)]
        own_times.append(time_first([f"{draw(SYSTEM_WORDS)} {question}" for question in questions]))
        shared_times.append(time_first([f"{system} {question}" for question in questions]))
    own, shared = median(own_times), median(shared_times)
    return (
        f"The first token of a system prompt of {SYSTEM_WORDS} tokens and {QUESTION_WORDS} more, one stream: "
        f"{own:.1f} ms with a system prompt of its own, {shared:.1f} ms with one that an earlier prompt had.\n\n"
        f"Goal, {SOONER_GOAL:.0f} times sooner: {own / shared:.1f}, "
        f"{'reached' if own >= SOONER_GOAL * shared else 'missed'}."
    )


@contextlib.contextmanager
def _transformers_serve(folder: Path, dtype: str) -> Iterator[str]:
    """The URL of a running server; empty where what it needs is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("openai", "accelerate", "fastapi")):
        yield ""
        return
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    command = ["transformers.cli.transformers", "serve", str(folder), "--continuous-batching", "--device", "cpu"]
    command += ["--dtype", dtype, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--cb-block-size", "32", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "1024"]
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as home:
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        with serving(command, environment, f"{root}/health", Path(home) / "serve.log"):
            yield root


def _table(results: dict[str, list[StreamResult]], known: float, single: float) -> str:
    header = ["server", "streams", "tokens/s", "× known in advance", "× one by one", "first token p50 ms", "p99 ms"]
    rows = [
        [
            server,
            str(each.streams),
            rate(each.tokens_per_second),
            f"{each.tokens_per_second / known:.2f}",
            f"{each.tokens_per_second / single:.2f}",
            f"{each.first_token_p50_ms:.0f}",
            f"{each.first_token_p99_ms:.0f}",
        ]
        for server, runs in results.items()
        for each in runs
    ]
    return table(header, rows)


def _verdict(results: dict[str, list[StreamResult]], known: float) -> str:
    ours = results["Headwaiter"][-1].tokens_per_second
    reached = "reached" if ours >= GOAL * known else "missed"
    text = f"Goal, {GOAL} of the rate with all prompts known in advance: {ours / known:.2f}, {reached}."
    if PEER in results:
        return text + f" Against `{PEER}`: {ours / results[PEER][-1].tokens_per_second:.2f}."
    return text + f" `{PEER}` was not measured: install transformers[serving]."
