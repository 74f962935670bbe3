"""What a store or another user can do to the cache, and what leaves it. The artifact is a small one of format 1."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import msgspec
import pytest
import yaml

from registry import cache, download
from registry.artifact import read_contract
from registry.cache import discard, fetch, fetch_and_pin, fetch_for_loading, is_cached, peek
from registry.cache_folder import CacheFolder, hold
from registry.errors import (
    ArtifactError,
    ContractError,
    DigestMismatch,
    IncompleteArtifact,
    RegistryUnavailable,
    UnpinnedArtifact,
    UnsafeArtifact,
)
from registry.references import ResolvedVersion
from registry.settings import InvalidSetting, RegistrySettings
from registry.tracking import connect
from registry.transformers_flavor import derive
from tests.abilities import needs
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

FIXTURE = Path(__file__).parents[1] / "fixtures" / "artifact-of-format-1"
NOBODY = 65534


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """An artifact in a store that is a folder of this machine."""
    return shutil.copytree(FIXTURE, tmp_path / "store" / "artifact")


@pytest.fixture
def version(stored: Path) -> ResolvedVersion:
    return ResolvedVersion("m", "1", stored.as_uri(), read_contract(FIXTURE).digest)


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def is_same(opened: TextIO, path: Path) -> bool:
    """Whether the path still names the file that was opened."""
    return os.path.samestat(os.fstat(opened.fileno()), path.stat())


def make_old(root: Path, age_seconds: float) -> None:
    used = root.stat().st_mtime - age_seconds
    os.utime(root, (used, used))


def test_cached_files_are_this_users_alone(version: ResolvedVersion, settings: RegistrySettings) -> None:
    root, contract = fetch(version, settings)
    assert root == settings.cache / contract.digest
    modes = {path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}
    assert modes == {0o400}
    assert {path.stat().st_mode & 0o777 for path in (settings.cache, root, root / "model")} == {0o700}


def test_a_cache_that_others_could_read_is_closed(version: ResolvedVersion, settings: RegistrySettings) -> None:
    settings.cache.mkdir(parents=True)
    settings.cache.chmod(0o777)
    fetch(version, settings)
    assert settings.cache.stat().st_mode & 0o777 == 0o700


@needs("other owners")
def test_a_cache_of_another_user_is_refused(version: ResolvedVersion, settings: RegistrySettings) -> None:
    settings.cache.mkdir(parents=True)
    os.chown(settings.cache, NOBODY, NOBODY)
    with pytest.raises(InvalidSetting, match=f"belongs to user {NOBODY}"):
        fetch(version, settings)


def test_a_cache_that_is_a_link_is_refused(
    version: ResolvedVersion, settings: RegistrySettings, tmp_path: Path
) -> None:
    settings.home.mkdir()
    settings.cache.symlink_to(tmp_path)
    with pytest.raises(InvalidSetting, match="is a link"):
        fetch(version, settings)


def give_away(root: Path) -> None:
    os.chown(root / "model" / "config.json", NOBODY, NOBODY)


def name_twice(root: Path) -> None:
    os.link(root / "model" / "config.json", root.parent / "another name")


def let_others_write(root: Path) -> None:
    (root / "model" / "config.json").chmod(0o666)


def replace_by_a_link(root: Path) -> None:
    place = root / "model" / "config.json"
    place.rename(root.parent / "moved.json")
    place.symlink_to(root.parent / "moved.json")


def replace_by_a_fifo(root: Path) -> None:
    (root / "model" / "config.json").unlink()
    os.mkfifo(root / "model" / "config.json")


def add_a_file(root: Path) -> None:
    (root / "model" / "added.json").write_text("{}")


def change_the_record(root: Path) -> None:
    described = root / "MLmodel"
    described.chmod(0o600)
    described.write_text(described.read_text().replace("max_tokens: 64", "max_tokens: 60"))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(give_away, marks=needs("other owners")),
        *(name_twice, let_others_write, replace_by_a_link, replace_by_a_fifo, add_a_file, change_the_record),
    ],
)
def test_what_somebody_changed_in_the_cache_is_fetched_again(
    version: ResolvedVersion, settings: RegistrySettings, spoil: Callable[[Path], None]
) -> None:
    held, contract = fetch_for_loading(version, settings)
    root = held.root
    with (root / "MLmodel").open() as before:
        again = fetch_for_loading(version, settings)
        assert (again[0].root, again[1]) == (root, contract)
        assert is_same(before, root / "MLmodel")
        spoil(root)
        again = fetch_for_loading(version, settings)
        assert (again[0].root, again[1]) == (root, contract)
        assert not is_same(before, root / "MLmodel")
    assert not list(settings.cache.glob(".*"))


def test_weights_are_hashed_where_nobody_else_does_it(version: ResolvedVersion, settings: RegistrySettings) -> None:
    root, _ = fetch(version, settings)
    flip_last_byte(root / "model" / "model.safetensors")
    with (root / "MLmodel").open() as before:
        fetch_for_loading(version, settings)
        assert is_same(before, root / "MLmodel")  # the engine will see it
        fetch(version, settings)
        assert not is_same(before, root / "MLmodel")


def test_a_version_without_a_digest_is_not_served(version: ResolvedVersion, settings: RegistrySettings) -> None:
    unpinned = ResolvedVersion("m", "1", version.source, None)
    with pytest.raises(UnpinnedArtifact, match="headwaiter promote m 1"):
        fetch(unpinned, settings)
    assert not settings.cache.exists()
    pinned, held, contract = fetch_and_pin(unpinned, settings)
    assert (pinned, held.root) == (version, settings.cache / contract.digest)
    assert peek(unpinned, settings) == contract


@pytest.mark.parametrize("digest", ["../..", "", "A" * 64, "0" * 63, "٠" * 64, f"{'0' * 64}\n", "."])
def test_a_digest_that_is_none_names_no_folder(
    version: ResolvedVersion, settings: RegistrySettings, digest: str
) -> None:
    settings.cache.mkdir(parents=True)
    (settings.home / "mlflow.db").touch()
    for read in (fetch, peek):
        with pytest.raises(DigestMismatch):
            read(ResolvedVersion("m", "1", version.source, digest), settings)
    assert (settings.home / "mlflow.db").exists()


def link_a_folder(stored: Path) -> None:
    shutil.move(stored / "model", stored.parent / "elsewhere")
    (stored / "model").symlink_to(stored.parent / "elsewhere")


def grow(stored: Path) -> None:
    with (stored / "model" / "model.safetensors").open("ab") as file:
        file.truncate(1 << 40)


STORED: dict[str, tuple[Callable[[Path], None], type[Exception]]] = {
    "a link": (replace_by_a_link, UnsafeArtifact),
    "a link to a folder": (link_a_folder, ArtifactError),
    "a FIFO": (replace_by_a_fifo, UnsafeArtifact),
    "a file that nobody logged": (add_a_file, DigestMismatch),
    "another record": (change_the_record, DigestMismatch),
    "weights of a TiB": (grow, InvalidSetting),
}


@pytest.mark.parametrize("attack", STORED)
def test_a_store_cannot_make_this_machine_read_or_keep_anything_else(
    version: ResolvedVersion, settings: RegistrySettings, stored: Path, attack: str
) -> None:
    spoil, error = STORED[attack]
    spoil(stored)
    with pytest.raises(error):
        fetch(version, settings)
    assert list(settings.cache.iterdir()) == []


@pytest.mark.parametrize(
    ("tracking", "hosts", "location", "is_allowed"),
    [
        ("https://mlflow.org.example", (), "mlflow-artifacts:/0/artifacts", True),
        ("https://mlflow.org.example", (), "mlflow-artifacts://mlflow.org.example/0", True),
        ("https://me:secret@mlflow.org.example:443", (), "https://MLflow.org.example/api/2.0/mlflow-artifacts", True),
        ("https://mlflow.org.example", ("files.example:8080",), "http://files.example:8080/0", True),
        ("https://mlflow.org.example", (), "s3://files.example/0", True),
        ("https://mlflow.org.example", (), "http://evil.example/mlflow-artifacts/artifacts/0", False),
        ("https://mlflow.org.example", (), "HTTPS://evil.example/mlflow-artifacts/artifacts/0", False),
        ("https://mlflow.org.example", (), "https:evil.example/0", False),
        ("https://mlflow.org.example", (), "https://mlflow.org.example:444/0", False),
        ("https://mlflow.org.example", (), "mlflow-artifacts://evil.example/0", False),
        ("sqlite:////mlflow.db", (), "http://evil.example/0", False),
    ],
)
def test_no_other_server_gets_the_credentials_for_mlflow(
    tracking: str, hosts: tuple[str, ...], location: str, *, is_allowed: bool
) -> None:
    version = ResolvedVersion("m", "1", location, None)
    settings = RegistrySettings(Path("/none"), tracking, artifact_hosts=hosts)
    if is_allowed:
        download.check_location(location, version, settings)
    else:
        with pytest.raises(UnsafeArtifact, match="HEADWAITER_ARTIFACT_HOSTS"):
            download.check_location(location, version, settings)


def test_a_version_at_another_server_is_not_fetched(version: ResolvedVersion, settings: RegistrySettings) -> None:
    with pytest.raises(UnsafeArtifact, match=r"the files of m/1 are at evil\.example"):
        fetch(replace(version, source="http://evil.example/mlflow-artifacts/artifacts/0"), settings)


@pytest.mark.parametrize(
    "location",
    [
        "https://mlflow.org.example@evil.example/0",
        "https://evil.example\\@mlflow.org.example/0",
        "mlflow-artifacts://evil.example\\@mlflow.org.example/0",
        "https://mlflow.org.example\\@evil.example/0",
        " https://evil.example/0",
        "\u2003https://evil.example/0",
        "ht\ntps://evil.example/0",
        "https://evil.example /0",
        "/a/folder\x00",
        "/a/folder ",
        "https://[evil.example/0",
    ],
)
def test_an_address_that_parsers_read_in_several_ways_is_refused(
    version: ResolvedVersion, settings: RegistrySettings, location: str
) -> None:
    trusting = msgspec.structs.replace(settings, artifact_hosts=("mlflow.org.example",))
    with pytest.raises(UnsafeArtifact, match=r"the files of m/1 are at .*log the model again"):
        fetch(replace(version, source=location), trusting)


@pytest.mark.parametrize("folder", ["a folder", "a\\folder", "me@home"])
def test_folders_of_this_machine_may_have_any_plain_name(settings: RegistrySettings, folder: str) -> None:
    download.check_location(f"/{folder}", ResolvedVersion("m", "1", "", None), settings)


def run_at(place: str, settings: RegistrySettings) -> str:
    """The id of a run whose artifacts are at the address."""
    client = connect(settings)
    return str(client.create_run(client.create_experiment(place, artifact_location=place)).info.run_id)


@pytest.mark.parametrize("kind", ["runs", "RUNS"])
def test_a_run_whose_artifacts_are_at_another_server_is_not_fetched(
    version: ResolvedVersion, settings: RegistrySettings, kind: str
) -> None:
    run = run_at("http://evil.example/api/2.0/mlflow-artifacts/artifacts", settings)
    with pytest.raises(UnsafeArtifact, match=r"the files of m/1 are at evil\.example"):
        fetch(replace(version, source=f"{kind}:/{run}/model"), settings)


def test_a_runs_files_on_this_machine_are_read_as_such(
    version: ResolvedVersion, settings: RegistrySettings, stored: Path, tmp_path: Path
) -> None:
    run = run_at(str(tmp_path / "runs"), settings)
    of_run = replace(version, source=f"runs:/{run}/model")
    root = Path(shutil.copytree(stored, tmp_path / "runs" / run / "artifacts" / "model"))
    assert fetch(of_run, settings)[0].is_dir()
    shutil.rmtree(settings.cache)
    (root / "MLmodel").unlink()
    (root / "MLmodel").symlink_to(stored / "MLmodel")
    with pytest.raises(UnsafeArtifact):
        fetch(of_run, settings)


def test_models_that_lead_to_one_another_are_not_followed_for_ever(
    version: ResolvedVersion, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_trip = SimpleNamespace(get_logged_model=lambda name: SimpleNamespace(artifact_location=f"models:/{name}"))
    monkeypatch.setattr(download, "connect", lambda _: round_trip)
    with pytest.raises(UnsafeArtifact, match="names another run or model again"):
        fetch(replace(version, source="models:/m-1"), settings)


def test_a_panic_of_a_library_refuses_the_version(
    version: ResolvedVersion, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object) -> None:
        raise type("PanicException", (BaseException,), {})

    monkeypatch.setattr(cache, "read_contract", panic)
    with pytest.raises(ArtifactError, match="reading the files of m/1 failed"):
        fetch_for_loading(version, settings)


def test_a_store_that_is_gone_says_so(version: ResolvedVersion, settings: RegistrySettings, stored: Path) -> None:
    shutil.rmtree(stored)
    with pytest.raises(IncompleteArtifact, match="holds no MLmodel"):
        fetch(version, settings)
    stored.write_text("no folder")
    with pytest.raises(IncompleteArtifact, match="holds no MLmodel"):
        fetch(version, settings)


def plain_flavor(stored: Path, **fields: object) -> ResolvedVersion:
    """The artifact as if `mlflow.transformers.log_model` had logged it."""
    flavor = {"model_binary": "model", "task": "text-classification", "framework": "pt", **fields}
    (stored / "MLmodel").write_text(yaml.safe_dump({"flavors": {"transformers": flavor}}))
    return ResolvedVersion("m", "1", stored.as_uri(), None)


@pytest.mark.parametrize("name", ["../../secrets", "/etc", "prompt", "tokenizer/../../../secrets"])
def test_components_name_no_folder_of_this_machine(
    settings: RegistrySettings, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(cache, "add_contract", derive)  # not in a process of its own, which takes seconds
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "config.json").write_text("{}")
    with pytest.raises(ContractError, match="has the component"):
        fetch_and_pin(plain_flavor(stored, components=[name]), settings)
    assert list(settings.cache.iterdir()) == []


def test_a_component_that_is_a_link_is_not_followed(settings: RegistrySettings, stored: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "vocab.json").write_text("{}")
    (stored / "components").mkdir()
    version = plain_flavor(stored, components=["tokenizer"])
    (stored / "components" / "tokenizer").symlink_to(tmp_path / "secrets")
    with pytest.raises(UnsafeArtifact, match="components/tokenizer.* is a link"):
        fetch_and_pin(version, settings)
    (stored / "components" / "tokenizer").unlink()
    (stored / "components" / "tokenizer").mkdir()
    os.link(tmp_path / "secrets" / "vocab.json", stored / "components" / "tokenizer" / "vocab.json")
    with pytest.raises(UnsafeArtifact, match=r"vocab\.json has 2 names"):
        fetch_and_pin(version, settings)
    assert list(settings.cache.iterdir()) == []


class Entry(msgspec.Struct):
    """As MLflow's FileInfo."""

    path: str
    is_dir: bool = False
    file_size: int | None = 1


