"""docs/guide.md is true: its snippets run, its commands exist, and its errors have the words of the source."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from registry.heads import HEADS
from registry.settings import RegistrySettings
from registry.tracking import connect
from serving.commands.main import main
from tests.conftest import forget_tracking
from tests.small_models import vocabulary

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
OF_THE_HUB = "distilbert/distilbert-base-uncased"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def table(heading: str) -> list[list[str]]:
    """The cells of the rows below a heading, without the table's own heading."""
    _, _, section = PAGE.partition(f"\n## {heading}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.long
@pytest.mark.server
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
def test_the_snippets_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: RegistrySettings) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = blocks("python")
    assert len(snippets) > 4
    assert snippets[0].count(OF_THE_HUB) == 1
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets):
        code = snippet.replace(OF_THE_HUB, str(vocabulary()))
        exec(compile(code, f"snippet {number} of docs/guide.md", "exec"), names)
    client = connect(settings)
    run = client.get_run(client.get_model_version("reviews", "1").run_id)
    assert run.data.metrics == {"accuracy": 0.91}
    forget_tracking()


COMMANDS = [line for block in blocks("console") for line in block.splitlines()]
COMMANDS += re.findall(r"`(headwaiter [^`…]+)`", PAGE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_one_with_these_options(line: str) -> None:
    command: click.Command = main
    words = shlex.split(line)[1:]
    while words and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    options = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_task_and_its_class_is_in_the_table_of_tasks() -> None:
    rows = table("Which task")
    listed = {(task, row[2]) for row in rows for task in row[1].split(", ")}
    for head in HEADS.values():
        assert any(task.startswith(head.task) and f"`{head.auto_class}`" in classes for task, classes in listed), head


def test_every_class_has_its_inputs_and_outputs() -> None:
    assert {row[0].strip("`") for row in table("What goes in and comes out")} == {
        head.auto_class for head in HEADS.values()
    }


def texts(node: ast.AST) -> str:
    """What a literal says, with `…` where a value is put in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "…"
    return "".join(texts(part) for part in node.values) if isinstance(node, ast.JoinedStr) else "…"


def literals(path: Path) -> Iterator[str]:
    """The texts that a module holds."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr | ast.Constant) and (text := texts(node)) != "…":
            yield text


def test_the_errors_have_the_words_of_the_source() -> None:
    sources = [path for package in ("registry", "serving") for path in (ROOT / package).rglob("*.py")]
    said = [text for path in sources for text in literals(path)]
    shown = [row[1].strip("`") for row in table("Errors of Headwaiter")]
    assert len(shown) > 30
    assert [message for message in shown if not any(message in text for text in said)] == []


OF_TRANSFORMERS = (
    "dynamic_module_utils",
    "modeling_layers",
    "models.auto.auto_factory",
    "models.auto.configuration_auto",
    "pipelines",
    "tokenization_utils_base",
    "trainer",
    "training_args",
    "utils.hub",
    "utils.loading_report",
)
"""The modules that raise the errors that the page shows."""


def test_the_errors_of_transformers_have_its_words() -> None:
    said = []
    for name in OF_TRANSFORMERS:
        found = importlib.util.find_spec(f"transformers.{name}")
        assert found is not None
        assert found.origin
        said += list(literals(Path(found.origin)))
    shown = [row[0].strip("`") for row in table("Errors of transformers")]
    assert len(shown) > 10
    missing = [message for message in shown if not any(is_part(message, text) for text in said)]
    assert missing == []


def is_part(message: str, text: str) -> bool:
    """Whether a text holds what is between the `…` of a message, in that order."""
    return re.search(".*".join(map(re.escape, message.split("…"))), text.replace("`", ""), re.DOTALL) is not None


def test_the_pipelines_that_are_said_to_be_gone_are_gone() -> None:
    from transformers.pipelines import REMOVED_TASKS

    shown = [re.findall(r'pipeline\("([\w-]+)"\)', row[0])[0] for row in table("From pipelines of transformers 4")]
    assert {re.sub(r"_\w+_to_\w+", "", name) for name in shown} == {name for name in REMOVED_TASKS if name in HEADS}
