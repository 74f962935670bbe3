"""Generation: how soon and how fast text comes, and how full the running batch and its cache are."""

from monitoring.panels import BAD, GOOD, NEAR, Dashboard, Panel, by, legend, quantiles, stat
from monitoring.queries import MODEL_VERSION, quantile, rate, total

CACHE_SHARE = f"{total('cache_used_tokens', *MODEL_VERSION)} / {total('cache_limit_tokens', *MODEL_VERSION)}"
FULL_CACHE = ((0, GOOD), (0.9, NEAR), (0.98, BAD))

GLANCE = (
    stat(
        "Time to the first token, p99",
        "From a request to its first new token.",
        "s",
        quantile(0.99, "time_to_first_token_seconds"),
        width=5,
    ),
    stat(
        "Time per token, p99",
        "Between a request's new tokens after the first, on average.",
        "s",
        quantile(0.99, "time_per_output_token_seconds"),
        width=5,
    ),
    stat("New tokens per second", "Of the selection.", "short", rate("generated_tokens_total"), width=5),
    stat(
        "Waiting rows",
        "Sequences that wait to be admitted to the decode batch.",
        "short",
        total("waiting_rows"),
        width=4,
    ),
    stat(
        "Cache in use",
        "Of the fullest key-value cache.",
        "percentunit",
        f"max({CACHE_SHARE})",
        steps=FULL_CACHE,
        width=5,
    ),
)

SPEED = (
    Panel(
        "Time to the first token",
        "From a request to its first new token.",
        "s",
        quantiles("time_to_first_token_seconds", *MODEL_VERSION),
    ),
    Panel(
        "Time per token",
        "Mean time between a request's new tokens after the first.",
        "s",
        quantiles("time_per_output_token_seconds", *MODEL_VERSION),
    ),
    Panel(
        "Tokens per second",
        "Prompt tokens that are taken in, those of them that an earlier prompt began with, and new tokens.",
        "short",
        (
            (rate("prompt_tokens_total", *MODEL_VERSION), legend(*MODEL_VERSION, note="prompt")),
            (rate("reused_prompt_tokens_total", *MODEL_VERSION), legend(*MODEL_VERSION, note="prompt, known")),
            (rate("generated_tokens_total", *MODEL_VERSION), legend(*MODEL_VERSION, note="new")),
        ),
    ),
)

BATCH = (
    Panel(
        "Running rows", "Sequences in the decode batch.", "short", by(total, "running_rows", *MODEL_VERSION), width=6
    ),
    Panel(
        "Waiting rows",
        "Sequences that wait to be admitted to the decode batch.",
        "short",
        by(total, "waiting_rows", *MODEL_VERSION),
        width=6,
    ),
    Panel(
        "Cache in use",
        "Share of the key-value cache that is in use. Near 1 rows are sent back to wait.",
        "percentunit",
        ((CACHE_SHARE, legend(*MODEL_VERSION)),),
        width=6,
        steps=FULL_CACHE,
    ),
    Panel(
        "Preemptions",
        "Sequences that lost their place in the cache and are prefilled again, a second.",
        "short",
        by(rate, "preemptions_total", *MODEL_VERSION),
        width=6,
        steps=((0, GOOD), (0.1, NEAR)),
    ),
)

DASHBOARD = Dashboard(
    "generation",
    "Generation",
    "Speed of generated text, and the running batch with its cache.",
    (("At a glance", GLANCE), ("Speed", SPEED), ("Batch and cache", BATCH)),
)
