"""Every rule on made-up series, firing and not firing, by Prometheus' own promtool."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerts import RUNBOOKS, alerts
from monitoring.metrics import METRICS, PREFIX
from monitoring.objectives import Objectives
from monitoring.recordings import BUDGET_LEFT, DRIFT, LATENCY_OF_OBJECTIVE, SHARE_NOW, WINDOWS, ratio, records
from tests.abilities import needs

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "monitoring/prometheus/rules.yml"
VERSION = 'model="m",version="1",task="t"'
GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS = {alert.name: alert for alert in alerts(Objectives())}

needs_promtool = needs("promtool")


def requests(failed: int = 0, slow: int = 0, of: int = 1000) -> dict[str, str]:
    """Series of `of` requests a minute, for more than an hour."""
    name, good = "headwaiter_request_duration_seconds", of - failed
    return {
        f'{name}_count{{{VERSION},status="200"}}': f"0+{good}x80",
        f'{name}_count{{{VERSION},status="503"}}': f"0+{failed}x80",
        f'{name}_bucket{{{VERSION},status="200",le="0.5"}}': f"0+{good - slow}x80",
        f'{name}_bucket{{{VERSION},status="503",le="0.5"}}': f"0+{failed}x80",
    }


def latencies(**below: int) -> dict[str, str]:
    """Latency buckets of 1,000 answers a minute, and of 9,000 errors a minute, which must not count.

    below: `_200=990` for 990 answers that took at most 200 ms.
    """
    name = "headwaiter_request_duration_seconds_bucket"
    bounds = [*((str(int(ms[1:]) / 1000), count) for ms, count in below.items()), ("+Inf", 1000)]
    answered = {f'{name}{{{VERSION},status="200",le="{bound}"}}': f"0+{count}x80" for bound, count in bounds}
    return answered | {f'{name}{{{VERSION},status="503",le="{bound}"}}': "0+9000x80" for bound, _ in bounds}


def answers(good: int, confidence: int, short: int, of: int = 100) -> dict[str, str]:
    """The series of a model with `of` answers a minute, and of a baseline with half of the answers in each kind.

    good: answers with the label "good". confidence: answers with a confidence up to 0.7. short: rows up to 8 tokens.
    """
    rest, found = of - good, {}
    for label, count in (("good", good), ("bad", rest)):
        found[f'headwaiter_predictions_total{{{VERSION},label="{label}"}}'] = f"0+{count}x80"
        found[f'headwaiter_baseline_label_share{{{VERSION},label="{label}"}}'] = "0.5x80"
    for name, count, bound in (("confidence", confidence, 0.7), ("row_tokens", short, 8.0)):
        metric = METRICS[name]
        for bucket, le in zip((*metric.buckets, float("inf")), metric.bounds, strict=True):
            cumulated = 0 if bucket < bound else count if bucket < metric.buckets[-1] else of
            found[f'headwaiter_{name}_bucket{{{VERSION},le="{le}"}}'] = f"0+{cumulated}x80"
            then = 0.5 if bucket in (bound, metric.buckets[-1]) else 0
            found[f'headwaiter_baseline_{name}_share{{{VERSION},bin="{le}"}}'] = f"{then}x80"
        found[f"headwaiter_{name}_count{{{VERSION}}}"] = f"0+{of}x80"
    return found


def one(series: str, values: str) -> dict[str, str]:
    return {series: values}


def queue(tokens: int) -> dict[str, str]:
    return {
        f'headwaiter_queue_tokens{{{VERSION},instance="i"}}': f"{tokens}x80",
        f'headwaiter_queue_limit_tokens{{{VERSION},instance="i"}}': "1000x80",
    }


def restarts(values: str) -> dict[str, str]:
    return one(f'headwaiter_engine_restarts_total{{{VERSION},instance="i"}}', values)


def swaps(values: str) -> dict[str, str]:
    return one('headwaiter_swap_total{model="m",outcome="failure",instance="i"}', values)


def registry(up: str, silence: str) -> dict[str, str]:
    return {
        'headwaiter_registry_up{instance="i"}': up,
        'headwaiter_manager_silence_seconds{instance="i"}': silence,
    }


CASES: list[tuple[str, dict[str, str], int]] = [
    # alert, series at one sample a minute, how many alerts fire after 60 minutes
    ("HeadwaiterErrorBudgetBurnFast", requests(failed=20), 1),
    ("HeadwaiterErrorBudgetBurnFast", requests(failed=5), 0),
    ("HeadwaiterErrorBudgetBurnSlow", requests(failed=5), 1),
    ("HeadwaiterErrorBudgetBurnSlow", requests(failed=0), 0),
    ("HeadwaiterLatencyBudgetBurnFast", requests(slow=200), 1),
    ("HeadwaiterLatencyBudgetBurnFast", requests(slow=50), 0),
    ("HeadwaiterLatencyBudgetBurnSlow", requests(slow=50), 1),
    ("HeadwaiterLatencyBudgetBurnSlow", requests(failed=500, slow=1), 0),
    ("HeadwaiterDown", one('up{job="headwaiter",instance="i"}', "1x57 0x20"), 1),
    ("HeadwaiterDown", one('up{job="headwaiter",instance="i"}', "0x50 1x20"), 0),
    ("HeadwaiterDown", one('up{job="other",instance="i"}', "0x80"), 0),
    ("HeadwaiterNoLiveVersion", one('headwaiter_model_live{model="m",instance="i"}', "1x56 0x20"), 1),
    ("HeadwaiterNoLiveVersion", one('headwaiter_model_live{model="m",instance="i"}', "1x58 0x20"), 0),
    ("HeadwaiterSwapFailed", swaps("0x54 1x20"), 1),
    ("HeadwaiterSwapFailed", swaps("0x20 1x80"), 0),
    ("HeadwaiterRolloutStuck", one(f'headwaiter_rollout_waiting_seconds{{{VERSION},instance="i"}}', "3660x80"), 1),
    ("HeadwaiterRolloutStuck", one(f'headwaiter_rollout_waiting_seconds{{{VERSION},instance="i"}}', "3540x80"), 0),
    ("HeadwaiterEngineCrashLoop", restarts("0x49 1x2 2x2 3x20"), 1),
    ("HeadwaiterEngineCrashLoop", restarts("0x49 1x2 2x20"), 0),
    ("HeadwaiterQueueNearBound", queue(900), 1),
    ("HeadwaiterQueueNearBound", queue(700), 0),
    ("HeadwaiterDrift", answers(good=95, confidence=95, short=95), 3),
    ("HeadwaiterDrift", answers(good=55, confidence=55, short=45), 0),
    ("HeadwaiterDrift", answers(good=1, confidence=1, short=1, of=1), 0),
    ("HeadwaiterRegistryUnreachable", registry("0x80", "1x80"), 1),
    ("HeadwaiterRegistryUnreachable", registry("1x80", "90x80"), 1),
    ("HeadwaiterRegistryUnreachable", registry("1x80", "1x80"), 0),
]

RECORDED: list[tuple[dict[str, str], dict[str, dict[str, float]]]] = [
    # series, recorded expression → labels → value after 60 minutes
    (
        requests(failed=100),
        {f"round({ratio('errors', window)}, 0.001)": {'{model="m"}': 0.1} for window in WINDOWS},
    ),
    (requests(), {f"round({ratio('errors', window)}, 0.001)": {'{model="m"}': 0} for window in WINDOWS}),
    (
        requests(failed=500, slow=100),
        {f"round({ratio('slow', window)}, 0.001)": {'{model="m"}': 0.2} for window in WINDOWS},
    ),
    *(
        (requests(failed=failed), {f"round({BUDGET_LEFT}, 0.001)": {'{model="m"}': left}})
        for failed, left in ((0, 1), (1, 0), (3, -2))
    ),
    (latencies(_250=980, _500=1000), {f"round({LATENCY_OF_OBJECTIVE}, 0.001)": {'{model="m"}': 0.75}}),
    (latencies(_500=900, _1000=1000), {f"round({LATENCY_OF_OBJECTIVE}, 0.001)": {'{model="m"}': 1.9}}),
    (
        answers(good=80, confidence=80, short=80),
        {
            f"round({SHARE_NOW['label']}, 0.001)": {
                f'{{{VERSION},label="bad"}}': 0.2,
                f'{{{VERSION},label="good"}}': 0.8,
            },
            f"round({SHARE_NOW['confidence']}, 0.001) > 0": {
                f'{{{VERSION},bin="0.7"}}': 0.8,
                f'{{{VERSION},bin="1.0"}}': 0.2,
            },
            f"round({SHARE_NOW['row_tokens']}, 0.001) > 0": {
                f'{{{VERSION},bin="8.0"}}': 0.8,
                f'{{{VERSION},bin="8192.0"}}': 0.2,
            },
            # 0.3 * ln 1.6 - 0.3 * ln 0.4
            f"round({DRIFT}, 0.001)": {
                f'{{{VERSION},of="{of}"}}': 0.416 for of in ("label", "confidence", "row_tokens")
            },
        },
    ),
    (answers(good=50, confidence=50, short=50), {f"round({DRIFT}, 0.001) > 0": {}}),
]


def name_of(rule: dict[str, Any]) -> str:
    return str(rule.get("record") or rule["alert"])


def find_rules(asked: str) -> set[str]:
    """The rules that an expression names, and those that these are made of."""
    found = {rule for group in GROUPS for rule in map(name_of, group["rules"]) if re.search(rf"\b{rule}\b", asked)}
    made_of = " ".join(rule["expr"] for group in GROUPS for rule in group["rules"] if name_of(rule) in found)
    return found if made_of in asked else find_rules(f"{asked} {made_of}")


def find_differences(tmp_path: Path, series: dict[str, str], expected: dict[str, list[dict[str, Any]]]) -> str:
    """What promtool finds otherwise than expected, empty for nothing.

    It evaluates the rules that are asked for, once a sample.
    """
    wanted = find_rules(" ".join(expected))
    groups = [
        group | {"interval": "1m", "rules": [rule for rule in group["rules"] if name_of(rule) in wanted]}
        for group in GROUPS
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": groups}), encoding="utf-8")  # JSON is YAML
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": expr, "eval_time": "60m", "exp_samples": samples} for expr, samples in expected.items()
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(test), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


@needs_promtool
@pytest.mark.parametrize(("name", "series", "firing"), CASES, ids=[f"{name}-{fires}" for name, _, fires in CASES])
def test_an_alert_fires_when_it_should_and_only_then(
    tmp_path: Path, name: str, series: dict[str, str], firing: int
) -> None:
    alert = f'ALERTS{{alertname="{name}",alertstate="firing",severity="{ALERTS[name].severity}"}}'
    count = [{"labels": "{}", "value": firing}] if firing else []
    assert not find_differences(tmp_path, series, {f"count({alert})": count})


@needs_promtool
@pytest.mark.parametrize(("series", "expected"), RECORDED)
def test_what_is_recorded(tmp_path: Path, series: dict[str, str], expected: dict[str, dict[str, float]]) -> None:
    samples = {
        expr: [{"labels": labels, "value": value} for labels, value in values.items()]
        for expr, values in expected.items()
    }
    assert not find_differences(tmp_path, series, samples)


@needs_promtool
def test_promtool_finds_nothing_wrong() -> None:
    for what, path in (("rules", RULES), ("config", RULES.parent / "prometheus.yml")):
        done = subprocess.run(["promtool", "check", what, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tested_both_ways() -> None:
    for name in ALERTS:
        outcomes = {bool(firing) for case, _, firing in CASES if case == name}
        assert outcomes == {True, False}, name
    tested = {name for _, expected in RECORDED for expr in expected for name in re.findall(r"headwaiter:[\w:]+", expr)}
    assert tested == {record.name for record in records(Objectives())}


def test_rules_name_declared_metrics_only() -> None:
    recorded = {record.name for record in records(Objectives())}
    for rule in (*records(Objectives()), *alerts(Objectives())):
        for name in re.findall(rf"\b{PREFIX}(\w+)", rule.expr):
            assert name in METRICS or re.sub(r"_(bucket|sum|count)$", "", name) in METRICS, rule.expr
        assert set(re.findall(r"headwaiter:[\w:]+", rule.expr)) <= recorded


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_runbook_that_says_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    page = ROOT / "docs/runbooks" / f"{alert.page}.md"
    text = page.read_text(encoding="utf-8")
    assert name in text.splitlines()[0]
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## What it means", "## How to look", "## What to do"]
    assert re.search(r"`(headwaiter|curl) [^`]+`", text.partition("## What to do")[2]), "the command"
    assert alert.to_rule()["annotations"]["runbook_url"] == f"{RUNBOOKS}/{page.name}"
    for link in re.findall(r"\]\(([\w-]+\.md)\)", text):
        assert (page.parent / link).is_file(), link
    for metric in re.findall(rf"\b{PREFIX}(\w+)", text):
        assert metric in METRICS or re.sub(r"_(bucket|sum|count)$", "", metric) in METRICS, metric


def test_every_runbook_belongs_to_an_alert() -> None:
    assert {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")} == {alert.page for alert in ALERTS.values()}
