from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry.artifact import read_contract
from registry.cache import fetch
from registry.errors import HistoryError, NotFound, RegistryUnavailable, UnpinnedArtifact
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.tracking import connect
from registry.versions import Versions
from serving.commands.main import main
from tests.e2e.conftest import make_home
from tests.quick import copy_home

pytestmark = pytest.mark.slow


FIXTURE = Path(__file__).parents[1] / "fixtures" / "artifact-of-format-1"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    """The home that each test of `versions` begins with: three versions of `m`."""
    home, _ = make_home(tmp_path_factory, {"m": [models["single"]] * 3})
    return home


@pytest.fixture
def versions(logged: Path, settings: RegistrySettings) -> Versions:
    copy_home(logged, settings.home)
    return Versions(settings)


def test_promote_and_rollback_move_the_alias_and_write_it_down(versions: Versions) -> None:
    with pytest.raises(NotFound, match="m@champion"):
        versions.resolve(Reference.parse("m"))
    versions.promote("m", "1", why="first", who="ada")
    versions.promote("m", "3", why="better", who="bob")
    assert versions.resolve(Reference.parse("m")).version == "3"
    move = versions.rollback("m", why="worse after all", who="eve")
    assert (move.from_version, move.to_version) == ("3", "1")
    assert versions.resolve(Reference.parse("m")).version == "1"
    assert [(entry.action, entry.from_version, entry.to_version, entry.who) for entry in versions.history("m")] == [
        ("promote", None, "1", "ada"),
        ("promote", "1", "3", "bob"),
        ("rollback", "3", "1", "eve"),
    ]
    with pytest.raises(HistoryError, match="no earlier version"):
        versions.rollback("m", why="again")


def test_two_promotions_at_the_same_moment_lose_no_record(versions: Versions) -> None:
    with ThreadPoolExecutor(4) as pool:
        moves = list(pool.map(lambda number: versions.promote("m", str(number % 3 + 1), why=str(number)), range(8)))
    assert sorted(move.why for move in versions.history("m")) == sorted(move.why for move in moves)


def test_what_is_not_there_is_named(versions: Versions) -> None:
    for reference in ("m/9", "m@other", "nobody", "nobody/1"):
        with pytest.raises(NotFound):
            versions.resolve(Reference.parse(reference))
    with pytest.raises(NotFound, match="m/9"):
        versions.promote("m", "9", why="typo")
    assert versions.history("m") == []


def test_a_deleted_version_is_passed_over(versions: Versions) -> None:
    for version in "123":
        versions.promote("m", version, why="next")
    versions._client.delete_model_version("m", "2")
    move = versions.rollback("m", why="back")
    assert (move.to_version, move.skipped) == ("1", ("2",))
    assert versions.history("m")[-1] == move
    versions.promote("m", "3", why="again")
    versions._client.delete_model_version("m", "1")
    with pytest.raises(HistoryError, match="no earlier version to go back to but 1, deleted since: promote one"):
        versions.rollback("m", why="back")
    assert versions.current("m") == "3"


def test_a_registry_that_does_not_answer_is_told_from_a_missing_version(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    versions = Versions(RegistrySettings(home=tmp_path, tracking_uri="http://127.0.0.1:9"))
    with pytest.raises(RegistryUnavailable):
        versions.resolve(Reference.parse("m"))


def test_files_are_found_whatever_registry_the_process_itself_uses(versions: Versions, tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'another.db'}")
    root, contract = fetch(versions.resolve(Reference("m", version="2")), versions.settings)
    assert root.name == contract.digest


def test_the_history_of_a_model_that_never_moved_says_so(settings: RegistrySettings) -> None:
    connect(settings).create_registered_model("still")
    shown = CliRunner().invoke(main, ["history", "still"])
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert shown.stderr.startswith("no move of an alias of still is recorded")
    assert "no move of still@beta" in CliRunner().invoke(main, ["history", "still", "--alias", "beta"]).stderr
    as_json = CliRunner().invoke(main, ["history", "still", "--json"])
    assert (as_json.stdout, as_json.stderr) == ("[]\n", "")
    unknown = CliRunner().invoke(main, ["history", "nobody", "--json"])
    assert unknown.exit_code == 1
    assert "nobody" in unknown.stderr


def test_promotion_records_the_digest_of_a_version_that_has_none(settings: RegistrySettings) -> None:
    versions = Versions(settings)
    versions._client.create_registered_model("old")
    for _ in range(2):
        versions._client.create_model_version("old", source=FIXTURE.as_uri())
    versions.promote("old", "1", why="it was logged by an earlier release")
    contract = read_contract(FIXTURE)
    assert versions.resolve(Reference.parse("old")).digest == contract.digest
    unpinned = versions.resolve(Reference("old", version="2"))
    with pytest.raises(UnpinnedArtifact):
        fetch(unpinned, settings)
    with pytest.raises(HistoryError):
        versions.promote("old", "2", why=" ")
    assert not versions.resolve(Reference("old", version="2")).is_pinned


def test_the_aliases_of_many_models_are_listed_together(
    settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, client = Versions(settings), connect(settings)
    names = [f"model-{number:03}-{'x' * 60}" for number in range(120)]
    for name in (names[0], names[-1]):
        client.create_registered_model(name)
        client.create_model_version(name, "s3://nowhere/at/all")
        client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(names[0], "canary", "1")
    asked: list[str] = []
    search = type(client).search_registered_models

    def counted(self: object, filter_string: str, **more: object) -> object:
        asked.append(filter_string)
        return search(self, filter_string, **more)

    monkeypatch.setattr(type(client), "search_registered_models", counted)
    assert versions.aliases([*names, "it's", "nobody"]) == {
        names[0]: {"champion": "1", "canary": "1"},
        names[-1]: {"champion": "1"},
    }
    assert len(asked) == 3
    assert all(len(each) <= 4200 for each in asked)
    assert versions.aliases([]) == versions.aliases(["nobody"]) == {}
