"""Generation: how soon and how fast text comes, and how full the running batch and its cache are."""

from monitoring.panels import Dashboard, Panel, by, legend, quantiles
from monitoring.queries import rate, total

VERSION = ("model", "version")

SPEED = (
    Panel(
        "Time to the first token",
        "From a request to its first new token.",
        "s",
        quantiles("time_to_first_token_seconds", *VERSION),
    ),
    Panel(
        "Time per token",
        "Mean time between a request's new tokens after the first.",
        "s",
        quantiles("time_per_output_token_seconds", *VERSION),
    ),
    Panel(
        "Tokens per second",
        "Prompt tokens that are taken in, and new tokens.",
        "short",
        (
            (rate("prompt_tokens_total", *VERSION), legend(*VERSION, note="prompt")),
            (rate("generated_tokens_total", *VERSION), legend(*VERSION, note="new")),
        ),
    ),
)

BATCH = (
    Panel("Running rows", "Rows that are generated for now.", "short", by(total, "running_rows", *VERSION), width=6),
    Panel(
        "Waiting rows",
        "Rows that wait for a place in the batch.",
        "short",
        by(total, "waiting_rows", *VERSION),
        width=6,
    ),
    Panel(
        "Cache in use",
        "Share of the key-value cache that is in use. Near 1 rows are sent back to wait.",
        "percentunit",
        (
            (
                f"{total('cache_used_tokens', *VERSION)} / {total('cache_limit_tokens', *VERSION)}",
                legend(*VERSION),
            ),
        ),
        width=6,
        steps=((0, "green"), (0.9, "orange"), (0.98, "red")),
    ),
    Panel(
        "Preemptions",
        "Rows that lost their place in the cache and begin again, a second.",
        "short",
        by(rate, "preemptions_total", *VERSION),
        width=6,
        steps=((0, "green"), (0.1, "orange")),
    ),
)

DASHBOARD = Dashboard(
    "generation",
    "Generation",
    "Speed of generated text, and the running batch with its cache.",
    (("Speed", SPEED), ("Batch and cache", BATCH)),
)
