"""The page at `/ui` in a real Chromium: every task's form, errors, changes by an operator, narrow screens, axe-core."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.runtime.key_file import KeyFile
from tests.browser import IS_MISSING, REASON, Browser
from tests.e2e.conftest import LOGGED, OF_TASKS
from tests.e2e.server import Server, inherited, wait_until
from tests.fine_tuning import fine_tune

pytestmark = [pytest.mark.integration, pytest.mark.skipif(IS_MISSING, reason=REASON)]

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"
NAMES = {task: name for name, _, task, _ in reversed(LOGGED)} | {task: task for task, _ in OF_TASKS}
"""The model that shows each task."""
STATUS = "document.querySelector('#view-ask [role=status]').textContent"
TAB, ENTER = "\ue004", "\ue007"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Server) -> Browser:
    """The first view of the server of all tasks."""
    browser.resize(1200, 860)
    browser.prefer("light")
    browser.open(f"{server.url}/ui")
    browser.wait("document.querySelector('#model option')")
    return browser


def choose(page: Browser, task: str) -> None:
    page.choose("#model", NAMES[task])
    page.wait(f"document.querySelector('.facts').textContent.startsWith('{task}')")


def ask(page: Browser) -> str:
    """Ask, and return the status: of an answer it names the version."""
    page.click("#view-ask form button[type=submit]")
    return str(page.wait(f"!['', 'Asking …'].includes({STATUS}) && {STATUS}"))


def command(page: Browser, name: str) -> str:
    return str(page.run("return document.querySelector(arguments[0]).textContent", f"[aria-label='{name} command']"))


def run_curl(text: str, folder: Path) -> str:
    done = subprocess.run(["sh", "-c", f"{text} -s --fail"], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def final(stream: str) -> dict[str, Any]:
    """The last event."""
    found: dict[str, Any] = json.loads([line for line in stream.splitlines() if line.startswith("data:")][-1][5:])
    return found


def words(answer: Any) -> list[str]:
    """Every text of an answer."""
    if isinstance(answer, dict):
        return [word for value in answer.values() for word in words(value)]
    if isinstance(answer, list):
        return [word for value in answer for word in words(value)]
    return [answer] if isinstance(answer, str) else []


@pytest.mark.parametrize("task", sorted(NAMES))
def test_each_task_has_a_form_whose_answer_is_the_one_of_its_command(page: Browser, task: str, tmp_path: Path) -> None:
    choose(page, task)
    if task == "image-classification":
        Image.linear_gradient("L").resize((90, 60)).save(tmp_path / "a cat.png")
        page.type("#field-file", str(tmp_path / "a cat.png"))
    assert ask(page).startswith("Version 1 · ")
    shown = " ".join(page.text("#answer").split())
    text = command(page, "curl")
    answer = run_curl(text, tmp_path)
    if "-N" in shlex.split(text):
        written = final(answer)["generated_text"]
        assert " ".join(written.split()) in shown
        assert "First token after" in shown
    else:
        found = json.loads(answer)
        if task == "fill-mask":  # the text is shown with the best word alone
            found = [found[0], *(each | {"sequence": ""} for each in found[1:])]
        assert [word for word in words(found) if " ".join(word.split()) not in shown] == []
        assert all(stage in shown for stage in ("tokenize", "queue", "forward", "decode"))
    if task == "feature-extraction":
        assert "One vector of 32 numbers" in shown
    assert page.violations() == []
    assert page.complaints() == []


@pytest.mark.parametrize("task", ["text-classification", "text-generation"])
def test_the_python_command_gets_the_same_answer(page: Browser, task: str, tmp_path: Path) -> None:
    choose(page, task)
    page.type("#field-text", 'it\'s "quoted", \\n, ünï and 🎈')
    ask(page)
    script = command(page, "Python")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=inherited())
    assert done.returncode == 0, done.stderr
    expected = run_curl(command(page, "curl"), tmp_path)
    if task == "text-generation":
        assert final(done.stdout)["generated_text"] == final(expected)["generated_text"]
    else:
        labels = [each["label"] for each in json.loads(expected)[0]]
        assert labels
        assert all(f"'label': '{label}'" in done.stdout for label in labels)


def test_two_texts_are_compared_and_texts_are_ranked(page: Browser) -> None:
    choose(page, "feature-extraction")
    page.type("#field-other", page.run("return document.querySelector('#field-text').value"))
    ask(page)
    assert page.text("#answer .lead") == "1.000 cosine"
    page.choose("#model", "stars")
    page.wait("document.querySelector('#field-texts')")
    page.type("#field-texts", "one\ntwo\nthree")
    ask(page)
    ranked = page.run(
        "return [...document.querySelectorAll('.ranking span:first-child')].map((each) => each.textContent)"
    )
    assert sorted(ranked) == ["one", "three", "two"]


def test_a_refusal_is_shown_with_the_rule(page: Browser) -> None:
    choose(page, "fill-mask")
    page.type("#field-text", "no mask")
    assert ask(page) == "Refused with 422"
    assert "has no [MASK]" in page.text("#answer .error")
    assert page.violations() == []
    page.click("#view-ask summary")
    page.type("#parameters", "{top_k}")
    assert ask(page) == "Not answered"
    assert "this is not JSON" in page.text("#answer .error")
    page.type("#parameters", '{"top_k": 2}')
    page.type("#field-text", "a [MASK]")
    ask(page)
    assert page.run("return document.querySelectorAll('.bars li').length") == 2


def test_texts_are_never_markup_and_places_count_characters(page: Browser) -> None:
    choose(page, "question-answering")
    page.type("#field-context", "<img src=x onerror=alert(1)> <b>Ada</b> lives in Paris.")
    ask(page)
    assert page.run("return document.querySelectorAll('#answer img, #answer b').length") == 0
    assert "<img src=x" in page.text("#answer .prose")
    script = """
        const { entities } = await import("/ui/answers.js");
        const found = [{ entity_group: "LOC", word: "paris", score: 0.9, start: 2, end: 7 }];
        return entities(found, "🎈 Paris").querySelector("mark").firstChild.textContent;
    """
    assert page.run(f"return (async () => {{{script}}})()") == "Paris"


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.run("document.body.focus()")
    page.press(TAB)
    assert page.run("return document.activeElement.className") == "skip"
    for _ in range(20):
        if page.run("return document.activeElement.textContent") == "Ask" and page.run(
            "return document.activeElement.type"
        ):
            break
        page.press(TAB)
    page.press(ENTER)
    assert "Version 1" in page.wait(f"!['', 'Asking …'].includes({STATUS}) && {STATUS}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_scrolling_sideways(page: Browser, scheme: str) -> None:
    page.resize(340, 700)
    page.prefer(scheme)
    ask(page)
    for view in ("ask", "models"):
        page.click(f"#link-{view}")
        page.wait(f"!document.querySelector('#view-{view}').hidden")
        page.wait("document.querySelector('#view-models').hidden || document.querySelector('#panel-title')")
        assert page.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth"), view
        assert page.violations() == [], view


class Closed(Server):
    """A server with keys and two versions of a classifier of topics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.keys = KeyFile(self.home / "keys.json")
        self.operator = self.keys.add("ada", admin=True)
        self.client = self.keys.add("shop", models=("topics",))
        self.environ["HEADWAITER_KEYS_FILE"] = str(self.home / "keys.json")
        self.http.headers["Authorization"] = f"Bearer {self.operator}"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    home = tmp_path_factory.mktemp("h")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    for steps in (24, 40):
        folder = fine_tune("text-classification", tmp_path_factory.mktemp("tuned"), steps)
        log_model(folder, task="text-classification", name="topics", settings=settings)
    Versions(settings).promote("topics", "1", why="the first one", who="ada")
    with Closed(home, ("topics",)) as running:
        yield running


