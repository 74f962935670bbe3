"""Rollout: which version answers, how it changed, and the old one beside the new."""

from monitoring.metrics import VERDICTS
from monitoring.panels import BAD, GOOD, MIN_ERRORS, NEAR, Dashboard, Panel, by, legend, quantiles, stat
from monitoring.queries import MODEL_VERSION, OF_MODEL, each, mean, quantile_so_far, rate, share, share_of_all, total

JUDGED = ((-1, BAD), (0, NEAR), (1, GOOD))
WORDS = tuple(sorted((value, word) for word, value in VERDICTS.items()))

GLANCE = (
    stat(
        "Candidate",
        "The version that a rollout judges, and its share of requests. Without a value there is no rollout.",
        "percentunit",
        each("rollout_weight"),
        name="{{model}}/{{version}}",
    ),
    stat("Its share", "The share of requests that it gets.", "percentunit", f"max({each('rollout_weight')})", width=4),
    stat("Its step", "Counted from 0.", "short", f"max({each('rollout_step')})", width=4),
    stat(
        "Verdict",
        "The worst of all guards.",
        "short",
        f"min({each('rollout_verdict')})",
        steps=JUDGED,
        words=WORDS,
        width=5,
    ),
    stat(
        "Agreement",
        "Mean agreement of the candidate's answers with those that clients got.",
        "percentunit",
        mean("rollout_agreement"),
        width=5,
    ),
)

CHANGES = (
    Panel(
        "Shares of versions",
        "Which version answered, of each model's requests.",
        "percentunit",
        (
            (
                share_of_all("request_duration_seconds", *MODEL_VERSION, within=("model",), suffix="_count"),
                legend(*MODEL_VERSION),
            ),
        ),
        width=12,
        stacked=True,
    ),
    Panel(
        "Changes of the live version",
        "Versions that went live or failed to, since the server started.",
        "short",
        by(total, "swap_total", "model", "outcome", filters=OF_MODEL),
        width=6,
    ),
    Panel(
        "Engine restarts",
        "Engines started again after they ended, since the server started. Each has a cause in the log.",
        "short",
        by(total, "engine_restarts_total", *MODEL_VERSION),
        width=6,
        steps=((0, GOOD), (1, BAD)),
    ),
    Panel(
        "Cold requests",
        "Requests that waited until their version was loaded, since the server started.",
        "short",
        by(total, "cold_requests_total", "model", filters=OF_MODEL),
        width=8,
    ),
    Panel(
        "Loads on demand",
        "Loads of versions that requests waited for, since the server started.",
        "short",
        by(total, "loads_on_demand_total", "model", filters=OF_MODEL),
        width=8,
    ),
    Panel(
        "Unloads",
        "Versions that left for want of memory, or as nobody asked for them, since the server started.",
        "short",
        by(total, "unloads_total", "model", "reason", filters=OF_MODEL),
        width=8,
    ),
    Panel(
        "Time to change",
        "p95 from seeing an alias move to serving a version that had to be loaded, since the server started.",
        "s",
        ((quantile_so_far(0.95, "swap_duration_seconds", "model", filters=f'{OF_MODEL},start="cold"'), "{{model}}"),),
        width=12,
    ),
    Panel(
        "Time to roll back",
        "p95 from seeing an alias move to serving a version that was still loaded, since the server started. "
        "Without a value there was no such move yet.",
        "s",
        ((quantile_so_far(0.95, "swap_duration_seconds", "model", filters=f'{OF_MODEL},start="warm"'), "{{model}}"),),
        width=12,
        steps=((0, GOOD), (1, NEAR), (5, BAD)),
    ),
)

GUARDED = (
    Panel(
        "Share of the candidate",
        "The share of requests that a rollout gives to its candidate. Without a value there is no rollout.",
        "percentunit",
        ((each("rollout_weight"), legend(*MODEL_VERSION)),),
        width=8,
    ),
    Panel(
        "Step",
        "The step of a rollout, from 0.",
        "short",
        ((each("rollout_step"), legend(*MODEL_VERSION)),),
        width=4,
    ),
    Panel(
        "Verdicts",
        "What the guards say of the candidate: 1 pass, 0 inconclusive, -1 fail.",
        "short",
        ((each("rollout_verdict"), legend(*MODEL_VERSION, note="{{guard}}")),),
        width=8,
        steps=JUDGED,
        words=WORDS,
    ),
    Panel(
        "Waits for certainty",
        "How much longer than planned a rollout has been in its step, because a guard is inconclusive.",
        "s",
        ((each("rollout_waiting_seconds"), legend(*MODEL_VERSION)),),
        width=4,
    ),
    Panel(
        "Agreement of shadows",
        "The mean agreement of the candidate's answers with those that clients got.",
        "percentunit",
        ((mean("rollout_agreement", *MODEL_VERSION), legend(*MODEL_VERSION)),),
        width=12,
    ),
    Panel(
        "Shadows",
        "Requests a second that the candidate answered, too, and those that were dropped for want of room.",
        "reqps",
        (
            (rate("rollout_shadow_total", *MODEL_VERSION), legend(*MODEL_VERSION, note="compared")),
            (rate("rollout_shadow_dropped_total", *MODEL_VERSION), legend(*MODEL_VERSION, note="dropped")),
        ),
        width=12,
    ),
)

SIDE_BY_SIDE = (
    Panel(
        "Latency by version",
        "p50 and p99 of each version's requests.",
        "s",
        quantiles("request_duration_seconds", *MODEL_VERSION, levels=(0.5, 0.99)),
        width=12,
    ),
    Panel(
        "Server errors by version",
        "Share of 5xx, of each version's requests.",
        "percentunit",
        (
            (
                share("request_duration_seconds", *MODEL_VERSION, part='status=~"5.."', suffix="_count"),
                legend(*MODEL_VERSION),
            ),
        ),
        width=12,
        steps=MIN_ERRORS,
    ),
    Panel(
        "Label shares by version",
        "Which labels are answered: a new version that answers otherwise shows here first.",
        "percentunit",
        (
            (
                share_of_all("predictions_total", *MODEL_VERSION, "label", within=MODEL_VERSION),
                legend(*MODEL_VERSION, note="{{label}}"),
            ),
        ),
        width=12,
        stacked=True,
    ),
    Panel(
        "Confidence by version",
        "Mean and 10th percentile of the scores of answered labels.",
        "percentunit",
        (
            (mean("confidence", *MODEL_VERSION), legend(*MODEL_VERSION, note="mean")),
            *quantiles("confidence", *MODEL_VERSION, levels=(0.1,)),
        ),
        width=12,
    ),
)

DASHBOARD = Dashboard(
    "rollout",
    "Rollout",
    "Which version answers, how it changed, and the old one beside the new. Swaps, and steps and ends of rollouts, are "
    "marked in every panel.",
    (("At a glance", GLANCE), ("Candidate", GUARDED), ("Old beside new", SIDE_BY_SIDE), ("Changes", CHANGES)),
)
