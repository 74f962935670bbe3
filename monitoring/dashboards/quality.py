"""Model quality: what the model answers now against the sample that was recorded when it was logged."""

from monitoring.alerts import DRIFT_LIMIT
from monitoring.panels import BAD, GOOD, NEAR, Dashboard, Panel, legend, quantiles, stat
from monitoring.queries import FILTER, MODEL_VERSION, each, quantile, rate
from monitoring.recordings import DRIFT, SHARE_NOW

SHIFTED = ((0, GOOD), (0.1, NEAR), (DRIFT_LIMIT, BAD))


def _worst(of: str, what: str) -> Panel:
    query = f'max({DRIFT}{{{FILTER},of="{of}"}})'
    return stat(f"Drift of {what}", "The highest score of the selection.", "short", query, steps=SHIFTED, width=5)


GLANCE = (
    _worst("label", "labels"),
    _worst("confidence", "confidence"),
    _worst("row_tokens", "lengths"),
    stat(
        "Confidence, median",
        "Of the scores of answered labels.",
        "percentunit",
        quantile(0.5, "confidence"),
        width=5,
    ),
    stat("Labels per second", "That were answered.", "short", rate("predictions_total"), width=4),
)


def _against(title: str, of: str, key: str, what: str) -> tuple[Panel, Panel]:
    now = Panel(
        f"{title}, last hour",
        f"{what} of the last hour.",
        "percentunit",
        ((f"{SHARE_NOW[of]}{{{FILTER}}}", legend(*MODEL_VERSION, note=f"{{{{{key}}}}}")),),
        width=12,
        stacked=True,
    )
    baseline = Panel(
        f"{title}, baseline",
        f"{what} of the evaluation sample that was given at logging.",
        "percentunit",
        ((each(f"baseline_{of}_share"), legend(*MODEL_VERSION, note=f"{{{{{key}}}}}")),),
        width=12,
        stacked=True,
    )
    return now, baseline


DRIFT_SCORE = (
    Panel(
        "Drift score",
        "Population stability index of the last hour against the baseline, from 100 answers on. Below 0.1 is the same, "
        "above 0.25 has shifted.",
        "short",
        ((f"{DRIFT}{{{FILTER}}}", legend(*MODEL_VERSION, note="{{of}}")),),
        width=12,
        steps=SHIFTED,
    ),
    Panel(
        "Confidence",
        "Median and 10th percentile of the scores of answered labels.",
        "percentunit",
        quantiles("confidence", *MODEL_VERSION, levels=(0.1, 0.5)),
        width=6,
    ),
    Panel(
        "Length of inputs",
        "Median and 95th percentile of the tokens of a row.",
        "short",
        quantiles("row_tokens", *MODEL_VERSION, levels=(0.5, 0.95)),
        width=6,
    ),
)

DASHBOARD = Dashboard(
    "quality",
    "Model quality",
    "Labels, confidence and input length against the baseline that was recorded at logging.",
    (
        ("At a glance", GLANCE),
        ("Drift", DRIFT_SCORE),
        ("Labels", _against("Label shares", "label", "label", "Share of each answered label")),
        ("Confidence", _against("Confidence", "confidence", "bin", "Share of the scores in each bucket")),
        ("Length", _against("Length of inputs", "row_tokens", "bin", "Share of the rows in each bucket of tokens")),
    ),
)