def enter(browser: Browser, closed: Closed, key: str, view: str) -> None:
    """Open a view of the server with keys, and show a key."""
    browser.resize(1200, 860)
    browser.prefer("light")
    browser.open(f"{closed.url}/ui#{view}")
    browser.run("sessionStorage.clear()")  # the key of an earlier test
    browser.open(f"{closed.url}/ui#{view}")
    browser.wait("document.querySelector('#trouble .error')")
    assert "asks for a key" in browser.text("#trouble")
    browser.type("#key", key)
    browser.click("#key-form button")
    browser.wait("document.querySelector('#field-text, #panel-title')")


def change(browser: Browser, button: str, **given: str) -> None:
    """Make a change by its dialog, and wait until it is done."""
    buttons = "[...document.querySelectorAll('.actions button')]"
    found = f"{buttons}.find((each) => each.textContent === '{button} …')"
    browser.wait(found)
    browser.run(f"{found}.click()")
    for name, value in given.items():
        browser.type(f"#change-{name}", value)
    assert browser.violations() == []
    browser.click("dialog button[type=submit]")
    browser.wait("!document.querySelector('dialog') || document.querySelector('dialog .error')")


TEXTS = ("They spoke of the referee, the match and the goal.", "They spoke of the luggage, the hotel and a loan.")


