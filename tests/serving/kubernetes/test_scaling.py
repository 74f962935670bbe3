"""What KEDA asks Prometheus, on made-up series."""

import json
import subprocess
from pathlib import Path

import pytest

from serving.kubernetes.scaling import WAIT_SECONDS, queued_seconds
from serving.settings import ServingSettings
from tests.abilities import needs


@needs("promtool")
@pytest.mark.parametrize(
    ("queued", "seconds"),
    [
        # of two pods, whose queues hold 1000 tokens of m and 4000 of n, which is what each computes in 10 s
        ({"m": (0, 0), "n": (0, 0)}, 0),
        ({"m": (250, 250), "n": (0, 0)}, 5),
        ({"m": (250, 250), "n": (1000, 1000)}, 10),
    ],
)
def test_queued_work_is_counted_in_seconds_of_a_pod(
    tmp_path: Path, queued: dict[str, tuple[int, int]], seconds: float
) -> None:
    series = {}
    for model, limit in (("m", 1000), ("n", 4000)):
        for index, tokens in enumerate(queued[model]):
            labels = f'{{job="headwaiter",namespace="shop",instance="{index}",model="{model}",version="1",task="t"}}'
            series[f"headwaiter_queue_tokens{labels}"] = f"{tokens}"
            series[f"headwaiter_queue_limit_tokens{labels}"] = f"{limit}"
    loading = '{job="headwaiter",namespace="shop",instance="0",model="m",version="2",task="t"}'
    series |= {f"headwaiter_queue_tokens{loading}": "0", f"headwaiter_queue_limit_tokens{loading}": "0"}
    test = {
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": queued_seconds("shop"),
                        "eval_time": "0m",
                        "exp_samples": [{"labels": "{}", "value": seconds}],
                    }
                ],
            }
        ]
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(test), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ServingSettings.from_environment({}, run=Path()).queue_seconds == 10
    assert WAIT_SECONDS > 0
