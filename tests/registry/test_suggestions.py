import json

import pytest
from click.testing import CliRunner

from registry.errors import UnknownTask
from registry.heads import HEADS, architectures
from registry.suggestions import suggest
from serving.commands.main import main


@pytest.mark.parametrize("task", HEADS)
def test_every_suggested_architecture_has_the_head(task: str) -> None:
    small, accurate = suggest(task, "small"), suggest(task, "accurate")
    assert small
    assert accurate
    assert suggest(task) == [*small, *accurate]
    assert {entry.model_type for entry in suggest(task)} <= set(architectures(task))
    assert max(entry.millions for entry in small) <= max(entry.millions for entry in accurate)


def test_an_unknown_task_is_told_the_tasks() -> None:
    with pytest.raises(UnknownTask, match="choose one of"):
        suggest("dancing")


def test_the_command_prints_models_and_reasons() -> None:
    printed = CliRunner().invoke(main, ["suggest", "--task", "question-answering", "--accurate"])
    assert printed.exit_code == 0
    assert "microsoft/deberta-v3-base" in printed.output
    assert "DebertaV2ForQuestionAnswering" in printed.output
    as_json = CliRunner().invoke(main, ["suggest", "--task", "fill-mask", "--small", "--json"])
    assert [entry["class"] for entry in json.loads(as_json.output)] == ["RobertaForMaskedLM"]
    assert CliRunner().invoke(main, ["suggest", "--task", "dancing"]).exit_code == 1