class Store:
    """A store that is elsewhere: it lists what it likes, and copies a real artifact's record."""

    def __init__(self, *listed: Entry) -> None:
        self.listed = {"": [Entry("MLmodel")], "model": list(listed)}
        self.downloaded: list[str] = []

    def list_artifacts(self, path: str) -> list[Entry]:
        return self.listed.get(path, [])

    def download_artifacts(self, path: str, target: str) -> None:
        self.downloaded.append(path)
        shutil.copy(FIXTURE / path, Path(target) / path)


@pytest.mark.parametrize(
    ("listed", "error"),
    [
        (Entry("model/../../secret.json"), UnsafeArtifact),
        (Entry("/etc/passwd"), UnsafeArtifact),
        (Entry("model/a\nb.json"), UnsafeArtifact),
        (Entry("model/\udcff.json"), UnsafeArtifact),
        (Entry("model/modeling.py"), UnsafeArtifact),
        (Entry("model/added.json"), IncompleteArtifact),
        (Entry("other", is_dir=True), UnsafeArtifact),
    ],
)
def test_a_listing_is_checked_before_anything_is_downloaded(
    settings: RegistrySettings, version: ResolvedVersion, monkeypatch: pytest.MonkeyPatch, listed: Entry, error: type
) -> None:
    store = Store(listed)
    monkeypatch.setattr(download, "_find_store", lambda *_: store)
    with pytest.raises(error):
        fetch(version, settings)
    assert store.downloaded == ["MLmodel"]


