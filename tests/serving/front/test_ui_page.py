"""The files of `/ui`: who gets them, with which headers, and that nothing else can be asked for."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from serving.front import ui_page
from serving.front.front import Front
from serving.runtime.key_file import KeyFile
from serving.tasks import served_tasks
from tests.serving.front.local_front import MakeFront
from tests.serving.front.openapi.surface import ask

FOLDER = Path(ui_page.__file__).with_name(ui_page.FOLDER)
SCRIPTS = sorted(FOLDER.glob("*.js"))


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    return make_front()


class Elements(HTMLParser):
    """The elements of a page, each with its attributes, and the text within scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.inline = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.inline += data.strip()


def links(page: str) -> list[str]:
    """The files that a page loads."""
    return [
        attributes.get("src", attributes.get("href", ""))
        for tag, attributes in Elements(page).found
        if tag in ("script", "link", "img")
    ]


@pytest.mark.parametrize(("path", "prefix"), [("/ui", "ui/"), ("/ui/", "")])
def test_the_page_loads_its_own_files_with_and_without_a_slash(front: Front, path: str, prefix: str) -> None:
    found = links(ask(front, "GET", path).text)
    assert found == [f"{prefix}{name}" for name in ("icon.svg", "style.css", "main.js")]
    for name in found:
        assert ask(front, "GET", f"/ui/{name.removeprefix(prefix)}").status_code == 200


@pytest.mark.parametrize("path", ["/ui", "/ui/main.js", "/ui/style.css", "/ui/icon.svg"])
def test_every_file_has_the_headers_that_keep_it_apart(front: Front, path: str) -> None:
    headers = ask(front, "GET", path).headers
    policy = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy["default-src"] == "'none'"
    assert {word for sources in policy.values() for word in sources.split()} == {"'none'", "'self'", "blob:"}
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-cache")
    assert (headers["referrer-policy"], headers["cross-origin-opener-policy"]) == ("no-referrer", "same-origin")
    kinds = {"": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert headers["content-type"].split(";")[0] == kinds[Path(path).suffix]


@pytest.mark.parametrize(
    "path", ["/ui/%2e%2e/app.py", "/ui/..%2fapp.py", "/ui/ui_page.py", "/ui//etc/passwd", "/ui/index.html", "/ui/a/b"]
)
def test_what_is_no_file_of_the_page_is_not_found(front: Front, path: str) -> None:
    answer = ask(front, "GET", path)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "unknown_model")
    assert b"import" not in answer.content


def test_the_page_needs_no_key_and_everything_that_it_calls_does(make_front: MakeFront, tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys.json").add("operator", admin=True)
    closed = make_front(keys_file=tmp_path / "keys.json")
    names = [path.name for path in FOLDER.iterdir() if path.name != ui_page.INDEX]
    assert {ask(closed, "GET", f"/ui/{name}").status_code for name in ("", *names)} == {200}
    assert {ask(closed, "GET", path).status_code for path in ("/models", "/metrics", "/ui2", "/UI")} == {401}


def test_the_page_is_refused_to_another_host_name(make_front: MakeFront) -> None:
    local = make_front(allowed_hosts=("localhost",))
    assert ask(local, "GET", "/ui", headers={"Host": "elsewhere.example"}).status_code == 421


ELSEWHERE = re.compile(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|@import")


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = Elements((FOLDER / ui_page.INDEX).read_text(encoding="utf-8"))
    assert page.inline == ""
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on") or name == "style"]
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not ELSEWHERE.search(text), path


def test_every_module_that_is_imported_is_there_and_every_one_is_used() -> None:
    texts = [path.read_text(encoding="utf-8") for path in SCRIPTS]
    imported = {name for text in texts for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert imported | {"main.js"} == {path.name for path in SCRIPTS}


def test_there_is_a_form_for_every_task() -> None:
    text = (FOLDER / "tasks.js").read_text(encoding="utf-8")
    table = text[text.index("export const TASKS") : text.index("\n};", text.index("export const TASKS"))]
    assert set(re.findall(r'^  "([\w-]+)":', table, re.MULTILINE)) == set(served_tasks())


def test_every_file_has_a_known_ending() -> None:
    assert {path.suffix for path in FOLDER.iterdir()} == set(ui_page.TYPES)
