"""Trouble of one model, and what the others see: a real registry, a manager whose engines only report, a front.

The model `bad` gets into trouble, before the server starts or while it serves. `good` must be followed all the same.
"""

import asyncio
import errno
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from registry import download
from registry.contract import Contract
from registry.deployments import DEPLOYED
from registry.errors import RegistryUnavailable, RequestRefused
from registry.flavor import log_model
from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from registry.versions import DIGEST, Versions
from serving.errors import NotReady, ServingError
from serving.front import engine_links, routing, version_loads
from serving.front.engine_link import EngineLink
from serving.front.loaded_version import LoadedVersion
from serving.front.routing import Routing
from serving.manager import registry_poll
from serving.manager.managed_version import Fetched
from serving.manager.manager import Manager
from serving.manager.registry_watch import RegistryWatch
from serving.runtime.daemon_pool import DaemonPool
from serving.settings import ServingSettings
from serving.wire.engine_orders import order_path
from serving.wire.report_file import write_report
from serving.wire.routing_table import Table, TableFile
from tests.e2e.server import wait_until
from tests.quick import copy_home
from tests.serving.manager.world import FakeEngineProcess, InlineExecutor, World, exactly, ready
from tests.small_models import build_model
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


MODELS = ("good", "bad")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose registry has two versions of each of MODELS, the first one live, and marks both as deployed."""
    home = tmp_path_factory.mktemp("h")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    versions = Versions(settings)
    root = tmp_path_factory.mktemp("models")
    folders = [build_model(root / str(seed), "single", seed) for seed in range(3)]
    for name, seeds in zip(MODELS, ((0, 1), (0, 2)), strict=True):
        for seed in seeds:
            log_model(folders[seed], task="text-classification", name=name, settings=settings)
        versions._client.set_registered_model_alias(name, "champion", "1")
        versions.deploy(name)
    return home


class Registry(Versions):
    """The real one; some references are answered otherwise."""

    def __init__(self, settings: RegistrySettings) -> None:
        super().__init__(settings)
        self.answers: dict[str, Callable[[], Any]] = {}
        self.may_answer = threading.Event()

    def resolve(self, reference: Reference) -> ResolvedVersion:
        self.answers.get(reference.name, lambda: None)()
        return super().resolve(reference)

    def aliases(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Does not list them, as a registry hides the models that may not be read."""
        return super().aliases([name for name in names if name not in self.answers])


