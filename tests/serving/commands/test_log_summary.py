"""The summary of `headwaiter log`: what the contract holds, in few lines, on standard error."""

import json
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry.errors import CheckpointWarning
from registry.settings import RegistrySettings
from serving.commands.log_summary import MAX_LABELS, collect_warnings, list_labels
from serving.commands.main import main
from tests.small_models import build_model

pytestmark = pytest.mark.slow


def test_the_command_sums_up_on_standard_error(models: dict[str, Path], settings: RegistrySettings) -> None:
    done = CliRunner().invoke(main, ["log", str(models["single"]), "--task", "text-classification", "--name", "m"])
    assert done.stdout == "1\n"
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line[:1].islower()}
    assert lines["task"].endswith("text-classification")
    assert "BertForSequenceClassification (AutoModelForSequenceClassification)" in lines["head"]
    assert "bad, fair, good, great" in lines["labels"]
    assert "256 tokens" in lines["limit"]
    assert lines["batches"].endswith("rows of any lengths")
    assert "the fastest" in lines["dtype"]
    assert "warning:" not in lines


def test_warnings_are_part_of_it_in_one_line_each(settings: RegistrySettings, tmp_path: Path) -> None:
    folder = build_model(tmp_path / "unnamed", "single", labels=("LABEL_0", "LABEL_1"))
    done = CliRunner().invoke(
        main, ["log", str(folder), "--task", "text-classification", "--name", "m", "--json", "--dtype", "float32"]
    )
    assert json.loads(done.stdout)["version"] == "1"
    (warned,) = [line for line in done.stderr.splitlines() if "no names" in line]
    assert warned.startswith("warning: the labels have no names (LABEL_0, LABEL_1")
    assert "dtype    float32\n" in done.stderr


def test_many_and_long_labels_are_cut() -> None:
    assert list_labels(()) == ""
    assert list_labels(("a\n ", "b")) == "a, b"
    assert list_labels((*"x" * MAX_LABELS, "y", "z")).endswith("x, x and 2 more")
    assert len(list_labels(("x" * 500,))) < 50


def test_other_warnings_are_shown_as_ever() -> None:
    def warn() -> list[str]:
        with collect_warnings() as notes:
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            warnings.warn("mind this", CheckpointWarning, stacklevel=1)
        return notes

    with pytest.warns(DeprecationWarning, match="old") as shown:
        notes = warn()
    assert notes == ["mind this"]
    assert len(shown) == 1
