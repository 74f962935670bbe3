"""What all commands have in common: JSON, exit statuses and shell completion, as docs/commands.md says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from registry.history import Move
from registry.settings import PATIENCE, PATIENCE_OF_UPLOADS, RETRIES, TIMEOUT, RegistrySettings
from serving.commands.main import main
from serving.commands.printable import printable
from serving.commands.versions import describe_move
from tests.e2e.server import free_port
from tests.test_docs import COMMANDS

PRINT_NO_FACTS = {"serve", "keys remove", "monitoring export", "deploy export", "init", "demo", "demo rollout", "bench"}
"""Commands that do something and print at most the files that they wrote, or their progress."""
PAGE = (Path(__file__).resolve().parents[3] / "docs/commands.md").read_text(encoding="utf-8")
WHY = ("--why", "a test")
STORY = (
    # in this order; MODEL is a checkpoint, URL a server, PORT a free port
    ("suggest", "--task", "fill-mask"),
    ("heads", "--family", "bert"),
    ("check", "MODEL", "--task", "text-classification"),
    ("log", "MODEL", "--task", "text-classification", "--name", "m"),
    ("log", "MODEL", "--task", "text-classification", "--name", "m"),
    ("promote", "m", "1", *WHY),
    ("promote", "m", "2", *WHY),
    ("rollback", "m", *WHY),
    ("history", "m"),
    ("rollout start", "m", "2", *WHY),
    ("rollout status", "m"),
    ("rollout pause", "m", *WHY),
    ("rollout resume", "m", *WHY),
    ("rollout abort", "m", *WHY),
    ("rollout start", "m", "2", *WHY),
    ("rollout finish", "m", *WHY),
    ("keys add", "ada"),
    ("keys list",),
    ("doctor", "--port", "PORT"),
    ("status", "URL"),
    ("batch", "m", "in.jsonl", "out.jsonl", "--url", "URL"),
)
ASK_THE_REGISTRY = {arguments[0]: arguments[1:] for arguments in STORY if arguments[0].startswith(("pro", "ro", "hi"))}


class Answering(BaseHTTPRequestHandler):
    """Stands for a server that serves nothing, and answers each text with its length."""

    def do_GET(self) -> None:
        self.answer(200, {"models": [], "registry_error": None})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, [len(text) for text in body["inputs"]])

    def answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *given: object) -> None:
        """Nothing."""


class Unavailable(Answering):
    """Stands for a registry that is down behind a proxy. asked: how often it was."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.answer(503, {})

    do_POST = do_GET


@pytest.fixture
def home(settings: RegistrySettings, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with a path that is short enough for sockets, and MLflow's variables not set."""
    home = tmp_path_factory.mktemp("h")
    monkeypatch.setenv("HEADWAITER_HOME", str(home))
    for variable in (TIMEOUT, RETRIES):
        monkeypatch.setenv(variable, "")  # so that it is there no more afterwards
        monkeypatch.delenv(variable)
    return home


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(name: str, *arguments: str) -> Any:
    return CliRunner().invoke(main, [*name.split(), *arguments])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_prints_facts_prints_them_as_json(name: str) -> None:
    options = [option for each in COMMANDS[name].params for option in each.opts]
    assert ("--json" in options) != (name.removeprefix("headwaiter ") in PRINT_NO_FACTS)


@pytest.mark.server
@pytest.mark.usefixtures("home")
def test_all_that_such_a_command_prints_is_one_json_value(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {name.removeprefix("headwaiter ") for name in COMMANDS} - PRINT_NO_FACTS
    assert {arguments[0] for arguments in STORY} == told
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWAITER_KEYS_FILE", str(tmp_path / "keys.json"))
    Path("in.jsonl").write_text('"one"\n"three"\n')
    with serving(Answering) as url:
        values = {"MODEL": str(models["single"]), "URL": url, "PORT": str(free_port())}
        for arguments in STORY:
            done = run(*(values.get(argument, argument) for argument in arguments), "--json")
            assert done.exit_code == 0, (arguments, done.output)
            assert json.loads(done.stdout) is not None
    assert Path("out.jsonl").read_text() == "3\n5\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "headwaiter bench"])
def test_wrong_usage_exits_with_status_2(name: str) -> None:
    done = run(name.removeprefix("headwaiter "), "--no-such-option")
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert "No such option" in done.stderr


@pytest.mark.parametrize("arguments", [["no-such-command"], ["serve", "--port", "none"], ["rollout", "begin"]])
def test_an_unknown_command_or_value_is_wrong_usage(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr


def test_an_interrupted_command_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("registry.suggestions.suggest", interrupt)
    assert run("suggest", "--task", "fill-mask").exit_code == 1


def test_the_exit_statuses_are_listed() -> None:
    _, _, table = PAGE.partition("| exit status | meaning |\n")
    assert [row[2] for row in table.splitlines()[1:4]] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ASK_THE_REGISTRY)
def test_a_registry_that_is_down_is_asked_twice_and_no_more(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unavailable, "asked", [])
    with serving(Unavailable) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        done = run(name, *ASK_THE_REGISTRY[name])
    assert len(Unavailable.asked) == 2
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: MLflow refused ")
    assert len(done.stderr.splitlines()) == 1
    assert {variable: os.environ[variable] for variable in PATIENCE} == PATIENCE


@pytest.mark.usefixtures("home")
def test_uploads_have_more_patience_and_variables_more_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("log", "nowhere").exit_code == 2
    assert {name: os.environ[name] for name in (TIMEOUT, RETRIES) if name in os.environ} == PATIENCE_OF_UPLOADS
    monkeypatch.setenv(RETRIES, "9")
    assert run("history").exit_code == 2
    assert {name: os.environ[name] for name in (TIMEOUT, RETRIES)} == PATIENCE | {RETRIES: "9"}


def test_the_shell_completes_commands_and_options() -> None:
    shell = BashComplete(main, {}, "headwaiter", "_HEADWAITER_COMPLETE")
    assert [item.value for item in shell.get_completions([], "ro")] == ["rollback", "rollout"]
    assert [item.value for item in shell.get_completions(["rollout"], "sta")] == ["start", "status"]
    assert "--task" in [item.value for item in shell.get_completions(["log"], "--t")]


@pytest.mark.slow
def test_the_documented_line_makes_bash_complete() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("eval "))
    pressed = "COMP_WORDS=(headwaiter ro) COMP_CWORD=1\n_headwaiter_completion headwaiter\necho ${COMPREPLY[*]}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{line}\n{pressed}"], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.stdout == "rollback rollout\n", done.stderr


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef headwaiter"), ("fish", "function _headwaiter")])
def test_the_documented_name_of_another_shell_is_known(shell: str, begins: str) -> None:
    assert f"`{shell}_source`" in PAGE
    done = CliRunner().invoke(main, env={"_HEADWAITER_COMPLETE": f"{shell}_source"}, prog_name="headwaiter")
    assert done.stdout.startswith(begins)


def test_texts_of_others_command_no_terminal() -> None:
    move = Move(
        time=1e300,
        action="promote",
        alias="a",
        from_version=None,
        to_version="2",
        who="\x1b[2Kme\x9b",
        why="\x1b]0;x\x07ok",
    )
    shown = printable(describe_move(move))
    assert shown.isprintable()
    assert "\\x1b[2Kme\\x9b" in shown
    assert "at no time" in shown
    assert printable("a\tb\nc é 中") == "a\tb\nc é 中"