class Shop:
    """A server that follows deployments, without processes: its engines report that they are ready, no more."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.home, self.world = home, World()
        self.registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
        self.versions = Registry(self.registry)
        run = home / "run" / "1"
        (run / "engines").mkdir(parents=True)
        self.settings = ServingSettings(self.registry, (), run, deployments=True, poll_seconds=1.0, load_seconds=1e12)
        watch = RegistryWatch(
            self.settings,
            threading.Event().set,
            lambda: self.versions,
            make_pool=lambda limit, name: InlineExecutor() if limit == 1 else DaemonPool(limit, name),
            spread=exactly,
        )
        self.manager = Manager(
            self.settings, engine=FakeEngineProcess, watch=watch, limits=self.world.limits, spread=exactly
        )
        self.manager._loader.close()
        self.manager._loader.fetchers = InlineExecutor()
        self.loop = asyncio.new_event_loop()
        self.routing = Routing(self.settings, TableFile(run))

    def close(self) -> None:
        self.versions.may_answer.set()
        self.routing.close()
        cancelled = asyncio.all_tasks(self.loop)
        if cancelled:
            self.loop.run_until_complete(asyncio.wait(cancelled))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.manager._watch.close()

    def settle(self) -> Table:
        """Step the manager, let engines load, and let the front follow; the table."""
        self.manage()
        self.follow()
        return TableFile(self.settings.run).read()

    def follow(self) -> None:
        """Let the front follow the table."""
        self.loop.run_until_complete(self.routing.catch_up())

    def manage(self, turns: int = 5) -> None:
        """Step the manager, and let engines load or leave. The registry is asked in the first turn."""
        for turn in range(turns):
            self.world.now += 0.1 if turn else 1.1 * self.settings.poll_seconds
            self.manager.step(self.world.now)
            for process in self.world.running():
                if process.asked_to_leave or not Path(order_path(process.order.report)).is_file():
                    process.returncode = 0
                else:
                    write_report(Path(process.order.report), ready(process))

    def promote(self, name: str, version: str) -> None:
        self.versions._client.set_registered_model_alias(name, "champion", version)

    def folder(self, name: str, version: str) -> Path:
        """Where the files of a version are in the store."""
        source = self.versions.resolve(Reference(name, version=version)).source
        (found,) = self.home.glob(f"artifacts/**/{source.rpartition('/')[2]}")
        return next(path.parent for path in found.rglob("MLmodel"))


@pytest.fixture
def shop(template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with TemporaryDirectory(prefix="hw") as folder:  # sockets need a short path
        copy_home(template, Path(folder) / "h")
        monkeypatch.setattr(routing, "PATIENCE_SECONDS", WAIT_SECONDS)
        monkeypatch.setattr(registry_poll, "SLOW_SECONDS", WAIT_SECONDS)
        made = Shop(Path(folder) / "h", monkeypatch)
        monkeypatch.setattr(FakeEngineProcess, "world", made.world, raising=False)
        yield made
        made.close()


def tag(value: str) -> Callable[[Shop], None]:
    return lambda shop: shop.versions._client.set_registered_model_tag("bad", DEPLOYED, value)


def tag_version(value: str) -> Callable[[Shop], None]:
    def spoil(shop: Shop) -> None:
        shop.versions._client.set_model_version_tag("bad", "2", DIGEST, value)
        shop.promote("bad", "2")

    return spoil


def lose_files(shop: Shop) -> None:
    shutil.rmtree(shop.folder("bad", "2") / "model")
    shop.promote("bad", "2")


def spoil_record(shop: Shop) -> None:
    (shop.folder("bad", "2") / "MLmodel").write_bytes(b"flavors: [\xff")
    shop.promote("bad", "2")


def name_another_store(shop: Shop) -> None:
    found = shop.versions._client.create_model_version("bad", "no-such-store://nowhere/at/all", tags={DIGEST: "0" * 64})
    shop.promote("bad", str(found.version))


def fail(error: Exception) -> Callable[[Shop], None]:
    def spoil(shop: Shop) -> None:
        def answer() -> None:
            raise error

        shop.versions.answers["bad"] = answer

    return spoil


def hang(shop: Shop) -> None:
    def wait_for_others(asked: Collection[Future[Any]], seconds: float) -> None:
        """However long they take: it is `bad` that is late."""
        waiting = shop.manager._watch._poll._waiting
        bad = [future for reference, future in waiting.items() if reference.name == "bad"]
        wait([future for future in asked if future not in bad], seconds)

    shop.patch.setattr(registry_poll, "wait", wait_for_others)
    shop.versions.answers["bad"] = lambda: shop.versions.may_answer.wait(WAIT_SECONDS)


TROUBLES: dict[str, tuple[Callable[[Shop], None], str]] = {
    # what is wrong with `bad`: how it comes about, and a part of the reason that its status gives
    "a mark that is no alias": (tag("not an alias!"), "is not allowed"),
    "a mark that is empty": (tag(""), "is not allowed"),
    "a mark that is too long": (tag("x" * 3000), "is not allowed"),
    "a mark with another reference": (tag("champion@canary"), "is not allowed"),
    "a mark that names a missing alias": (tag("canary"), "no bad@canary"),
    "a digest that is none": (tag_version("nonsense"), "which is no sha256"),
    "a digest that is too long": (tag_version("x" * 3000), "which is no sha256"),
    "a digest that leads elsewhere": (tag_version("../../.."), "which is no sha256"),
    "files that are gone": (lose_files, "is missing"),
    "a record that cannot be read": (spoil_record, "MLmodel"),
    "a store that nobody knows": (name_another_store, "no-such-store"),
    "an answer that is refused": (fail(RequestRefused("it may not be read")), "it may not be read"),
    "an answer that makes no sense": (fail(RegistryUnavailable("MLflow answered nonsense")), "answered nonsense"),
    "an answer that fails": (fail(ZeroDivisionError("a bug of MLflow's")), "a bug of MLflow's"),
    "an answer that never comes": (hang, "no answer for bad@champion"),
}


MAY_PASS = (
    "a store that nobody knows",
    "an answer that makes no sense",
    "an answer that fails",
    "an answer that never comes",
)


def reason(table: Table) -> str:
    """Everything that the status of `bad` says to be wrong."""
    entry = table.models["bad"]
    return "; ".join([entry.error, *(found.error for found in entry.versions.values())])


def served(shop: Shop, name: str) -> str | None:
    """The version that a request for the model gets from the front; None for a refusal."""
    try:
        return shop.routing.find(name, None).choose_link() and shop.routing.find(name, None).version
    except ServingError:
        return None


@pytest.mark.sweep
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_at_the_start_is_its_models_alone(shop: Shop, trouble: str) -> None:
    spoil, cause = TROUBLES[trouble]
    spoil(shop)
    table = shop.settle()
    assert (served(shop, "good"), served(shop, "bad")) == ("1", None)
    assert cause in reason(table), table.models["bad"]
    assert table.registry_error == ""
    if trouble in MAY_PASS:
        assert not shop.routing.is_ready(), "it may be over in a moment"
        shop.world.now += shop.settings.retry_seconds
        shop.manager._startup._patience_seconds = 0.0
        shop.settle()
    assert shop.routing.is_ready()
    assert (shop.routing.answers("good"), shop.routing.answers("bad")) == (True, False)
    shop.promote("good", "2")
    shop.settle()
    assert served(shop, "good") == "2"


@pytest.mark.sweep
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_while_it_serves_is_its_models_alone_and_costs_no_live_version(shop: Shop, trouble: str) -> None:
    spoil, cause = TROUBLES[trouble]
    shop.settle()
    assert (served(shop, "good"), served(shop, "bad"), shop.routing.is_ready()) == ("1", "1", True)
    spoil(shop)
    table = shop.settle()
    assert cause in reason(table), table.models["bad"]
    assert table.registry_error == ""
    assert (served(shop, "good"), served(shop, "bad"), shop.routing.is_ready()) == ("1", "1", True)
    shop.promote("good", "2")
    shop.settle()
    assert (served(shop, "good"), served(shop, "bad")) == ("2", "1")


def test_files_that_a_front_cannot_read_are_their_versions_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.settle()
    for name in MODELS:
        shop.promote(name, "2")
    shop.manage()
    version = TableFile(shop.settings.run).read().models["bad"].versions["2"]
    tokenizer = Path(version.root) / "model" / "tokenizer.json"
    whole = tokenizer.read_bytes()
    tokenizer.chmod(0o600)
    tokenizer.write_bytes(whole[:-1])
    monkeypatch.setattr(version_loads, "FIRST_PAUSE_SECONDS", 0.0)
    shop.follow()
    assert (served(shop, "good"), served(shop, "bad")) == ("2", "1")
    assert "tokenizer.json" in shop.routing.table.models["bad"].versions["2"].error
    with pytest.raises(NotReady, match="cannot be read by this front now: see GET /models/bad"):
        shop.routing.find("bad", "2")
    tokenizer.write_bytes(whole)
    wait_until(lambda: shop.follow() or served(shop, "bad") == "2", "the front has read it")
    assert served(shop, "good") == "2"
    assert shop.routing.table.models["bad"].versions["2"].error == ""


def test_a_version_that_a_front_reads_slowly_holds_up_its_own_model_only(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.settle()
    may_read = threading.Event()
    load = LoadedVersion.load

    def slow(model: str, version: str, root: Path, contract: Contract) -> LoadedVersion:
        assert model == "good" or may_read.wait(WAIT_SECONDS)
        return load(model, version, root, contract)

    monkeypatch.setattr(LoadedVersion, "load", slow)
    monkeypatch.setattr(routing, "PATIENCE_SECONDS", 0.1)
    for name in MODELS:
        shop.promote(name, "2")
    shop.manage()
    wait_until(lambda: shop.follow() or served(shop, "good") == "2", "the other model is followed")
    wait_until(lambda: shop.follow() or shop.routing.table.models["bad"].live == "2", "patience has ended")
    assert served(shop, "bad") == "1", "the one before it"
    may_read.set()
    wait_until(lambda: shop.follow() or served(shop, "bad") == "2", "it has been read")


def test_a_front_whose_server_starts_is_not_ready_before_it_has_read_what_is_live(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, may_read = threading.Event(), threading.Event()
    load = LoadedVersion.load

    def slow(model: str, version: str, root: Path, contract: Contract) -> LoadedVersion:
        has_begun.set()
        assert may_read.wait(WAIT_SECONDS)
        return load(model, version, root, contract)

    monkeypatch.setattr(LoadedVersion, "load", slow)
    shop.manage()
    assert TableFile(shop.settings.run).read().has_started
    following = shop.loop.create_task(shop.routing.catch_up())
    shop.loop.run_until_complete(asyncio.to_thread(has_begun.wait, WAIT_SECONDS))
    assert not following.done()
    assert not shop.routing.is_ready()
    may_read.set()
    shop.loop.run_until_complete(following)
    assert shop.routing.is_ready()


def test_a_download_that_never_ends_is_given_up_and_not_begun_again_beside_itself(shop: Shop) -> None:
    shop.settle()
    may_end, begun = threading.Event(), []
    manager = shop.manager
    fetch = manager._loader.fetch

    def hang(version: ResolvedVersion, settings: RegistrySettings) -> Fetched:
        begun.append((version.name, version.version))
        assert version.name == "good" or may_end.wait(WAIT_SECONDS)
        return fetch(version, settings)

    manager._loader.fetch, manager._loader.fetchers = hang, ThreadPoolExecutor(2)
    shop.promote("bad", "2")
    manager.settings = msgspec.structs.replace(shop.settings, load_seconds=5.0)
    wait_until(lambda: "HEADWAITER_LOAD_SECONDS=5" in reason(shop.settle()), "its load is given up")
    manager.settings = shop.settings
    shop.world.now += shop.settings.retry_seconds
    shop.promote("good", "2")
    wait_until(lambda: shop.settle() and served(shop, "good") == "2", "the other model is followed")
    assert (served(shop, "bad"), shop.routing.table.models["bad"].versions["2"].attempt) == ("1", 2)
    may_end.set()
    wait_until(lambda: shop.settle() and served(shop, "bad") == "2", "its download has ended")
    assert sorted(begun) == [("bad", "2"), ("good", "2")]
    manager._loader.close()


def test_a_download_that_a_store_lets_stall_is_begun_anew(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store drips: the download is given up by itself, and the next attempt has one of its own."""
    shop.settle()
    may_end, begun, manager = threading.Event(), [], shop.manager
    fetch = manager._loader.fetch

    def drip(version: ResolvedVersion, settings: RegistrySettings) -> Fetched:
        begun.append(version.version)
        if len(begun) == 1:
            try:
                download._watched(lambda: may_end.wait(WAIT_SECONDS), shop.home / "cache")
            except TimeoutError as error:
                raise RegistryUnavailable(f"the files could not be downloaded: {error}") from error
        return fetch(version, settings)

    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(download, "LOOK_SECONDS", 0.05)
    manager._loader.fetch, manager._loader.fetchers = drip, ThreadPoolExecutor(1)
    shop.promote("bad", "2")
    wait_until(lambda: "bytes came in" in reason(shop.settle()), "its download is given up")
    shop.world.now += shop.settings.retry_seconds
    wait_until(lambda: shop.settle() and served(shop, "bad") == "2", "another download has brought it")
    assert begun == ["2", "2"]
    may_end.set()
    manager._loader.close()


def test_an_engine_that_a_front_cannot_connect_to_is_its_versions_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.settle()
    for name in MODELS:
        shop.promote(name, "2")
    shop.manage()
    (engine,) = TableFile(shop.settings.run).read().models["bad"].versions["2"].engines
    connect = engine_links.EngineLink

    def refuse(context: Any, address: str, *given: Any) -> EngineLink:
        if address == engine.address:
            raise OSError(errno.EMFILE, "too many open files")
        return connect(context, address, *given)

    with monkeypatch.context() as patch:
        patch.setattr(engine_links, "EngineLink", refuse)
        shop.follow()
        assert (served(shop, "good"), served(shop, "bad")) == ("2", "1")
    shop.follow()
    assert (served(shop, "good"), served(shop, "bad")) == ("2", "2")
