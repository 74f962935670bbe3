"""The documentation is true: links lead somewhere, and settings, routes, metrics, commands and tasks are described."""

import asyncio
import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest

from bench.__main__ import BENCHMARKS
from monitoring.metrics import METRICS, VERSION, Metric
from registry.environment import settings_of as settings_declared_by
from registry.settings import InvalidSetting, RegistrySettings
from serving import errors
from serving.client.client_settings import ClientSettings
from serving.commands.main import main
from serving.front.access import Access
from serving.front.app import DataPlane
from serving.front.host_names import HostNames
from serving.front.openapi.routes import BENTOML
from serving.front.openapi.routes import ROUTES as DECLARED
from serving.settings import ServingSettings
from serving.tasks import served_tasks

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives a page's headings: lower case, without punctuation, spaces as hyphens."""
    headings = HEADING.findall(FENCE.sub("", read(page)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page: str, columns: int) -> list[list[str]]:
    """The cells of each table row with that many columns, but for headings."""
    cells = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in read(ROOT / page).splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in cells if len(row) == columns and not set(row[0]) <= {"-"}]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", read(page))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target} is not there"
        assert ROOT in file.parents, f"{page.name}: {target} is outside of the checkout"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target} has no such heading"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) <= 150
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in text] == []


# settings


class Asked(dict[str, str]):
    """An environment that remembers which variables were looked up."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


SETTINGS = [row for row in rows("docs/settings.md", 4) if row[0] != "variable"]
"""variable, default, bounds, meaning"""
DECLARED_SETTINGS = {
    setting.variable: setting
    for record in (ServingSettings, RegistrySettings, ClientSettings)
    for setting in settings_declared_by(record).values()
}


def settings_of(environ: Mapping[str, str]) -> ServingSettings:
    return ServingSettings.from_environment(environ, run=Path())


def test_every_setting_is_documented_and_no_other() -> None:
    asked = Asked()
    settings_of(asked)
    RegistrySettings.from_environment(asked)
    ClientSettings.from_environment(asked)
    assert {"HEADWAITER_WORKERS", "HEADWAITER_HOME", "MLFLOW_TRACKING_URI"} <= asked.names
    assert {row[0].strip("`") for row in SETTINGS} == asked.names


def test_every_variable_that_the_source_names_is_documented() -> None:
    sources = [path for package in ("registry", "serving", "monitoring") for path in (ROOT / package).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\bHEADWAITER_[A-Z_]*[A-Z]\b", read(path))}
    assert "HEADWAITER_HOME" in named
    assert named <= {row[0].strip("`") for row in SETTINGS}


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0].strip("`"))
def test_a_settings_default_and_bounds_are_as_documented(row: list[str]) -> None:
    name, bounds = row[0].strip("`"), row[2]
    if row[1].startswith("`"):
        assert settings_of({name: row[1].strip("`")}) == settings_of({})
    values = re.findall(r"`([^`]+)`", row[2])
    for value in values:
        settings_of({name: value})
    if " to " in bounds:
        low, high = (float(value) for value in values)
        outside = [str(int(low) - 1), str(int(high) + 1)]
    else:
        outside = ["surely-not-this"] if values else []
    for value in outside:
        with pytest.raises(InvalidSetting, match=name):
            settings_of({name: value})


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0].strip("`"))
def test_a_settings_description_is_how_its_documented_meaning_begins(row: list[str]) -> None:
    documented = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row[3]).replace("`", "")
    if row[0].strip("`") not in DECLARED_SETTINGS:
        assert "own variable" in documented  # of other software
        return
    description = DECLARED_SETTINGS[row[0].strip("`")].meaning.removesuffix(".")
    found = documented[:1].upper() + documented[1:]
    wanted = description[:1].upper() + description[1:]
    assert found.startswith(wanted)
    assert found.removeprefix(wanted)[:1] in ("", ";", "."), "the description ends within a clause"


# routes

ROUTES = [(row[0].strip("`"), row[1].strip("`")) for row in rows("docs/http.md", 4) if row[0] in ("`GET`", "`POST`")]
INNER = {route.path for route in DECLARED if route.protocol == BENTOML}
"""The routes that BentoML answers."""


class Inner:
    """Stands where BentoML's app does, and notes what it is asked."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])


def data_plane() -> tuple[Any, Inner]:
    """The app over a front that can do nothing, so that a route which exists answers with an error of its own."""
    inner = Inner()
    settings = SimpleNamespace(webhook_secret="", max_body_bytes=1024, max_rows=1024, admin_port=0, cors_origins=())
    front = SimpleNamespace(settings=settings, nudge=lambda: None, access=Access(None), hosts=HostNames(["*"]))
    return DataPlane(cast("Any", front), inner), inner


def test_the_first_parts_of_all_routes_are_documented() -> None:
    plane, _ = data_plane()
    documented = {route.split("/")[1] for _, route in ROUTES}
    assert len(plane._handlers) > 5
    assert set(plane._handlers) | {"metrics"} <= documented


