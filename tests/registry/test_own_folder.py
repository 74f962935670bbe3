"""Nobody but its user puts anything into HEADWAITER_HOME."""

import os
import stat
from pathlib import Path

import pytest

from registry.cache_folder import CacheFolder
from registry.own_folder import make_home, make_own
from registry.served_classes import FactsFile
from registry.settings import InvalidSetting, RegistrySettings
from registry.tracking import choose_experiment, connect
from serving.demo.server import demo_folder
from serving.runtime.run_folder import claim
from tests.abilities import require

OTHER = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _no_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def by_server(home: Path) -> None:
    claim(home).close()


def by_cache(home: Path) -> None:
    CacheFolder(RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)}))


def by_registry(home: Path) -> None:
    connect(RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)}))


def by_demo(home: Path) -> None:
    with demo_folder(home):
        pass


def by_facts(home: Path) -> None:
    FactsFile(home).save()


@pytest.mark.parametrize("use", [by_server, by_cache, by_registry, by_demo, by_facts])
def test_whatever_makes_it_makes_it_for_one_user(use: object, tmp_path: Path) -> None:
    assert callable(use)
    use(tmp_path / "a" / "home")
    assert mode(tmp_path / "a" / "home") == 0o700
    (tmp_path / "empty").mkdir(mode=0o777)
    use(tmp_path / "empty")
    assert mode(tmp_path / "empty") == 0o700


def test_the_folders_of_a_server_are_its_users_alone(tmp_path: Path) -> None:
    run = claim(tmp_path / "home")
    assert {mode(path) for path in (run.path.parent, run.path, run.path / "engines")} == {0o700}
    run.close()


def test_one_of_an_earlier_release_is_closed_and_another_folder_is_left(tmp_path: Path) -> None:
    old, shared = tmp_path / "old", tmp_path / "shared"
    for folder, entries in ((old, ("run", "cache", "my own")), (shared, ("run", "other"))):
        for entry in entries:
            (folder / entry).mkdir(parents=True)
        folder.chmod(0o755)
        make_home(folder)
    assert (mode(old), mode(shared)) == (0o700, 0o755)


def test_what_is_made_in_a_folder_that_others_read_is_its_users_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "my own").mkdir()
    home.chmod(0o755)
    choose_experiment(RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)}))
    with demo_folder(home):
        (home / "trained").mkdir()
        (home / "server.log").touch()
    made = {path.name: mode(path) for path in home.iterdir() if path.name != "my own"}
    assert {name for name in made if made[name] & 0o077} == set()
    assert made.keys() >= {"mlflow.db", "artifacts", "mlflow.lock", "trained", "server.log"}
    assert mode(home) == 0o755, "the folder itself is left"


@pytest.mark.parametrize("rights", [0o770, 0o707, 0o1777])
def test_one_that_others_can_write_is_refused(tmp_path: Path, rights: int) -> None:
    (tmp_path / "home" / "run").mkdir(parents=True)
    (tmp_path / "home").chmod(rights)
    with pytest.raises(InvalidSetting, match="chmod go-w"):
        claim(tmp_path / "home")
    (tmp_path / "home").chmod(0o700)
    (tmp_path / "home" / "run").chmod(rights)
    with pytest.raises(InvalidSetting, match="chmod go-w"):
        claim(tmp_path / "home")


def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    require("other owners")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, OTHER, OTHER)
    for use in (by_server, by_cache, by_registry, by_demo):
        with pytest.raises(InvalidSetting, match=f"belongs to user {OTHER}, and this is user"):
            use(home)
    by_facts(home)
    assert not any(home.iterdir()), "facts are not kept there"
    os.chown(home, os.geteuid(), -1)
    (home / "run").mkdir(mode=0o700)
    os.chown(home / "run", OTHER, OTHER)
    with pytest.raises(InvalidSetting, match=f"run belongs to user {OTHER}"):
        claim(home)


def test_one_of_root_is_taken_as_a_volume_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("other owners")
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o777)
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    make_own(volume)
    assert volume.stat().st_mode & 0o777 == 0o777, "it is left as it is"
