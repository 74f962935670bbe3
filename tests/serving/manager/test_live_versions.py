from pathlib import Path

from registry.references import Reference
from registry.settings import RegistrySettings
from serving.manager.last_live import LastLive
from serving.manager.live_versions import LiveVersions
from serving.manager.registry_poll import RegistrySnapshot

CHAMPION, CANARY, OTHER = (
    Reference("m", alias="champion"),
    Reference("m", alias="canary"),
    Reference("n", alias="canary"),
)
PINNED = Reference("m", version="7")


def live_versions(tmp_path: Path, live: dict[Reference, str | None]) -> LiveVersions:
    made = LiveVersions(LastLive(RegistrySettings(tmp_path, "")))
    made.live = live
    return made


def test_an_alias_that_takes_anothers_place_serves_its_version_until_its_own_is_there(tmp_path: Path) -> None:
    kept = live_versions(tmp_path, {CHAMPION: "1", OTHER: "4"})
    kept.forget_all_but(RegistrySnapshot({CANARY: None, OTHER: None, PINNED: None}))
    assert kept.live == {CANARY: "1", OTHER: "4"}


def test_an_alias_that_serves_already_keeps_its_own_and_a_gone_model_is_forgotten(tmp_path: Path) -> None:
    kept = live_versions(tmp_path, {CHAMPION: "1", CANARY: "2", OTHER: "4"})
    kept.forget_all_but(RegistrySnapshot({CANARY: None}))
    assert kept.live == {CANARY: "2"}
