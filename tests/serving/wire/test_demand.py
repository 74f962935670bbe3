"""What fronts tell the manager of the versions that are asked for."""

from pathlib import Path

import pytest

from serving.wire.demand import (
    DEMAND,
    FORGET_SECONDS,
    STALE_SECONDS,
    WRITE_SECONDS,
    Asked,
    DemandFile,
    DemandReader,
    FrontDemand,
)
from serving.wire.report_file import write_report

KEY = ("m", "1")


def asked(at: float, *, has_work: bool = False) -> dict[tuple[str, str], Asked]:
    return {KEY: Asked(*KEY, at, has_work)}


def read(run: Path, now: float) -> DemandReader:
    reader = DemandReader(run)
    reader.read(now)
    return reader


@pytest.mark.parametrize(
    ("case", "before", "then", "seconds", "is_told"),
    [
        ("at first", {}, asked(5.0), 0.0, False),
        ("soon", {}, asked(5.0), WRITE_SECONDS, True),
        ("nothing new", asked(5.0), asked(5.0), 100.0, False),
        ("asked again", asked(5.0), asked(6.0), 0.9 * WRITE_SECONDS, False),
        ("asked again, after a while", asked(5.0), asked(6.0), WRITE_SECONDS, True),
        ("work goes on", asked(5.0, has_work=True), asked(5.0, has_work=True), 0.2 * STALE_SECONDS, False),
        ("work goes on, after a while", asked(5.0, has_work=True), asked(5.0, has_work=True), STALE_SECONDS / 4, True),
    ],
)
def test_a_front_tells_now_and_then(
    tmp_path: Path, case: str, before: dict[tuple[str, str], Asked], then: dict[tuple[str, str], Asked], seconds: float,
    is_told: bool,
) -> None:  # fmt: skip
    file = DemandFile(tmp_path)
    file.write({("other", "1"): Asked("other", "1", 1.0), **before}, {("other", "1")}, 100.0)
    (path,) = (tmp_path / DEMAND).iterdir()
    inode = path.stat().st_ino
    file.write({("other", "1"): Asked("other", "1", 1.0), **then}, set(), 100.0 + seconds)
    assert (path.stat().st_ino != inode) == is_told, case


def test_a_front_tells_at_once_what_is_to_be_loaded(tmp_path: Path) -> None:
    file = DemandFile(tmp_path)
    file.write(asked(5.0), {KEY}, 100.0)
    file.write(asked(6.0, has_work=True), {KEY}, 100.01)
    assert read(tmp_path, 100.1).asked_at(KEY) == 6.0
    assert read(tmp_path, 100.1).has_work(KEY)


def test_what_all_fronts_tell_counts(tmp_path: Path) -> None:
    (tmp_path / DEMAND).mkdir()
    for name, at, has_work in (("1.json", 5.0, False), ("2.json", 9.0, False), ("3.json", 7.0, True)):
        write_report(tmp_path / DEMAND / name, FrontDemand(10.0, tuple(asked(at, has_work=has_work).values())))
    (tmp_path / DEMAND / "4.json").write_bytes(b"{")
    (tmp_path / DEMAND / "4.abc.tmp").write_bytes(b"")
    reader = read(tmp_path, 11.0)
    assert (reader.asked_at(KEY), reader.has_work(KEY)) == (9.0, True)
    assert reader.asked_at(("m", "2")) == 0.0


def test_a_front_that_is_gone_has_no_work_and_what_it_asked_for_is_remembered(tmp_path: Path) -> None:
    (tmp_path / DEMAND).mkdir()
    path = tmp_path / DEMAND / "1.json"
    write_report(path, FrontDemand(10.0, tuple(asked(9.0, has_work=True).values())))
    reader = DemandReader(tmp_path)
    for now, has_work in ((10.0 + STALE_SECONDS, True), (10.1 + STALE_SECONDS, False)):
        reader.read(now)
        assert reader.has_work(KEY) == has_work
    reader.read(10.1 + FORGET_SECONDS)
    assert not path.exists()
    reader.read(200.0)
    assert reader.asked_at(KEY) == 9.0


def test_nobody_asks_before_there_is_a_front(tmp_path: Path) -> None:
    assert read(tmp_path, 1.0).asked_at(KEY) == 0.0


@pytest.mark.parametrize(
    ("at", "has_work", "is_quiet"), [(None, False, True), (94.0, False, True), (96.0, False, False), (1.0, True, False)]
)
def test_it_is_quiet_where_nothing_was_asked_lately_and_nothing_waits(
    tmp_path: Path, at: float | None, *, has_work: bool, is_quiet: bool
) -> None:
    (tmp_path / DEMAND).mkdir()
    if at is not None:
        write_report(tmp_path / DEMAND / "1.json", FrontDemand(100.0, tuple(asked(at, has_work=has_work).values())))
    assert read(tmp_path, 100.0).is_quiet(5.0, 100.0) == is_quiet


def test_a_front_that_ends_removes_its_file(tmp_path: Path) -> None:
    file = DemandFile(tmp_path)
    file.write(asked(5.0), {KEY}, 100.0)
    file.close()
    assert list((tmp_path / DEMAND).iterdir()) == []


def test_a_run_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        DemandFile(tmp_path / "gone").write(asked(5.0), {KEY}, 100.0)
