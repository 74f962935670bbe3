"""A record is read as it was written by this user, or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from serving.engine.kept_record import MAX_KEPT_BYTES, read_record, write_record


class Pair(msgspec.Struct, frozen=True):
    one: int
    other: str = "x"


class Other(msgspec.Struct, frozen=True):
    three: int


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kept" / "a.json"
    write_record(path, Pair(1), 9)
    return path


def test_a_record_is_this_users_alone(path: Path) -> None:
    assert read_record(path, Pair) == Pair(1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def change_a_digit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"one":1', b'"one":2'))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def let_a_group_read(path: Path) -> None:
    path.chmod(0o640)


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("b")))


def name_twice(path: Path) -> None:
    os.link(path, path.with_name("b"))


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def enlarge(path: Path) -> None:
    write_record(path, Pair(1, "x" * MAX_KEPT_BYTES), 9)


@pytest.mark.parametrize(
    "damage",
    [
        *(change_a_digit, cut, let_a_group_read, link, name_twice, put_a_folder, put_a_fifo, enlarge, Path.unlink),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\n"),
        lambda path: write_record(path, Other(3), 9),
    ],
)
def test_what_is_damaged_or_foreign_or_of_another_kind_is_no_record(
    path: Path, damage: Callable[[Path], object]
) -> None:
    damage(path)
    assert read_record(path, Pair) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_file_is_no_record(path: Path) -> None:
    os.chown(path, 12345, 12345)
    assert read_record(path, Pair) is None


def test_records_that_were_not_used_for_longest_leave(path: Path) -> None:
    for age, name in enumerate("bcd", 1):
        write_record(path.with_name(f"{name}.json"), Pair(age), 9)
        os.utime(path.with_name(f"{name}.json"), (age, age))
    os.utime(path, (0, 0))
    read_record(path, Pair)
    path.with_name("other.txt").write_text("is no record")
    write_record(path.with_name("e.json"), Pair(5), 3)
    assert sorted(each.name for each in path.parent.iterdir()) == ["a.json", "d.json", "e.json", "other.txt"]
