"""An evaluation sample at logging becomes the contract's baseline; without one a contract is what it was before."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from monitoring.metrics import METRICS
from registry.contract import Contract
from registry.flavor import log_model
from registry.settings import RegistrySettings
from serving.commands.main import main
from serving.engine.baseline import BaselineCount

pytestmark = pytest.mark.slow


SAMPLE = ["short", "a text of several words", "a text of several words, and then of some more of them", "short"]


def test_the_baseline_is_what_the_model_answers_to_the_sample(
    models: dict[str, Path], settings: RegistrySettings
) -> None:
    logged = log_model(
        models["single"], task="text-classification", name="m", inputs=SAMPLE, sample=SAMPLE, settings=settings
    )
    contract = logged.contract
    assert contract.example is not None
    baseline = contract.baseline
    assert baseline
    answered = Counter(answer[0]["label"] for answer in contract.example.output)
    assert baseline.rows == len(SAMPLE)
    assert baseline.labels == {label: count / len(SAMPLE) for label, count in answered.items()}
    assert tuple(baseline.confidence) == METRICS["confidence"].bounds
    assert {bound: share for bound, share in baseline.row_tokens.items() if share} == {
        "4.0": 0.5,
        "8.0": 0.25,
        "16.0": 0.25,
    }
    again = Contract.parse(json.loads(json.dumps(contract.to_record())))
    assert again == contract
    assert again.digest == contract.digest


def test_a_contract_without_a_baseline_has_the_digest_that_it_always_had(
    models: dict[str, Path], settings: RegistrySettings
) -> None:
    contract = log_model(models["single"], task="text-classification", name="m", settings=settings).contract
    assert "baseline" not in contract.to_record()
    assert b"baseline" not in msgspec.json.encode(contract)


def test_shares_add_up_and_nothing_counted_is_nothing() -> None:
    count = BaselineCount(["good", "bad"])
    assert count.shares().labels == count.shares().confidence == count.shares().row_tokens == {}
    count.add([("good", 0.1), ("good", 0.95), ("a client's own", 1.0)], [3, 100_000])
    shares = count.shares()
    assert shares.labels == {"(other)": pytest.approx(1 / 3), "good": pytest.approx(2 / 3)}
    assert sum(shares.confidence.values()) == pytest.approx(1)
    assert shares.row_tokens["4.0"] == shares.row_tokens["+Inf"] == 0.5


@pytest.mark.parametrize(("text", "rule"), [('"a"\nnot json\n', "line 2 is not JSON"), ("\n", "has no inputs")])
def test_a_bad_sample_file_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "sample").write_text(text)
    options = ["--task", "text-classification", "--name", "m", "--sample", str(tmp_path / "sample")]
    done = CliRunner().invoke(main, ["log", str(tmp_path), *options])
    assert done.exit_code == 2
    assert rule in done.output