def test_an_operator_promotes_rolls_out_and_rolls_back(browser: Browser, closed: Closed) -> None:
    enter(browser, closed, closed.operator, "models")
    change(browser, "Promote", version="99", why="no such version")
    assert "99" in browser.text("dialog .error")
    browser.click("dialog button.quiet")
    change(browser, "Promote", version="2", why="better on the new labels")
    wait_until(lambda: closed.live("topics") == "2", "version 2 answers")
    change(browser, "Roll back", why="too much sport in the money column")
    wait_until(lambda: closed.live("topics") == "1", "version 1 answers again")
    browser.wait("document.querySelector('#view-models .panel:last-child').textContent.includes('money column')")
    history = browser.text("#view-models .panel:last-child")
    assert history.index("money column") < history.index("better on the new labels") < history.index("the first one")
    plan = {"version": "2", "steps": "shadow:500,10%,50%,100%", "every": "1h", "why": "again, step by step"}
    change(browser, "Start a rollout", **plan)
    wait_until(lambda: closed.sample("rollout_step", model="topics") >= 0 and asked(closed), "it is under way")
    browser.wait("document.querySelector('.steps [aria-current]')?.textContent === 'shadow:500'")
    wait_until(lambda: asked(closed) and browser.run("return document.querySelector('.chart') !== null"), "a chart")
    browser.wait("document.querySelector('.legend').textContent.includes('p99')")
    browser.resize(1200, 1060)
    browser.picture(IMAGES / "ui-models.png")
    assert browser.violations() == []
    change(browser, "Abort the rollout", why="seen enough")
    browser.wait("document.querySelector('#view-models .panel:last-child').textContent.includes('aborted')")
    assert closed.live("topics") == "1"


def asked(closed: Closed) -> bool:
    """Ask some texts."""
    return all(closed.ask("topics", text) for text in TEXTS * 4)


def test_a_clients_key_asks_and_changes_nothing(browser: Browser, closed: Closed) -> None:
    enter(browser, closed, closed.client, "models")
    assert "An operator's key shows more." in browser.text("#view-models")
    assert browser.run("return document.querySelectorAll('.actions button').length") == 0
    browser.click("#link-ask")
    browser.wait("document.querySelector('#field-text')")
    browser.type("#field-text", TEXTS[0])
    assert ask(browser).startswith("Version 1")
    assert "HEADWAITER_API_KEY" in command(browser, "curl")
    assert closed.client not in browser.run("return document.documentElement.outerHTML")
    assert closed.client not in browser.run("return JSON.stringify({ ...localStorage }) + document.cookie")
    assert browser.violations() == []
    browser.picture(IMAGES / "ui-ask.png")


def test_the_pictures_of_the_readme_are_small() -> None:
    for name in ("ui-ask.png", "ui-models.png"):
        assert 0 < (IMAGES / name).stat().st_size < 150_000, name