def test_folders_without_end_are_not_followed(
    settings: RegistrySettings, version: ResolvedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(Store):
        def list_artifacts(self, path: str) -> list[Entry]:
            return self.listed[path] if not path else [Entry(f"{path}/more", is_dir=True)]

    store = Endless()
    monkeypatch.setattr(download, "_find_store", lambda *_: store)
    with pytest.raises(UnsafeArtifact, match="folders in folders"):
        fetch(version, settings)


def test_sizes_that_a_store_states_are_bounded(
    settings: RegistrySettings, version: ResolvedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(*(Entry(name, file_size=1 << 50) for name in read_contract(FIXTURE).files))
    monkeypatch.setattr(download, "_find_store", lambda *_: store)
    with pytest.raises(InvalidSetting, match="HEADWAITER_ARTIFACT_CACHE_BYTES"):
        fetch(version, settings)
    store.listed[""] = [Entry("MLmodel", file_size=1 << 40)]
    with pytest.raises(UnsafeArtifact, match="MLmodel has"):
        fetch(version, settings)
    assert store.downloaded == ["MLmodel"]


def test_leftovers_of_a_killed_download_go_and_a_running_download_stays(
    settings: RegistrySettings, version: ResolvedVersion
) -> None:
    cache = CacheFolder(settings)
    killed = (
        "import os, sys\n"
        "from registry.cache_folder import CacheFolder\n"
        "from registry.settings import RegistrySettings\n"
        "with CacheFolder(RegistrySettings.from_environment()).staging() as folder:\n"
        "    (folder / 'half').write_bytes(b'x')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", killed], check=False)
    (left,) = settings.cache.iterdir()
    assert (left / "half").exists()
    with cache.staging() as running:
        assert not left.exists()
        fetch(version, settings)
        assert running.exists()
    assert [path.name for path in settings.cache.iterdir()] == [version.digest]


def is_waiting() -> bool:
    """Whether a thread of this process waits for a lock that another descriptor of it has."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "-> FLOCK" in line]
    return str(os.getpid()) in {fields[5] for fields in waiting}


def test_of_several_who_want_an_artifact_one_downloads_it(
    settings: RegistrySettings, version: ResolvedVersion, stored: Path, tmp_path: Path
) -> None:
    other, _ = fetch(version, msgspec.structs.replace(settings, home=tmp_path / "other"))
    assert version.digest is not None
    with ThreadPoolExecutor(1) as pool:
        with CacheFolder(settings).fetching(version.digest):
            asked = pool.submit(fetch, version, settings)
            wait_until(is_waiting, "it waits for who downloads")
            shutil.rmtree(stored)
            shutil.copytree(other, settings.cache / version.digest)
        root, _ = asked.result(WAIT_SECONDS)
    assert [path.name for path in settings.cache.iterdir()] == [root.name]


def fill(settings: RegistrySettings, *digits: str, size_bytes: int = 1000) -> list[Path]:
    """Artifacts in the cache, the first one used longest ago."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    roots = [settings.cache / (digit * 64) for digit in digits]
    for number, root in enumerate(roots):
        root.mkdir()
        (root / "model.safetensors").write_bytes(bytes(size_bytes))
        make_old(root, 36000 - number)
    return roots


def bounded(settings: RegistrySettings, max_bytes: int) -> CacheFolder:
    return CacheFolder(msgspec.structs.replace(settings, artifact_cache_bytes=max_bytes))


def test_what_was_not_used_for_longest_leaves(settings: RegistrySettings) -> None:
    first, second, third = fill(settings, "a", "b", "c")
    cache = bounded(settings, 3500)
    cache.make_room(500)
    assert set(settings.cache.iterdir()) == {first, second, third}
    found = cache.find("a" * 64)
    assert found is not None
    assert found.root == first
    del found  # it was used last, and is no longer
    cache.make_room(1600)
    assert set(settings.cache.iterdir()) == {first}
    with pytest.raises(InvalidSetting, match="HEADWAITER_ARTIFACT_CACHE_BYTES"):
        cache.make_room(3501)


class DrippingStore:
    """A store that is elsewhere. It hangs until `may_end`, and then copies the artifact."""

    def __init__(self, root: Path) -> None:
        self.root, self.may_end, self.begun = root, threading.Event(), 0

    def list_artifacts(self, folder: str) -> list[SimpleNamespace]:
        found = sorted((self.root / folder).iterdir())
        names = [(path, str(path.relative_to(self.root))) for path in found]
        return [SimpleNamespace(path=name, is_dir=path.is_dir(), file_size=path.stat().st_size) for path, name in names]

    def download_artifacts(self, name: str, target: str) -> None:
        self.begun += 1
        assert self.may_end.wait(WAIT_SECONDS)
        copy = shutil.copytree if (self.root / name).is_dir() else shutil.copy
        copy(self.root / name, Path(target) / name)


def test_a_download_that_brings_too_little_ends_and_the_next_one_begins_anew(
    settings: RegistrySettings, version: ResolvedVersion, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DrippingStore(stored)
    monkeypatch.setattr(download, "_find_store", lambda *_: store)
    monkeypatch.setattr(download, "_is_local", lambda _: False)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(download, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(download, "_stalled", [])
    for begun in (1, 2):
        with pytest.raises(RegistryUnavailable, match="bytes came in"):
            fetch(version, settings)
        assert store.begun == begun
    monkeypatch.setattr(download, "MAX_STALLED", 2)
    with pytest.raises(RegistryUnavailable, match="have not ended"):
        fetch(version, settings)
    monkeypatch.setattr(download, "STALL_SECONDS", WAIT_SECONDS)
    store.may_end.set()
    wait_until(lambda: all(each.done() for each in download._stalled), "they have ended")
    assert fetch(version, settings)[0].is_dir()


@pytest.mark.parametrize("hangs_at", ["", "model"])
def test_a_listing_that_does_not_end_is_given_up(
    settings: RegistrySettings, version: ResolvedVersion, stored: Path, monkeypatch: pytest.MonkeyPatch, hangs_at: str
) -> None:
    class DrippingListing(DrippingStore):
        def list_artifacts(self, folder: str) -> list[SimpleNamespace]:
            assert folder != hangs_at or self.may_end.wait(WAIT_SECONDS)
            return super().list_artifacts(folder)

    store = DrippingListing(stored)
    download_artifacts = store.download_artifacts

    def download_at_once(name: str, target: str) -> None:
        store.may_end.set()
        download_artifacts(name, target)
        store.may_end.clear()

    monkeypatch.setattr(store, "download_artifacts", download_at_once)
    monkeypatch.setattr(download, "_find_store", lambda *_: store)
    monkeypatch.setattr(download, "_is_local", lambda _: False)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(download, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(download, "_stalled", [])
    with pytest.raises(RegistryUnavailable, match="no whole listing"):
        fetch(version, settings)
    store.may_end.set()
    wait_until(lambda: all(each.done() for each in download._stalled), "it has ended")


def test_files_that_vanish_while_sizes_are_read_count_nothing(
    settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root,) = fill(settings, "a")
    (root / "graphs").mkdir()
    left = root / "graphs" / "a.tmp"
    left.write_bytes(bytes(100))
    lstat = Path.lstat

    def vanish(path: Path) -> os.stat_result:
        if path == left:
            path.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", vanish)
    bounded(settings, 1500).make_room(500)
    assert not left.exists()
    assert root.exists()


def test_what_can_be_left_out_has_room_where_what_is_held_leaves_some(settings: RegistrySettings) -> None:
    held, _ = fill(settings, "a", "b")
    cache = bounded(settings, 2000)
    kept = cache.find("a" * 64)
    assert kept is not None
    assert not cache.finds_room(1500)
    assert set(settings.cache.iterdir()) == {held}, "what is held stays, and room was made for others"
    assert cache.finds_room(1000)
    assert not cache.finds_room(2001)


@pytest.mark.parametrize("age_seconds", [-1e9, 0.0, 1e9])
def test_what_is_about_to_be_loaded_stays_whatever_the_clock_says(
    settings: RegistrySettings, version: ResolvedVersion, age_seconds: float
) -> None:
    held = [fetch_for_loading(version, settings)[0] for _ in ("fetched", "found")]
    root = settings.cache / str(version.digest)
    while held:
        make_old(root, age_seconds)
        bounded(settings, 100).make_room(100)
        assert root.exists()
        held.pop()
    bounded(settings, 100).make_room(100)
    assert not root.exists()


def test_what_runs_stays(settings: RegistrySettings) -> None:
    running, free = fill(settings, "a", "b")
    engine = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys; from pathlib import Path; from registry.cache_folder import hold\n"
            "hold(Path(sys.argv[1])); print(flush=True); sys.stdin.read()",
            str(running),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert engine.stdout is not None
    assert engine.stdin is not None
    engine.stdout.readline()
    make_old(running, 1e9)
    bounded(settings, 100).make_room(100)
    assert set(settings.cache.iterdir()) == {running}
    assert not free.exists()
    engine.stdin.close()
    engine.stdout.close()
    engine.wait()
    bounded(settings, 100).make_room(100)
    assert not list(settings.cache.iterdir())


def test_an_engine_notices_that_its_artifact_is_gone(settings: RegistrySettings) -> None:
    with pytest.raises(DigestMismatch, match="no longer in the cache"):
        hold(settings.cache / ("a" * 64))


def test_a_discarded_artifact_is_fetched_again(version: ResolvedVersion, settings: RegistrySettings) -> None:
    root, _ = fetch(version, settings)
    assert is_cached(version, settings)
    discard(root, settings)
    assert not is_cached(version, settings)
    assert fetch(version, settings)[0] == root
