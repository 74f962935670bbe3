import asyncio
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.flavor import log_model
from registry.heads import get_head
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.server import Server, free_port, run_cli
from tests.families import build
from tests.parallel import SHARED_SERVER, ends_group
from tests.quick import copy_home, made_once
from tests.small_models import build_model
from tests.waiting import WAIT_SECONDS

LOGGED = (
    # name, kind of small model, task, dtype
    ("sentiment", "single", "text-classification", "float32"),
    ("sentiment-bf16", "single", "text-classification", "bfloat16"),
    ("topics", "multi", "text-classification", "float32"),
    ("stars", "regression", "text-classification", "float32"),
    ("names", "tokens", "token-classification", "float32"),
    ("embedder", "base", "feature-extraction", "float32"),
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('no role ' + m['role']) }}{% endif %}{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
OF_TASKS = (
    # the model of this task, named like it: family
    ("zero-shot-classification", "convbert"),
    ("question-answering", "bert"),
    ("fill-mask", "bert"),
    ("text-generation", "gpt2"),
    ("text2text-generation", "bart"),
    ("summarization", "t5"),
    ("translation", "t5"),
    ("multiple-choice", "bert"),
    ("next-sentence-prediction", "bert"),
    ("image-classification", "vit"),
)


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints of `OF_TASKS`, by task."""
    root = tmp_path_factory.mktemp("families")
    return {task: build(root / task, family, get_head(task).auto_class) for task, family in OF_TASKS}


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small llama whose tokenizer has a chat template; the model `chat`."""
    from transformers import AutoTokenizer

    folder = build(tmp_path_factory.mktemp("chat"), "llama", "AutoModelForCausalLM")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    models: dict[str, Path],
    family_folders: dict[str, Path],
    chat_folder: Path,
) -> Path:
    """A registry with one live version of several models; one is logged by the command line, the others by Python."""
    home = tmp_path_factory.mktemp("home")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    versions = Versions(settings)  # makes the database, as a copy
    folder = str(models["base"])
    options = ("--dtype", "float32", "--default", "pooling=mean")
    done = run_cli(home, "log", folder, "--task", "feature-extraction", "--name", "embedder", *options)
    assert done.stdout.strip() == "1", done
    versions.promote("embedder", "1", why="the first one")
    folders = [(name, models[kind], task, dtype) for name, kind, task, dtype in LOGGED if name != "embedder"]
    folders += [(task, family_folders[task], task, "float32") for task, _ in OF_TASKS]
    folders.append(("chat", chat_folder, "text-generation", "float32"))
    for name, checkpoint, task, dtype in folders:
        log_model(checkpoint, task=task, name=name, dtype=dtype, settings=settings)
        versions.promote(name, "1", why="the first one")
    return home


RUNNING = pytest.StashKey[Server]()
"""The session's server."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """End the session's server after its last test: with all of its models it takes a fifth of a core when idle."""
    yield
    if RUNNING in item.config.stash and ends_group(item, nextitem, SHARED_SERVER):
        item.config.stash[RUNNING].__exit__()  # without effect where it was the worker's last test, and has ended it


@pytest.fixture(scope="session")
def server(home: Path, pytestconfig: pytest.Config) -> Iterator[Server]:
    """One server with all of them and two front workers."""
    names = (*(name for name, *_ in LOGGED), *(task for task, _ in OF_TASKS), "chat")
    # no alias of these moves, and polling an embedded registry for many models takes processor time
    environ = {"HEADWAITER_POLL_SECONDS": "60", "HEADWAITER_GRPC_PORT": str(free_port())}
    with Server(home, names, environ, ("--workers", "2")) as running:
        pytestconfig.stash[RUNNING] = running
        yield running


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three classifiers that differ in their weights. Only to be read."""
    root = made_once(
        tmp_path_factory,
        "seeds",
        lambda root: [build_model(root / str(seed), "single", seed, whole=True) for seed in range(3)],
    )
    return [root / str(seed) for seed in range(3)]


@pytest.fixture(scope="session")
def small_template(tmp_path_factory: pytest.TempPathFactory, seeds: list[Path]) -> Path:
    """The home that each `small_home` begins as."""

    def make(home: Path) -> None:
        fill_home(home, {"m": seeds}).promote("m", "1", why="start")

    return made_once(tmp_path_factory, "small", make)


@pytest.fixture
def small_home(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Path:
    """A registry of the test's own: three versions of one model, `m`, the first one live."""
    return copy_of(small_template, tmp_path_factory)


def copy_of(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new home like `template`."""
    home = tmp_path_factory.mktemp("h")  # sockets need a short path
    copy_home(template, home)
    return home


def make_home(tmp_path_factory: pytest.TempPathFactory, models: dict[str, list[Path]]) -> tuple[Path, Versions]:
    """A registry with these models, each with a version for each classifier, none of them live yet."""
    home = tmp_path_factory.mktemp("h")  # sockets need a short path
    return home, fill_home(home, models)


def fill_home(home: Path, models: dict[str, list[Path]]) -> Versions:
    """Log the models in `home`, as `make_home` does."""
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    for name, folders in models.items():
        for folder in folders:
            log_model(folder, task="text-classification", name=name, settings=settings)
    return Versions(settings)


def ask_together(server: Server, requests: list[tuple[str, Any]], connections: int = 32) -> list[httpx.Response]:
    """The responses, in order, to (model, body) sent over `connections` connections at once."""

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=connections)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=WAIT_SECONDS) as client:
            return await asyncio.gather(*(client.post(f"/models/{model}", json=body) for model, body in requests))

    return asyncio.run(run())
