"""The examples are listed, are copied by `headwaiter init`, and end with the right served answer."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from registry.child_process import python_path
from registry.heads import HEADS
from registry.settings import RegistrySettings
from registry.tracking import connect
from serving.commands.init import examples_folder, list_examples
from serving.commands.main import main
from tests.e2e.server import inherited
from tests.waiting import WAIT_SECONDS

SCORE = r"\((0\.\d+|1\.00)\)"
BY_PROMETHEUS = (
    r"usual texts: .*'label': 0\.0\d*.*\nothers: .*'label': 0\.[2-9].*\n"
    r"pending: label of example-drift/1 has drifted from its baseline\n(pending: .*\n)*"
)
BY_METRICS = r"(headwaiter_baseline_label.*\n){2}(headwaiter_predictions_total.*\n){2}"
ENDS = {
    "bulk-scoring": r"2,000 reviews: {'negative': 1000, 'positive': 1000}\n$",
    "canary": r"version 2 promoted: [\s\S]*\nversion 3 failed: .* it answered 0 of .*\nversion 2 answers: positive\n$",
    "drift": (BY_PROMETHEUS if shutil.which("prometheus") else BY_METRICS) + r"answer: negative\n$",
    "promotion-gate": r"version 2 is refused: accuracy is 0[\s\S]*\nversion 3 answers: positive\n$",
    "feature-extraction": rf"nearest: accounts are closed in the privacy settings {SCORE}\n$",
    "fill-mask": rf"password {SCORE}: you can reset your password on the sign - in page\n.*\n$",
    "image-classification": rf"checked: checked {SCORE}\nhorizontal: horizontal {SCORE}\nvertical: vertical {SCORE}\n$",
    "lora": rf"every cent: positive {SCORE}\n.*crashing: negative {SCORE}\n$",
    "multiple-choice": rf"please send me my money back: Refunds are paid within five days\. {SCORE}\n$",
    "next-sentence-prediction": rf"of the crust: follows is True {SCORE}\n.*danced: follows is False {SCORE}\n$",
    "question-answering": rf"mugs\? Greta {SCORE}\n.*city\? Berlin {SCORE}\n.*mugs\? eleven {SCORE}\n$",
    "reranker": r"0\.\d+  the tracking page shows each stop of a delivery\n0\.\d+  .*\n$",
    "retrieval": r"pet\? Dogs are welcome.*\n$",
    "text-classification": rf"every cent: positive {SCORE}\n.*crashing: negative {SCORE}\n$",
    "text-generation": r"Shop: It is on its way and comes tomorrow\.\n$",
    "text2text-generation": r"439: .*four hundred thirty nine.*\n$",
    "token-classification": rf"PER: selma tanaka {SCORE}\nLOC: berlin {SCORE}\n$",
    "zero-shot-classification": rf"out of tune: music {SCORE}\n.*\n.*\n$",
}
"""What each prints last."""
RUN_SECONDS = 3 * WAIT_SECONDS
"""Of a training, a server's start and what is asked of it."""
MAX_LINES = 100


def test_every_example_is_listed_is_short_and_has_a_test() -> None:
    page = (examples_folder() / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[([\w-]+)\]\((\w+)\.py\) ", page, re.MULTILINE)
    assert {name for name, _ in listed} == set(ENDS) == set(list_examples())
    for name, stem in listed:
        assert stem == name.replace("-", "_")
        assert len((examples_folder() / f"{stem}.py").read_text(encoding="utf-8").splitlines()) <= MAX_LINES, name


def test_every_task_has_an_example() -> None:
    assert {head.same_as or head.task for head in HEADS.values()} <= set(ENDS)


def test_init_copies_an_example_with_the_one_that_it_imports(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    done = CliRunner().invoke(main, ["init", "lora", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{folder / 'main.py'}\n"
    assert (folder / "main.py").read_bytes() == (examples_folder() / "lora.py").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["main.py", "text_classification.py"]


def test_init_keeps_what_is_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("mine")
    done = CliRunner().invoke(main, ["init", "reranker", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr == f"Error: {tmp_path} is not empty: name a new folder\n"
    assert (tmp_path / "main.py").read_text() == "mine"


def test_init_names_the_examples_that_there_are(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["init", "nothing", str(tmp_path / "mine")])
    assert done.exit_code == 2
    assert all(name in done.stderr for name in ENDS)
    assert not (tmp_path / "mine").exists()


def test_the_shell_completes_the_examples() -> None:
    shell = BashComplete(main, {}, "headwaiter", "_HEADWAITER_COMPLETE")
    assert [item.value for item in shell.get_completions(["init"], "text-")] == [
        "text-classification",
        "text-generation",
    ]


@pytest.mark.integration
@pytest.mark.parametrize("name", ENDS)
def test_an_example_ends_with_the_served_answer(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("x")  # sockets need a short path
    environ = {
        name: value for name, value in inherited().items() if name != "HF_HUB_OFFLINE"
    }  # its client asks a server
    environ |= {"HEADWAITER_HOME": str(home), "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(examples_folder() / f"{name.replace('-', '_')}.py")]
    done = subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(ENDS[name], done.stdout), done.stdout
    client = connect(RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)}))
    (model,) = client.search_registered_models()
    run = client.get_run(client.get_model_version(model.name, "1").run_id)
    assert run.data.metrics, "the evaluation's, beside the model"