def test_the_routes_of_each_protocol_are_documented() -> None:
    documented = {route for _, route in ROUTES}
    plane, _ = data_plane()
    openai = {f"/v1/{name}" for name in plane._handlers["v1"]._routes}
    assert openai
    assert openai | {f"/models/{{name}}{route}" for route in openai} <= documented


def test_the_routes_that_errors_name_are_documented() -> None:
    documented = {re.sub(r"{\w+}", "{}", route) for _, route in ROUTES}
    plane, _ = data_plane()
    named = set()
    for first in plane._handlers:
        message = asyncio.run(ask(plane, "GET", f"/{first}/no/such/route/here")).decode()
        named |= {re.sub(r"{\w+}", "{}", path) for path in re.findall(r"(?<![\w}])/[\w/{}]+", message)}
    assert len(named) > 10
    assert [path for path in named if not any(route.endswith(path) or route == path for route in documented)] == []


async def ask(app: Any, method: str, path: str) -> bytes:
    """The body of the answer to a request without a body."""
    body = bytearray()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        body.extend(message.get("body", b""))

    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return bytes(body)


@pytest.mark.parametrize(("method", "route"), [entry for entry in ROUTES if entry[1] != "/metrics"])
def test_a_documented_route_is_there(method: str, route: str) -> None:
    plane, inner = data_plane()
    body = asyncio.run(ask(plane, method, re.sub(r"\{\w+\}", "1", route)))
    assert b"no such route" not in body
    assert b"this route takes" not in body
    assert bool(inner.paths) == (route in INNER)


def test_a_route_that_is_not_there_is_told_apart() -> None:
    plane, _ = data_plane()
    assert b"no such route" in asyncio.run(ask(plane, "GET", "/v1/nothing"))
    assert b"this route takes" in asyncio.run(ask(plane, "GET", "/v1/completions"))


def test_every_error_is_documented_with_its_status_and_reason() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServingError)]
    documented = {(row[0], row[1].strip("`")) for row in rows("docs/http.md", 3)}
    assert len(kinds) > 10
    assert {(str(kind.status), kind.reason) for kind in kinds} <= documented


# metrics


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_a_metric_is_documented_with_its_type_and_labels(metric: Metric) -> None:
    names = ("VERSION", *metric.labels[3:]) if metric.labels[:3] == VERSION else metric.labels
    kind = "gauge, *computed*" if metric.kind == "snapshot" else metric.kind
    (row,) = (row for row in rows("docs/monitoring.md", 4) if row[0] == f"`{metric.full_name}`")
    assert row[1:3] == [kind, ", ".join(f"`{name}`" for name in names)]


def test_no_metric_is_documented_that_is_not_there() -> None:
    documented = {row[0].strip("`") for row in rows("docs/monitoring.md", 4) if row[0].startswith("`headwaiter_")}
    assert documented == {metric.full_name for metric in METRICS.values()}


# commands


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with what a user types."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(commands(main, "headwaiter"))


def described(command: str) -> str:
    """What the page says of a command: rows that name it, and tables under "Options of `command`"."""
    found, is_inside = [], False
    for line in read(ROOT / "docs/commands.md").splitlines():
        if line and not line.startswith("|"):
            is_inside = line.startswith(f"Options of `{command}`")
        if is_inside or re.search(rf"`{command}[` ]", line):
            found.append(line)
    return "\n".join(found)


def test_there_are_commands() -> None:
    assert {"headwaiter serve", "headwaiter monitoring export"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented_with_all_its_options(name: str) -> None:
    text = described(name)
    assert text, f"docs/commands.md has no {name}"
    options = [option for option in COMMANDS[name].params if isinstance(option, click.Option) and not option.hidden]
    missing = [option.opts[-1] for option in options if not re.search(rf"{option.opts[-1]}\b", text)]
    assert missing == [], f"docs/commands.md lacks options of {name}"


def test_every_benchmark_is_documented_with_its_command() -> None:
    text = read(ROOT / "docs/performance.md")
    assert [name for name in BENCHMARKS if f"`make bench ARGS={name}`" not in text] == []


# tasks


@pytest.mark.parametrize("task", served_tasks())
def test_a_task_is_documented_with_its_parameters(task: str) -> None:
    from serving.tasks import get_task

    text = read(ROOT / "docs/tasks.md")
    assert re.search(rf"^\| {task} \|", text, re.MULTILINE)
    missing = [name for name in get_task(task).parameters_type.__struct_fields__ if f"`{name}`" not in text]
    assert missing == []
    assert task in read(ROOT / "README.md")


def test_nothing_installs_a_release_before_there_is_one() -> None:
    folders = ("serving", "registry", "monitoring", "bench", "tests")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", *code]:
        assert not re.findall(r"pip install '?headwaiter[\[\s]", page.read_text(encoding="utf-8")), page
