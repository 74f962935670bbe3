"""A file that is replaced in one step, by writers that share a process id as two containers do."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.atomic_file import replace_file

pytestmark = pytest.mark.slow


CONTENTS = [bytes([number]) * 200_000 for number in range(4)]


def test_a_reader_sees_one_writers_content_whole_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    replace_file(path, CONTENTS[0])
    with ThreadPoolExecutor(len(CONTENTS)) as writers:
        written = [writers.submit(replace_file, path, content) for _ in range(50) for content in CONTENTS]
        while not all(each.done() for each in written):
            assert path.read_bytes() in CONTENTS
    for each in written:
        each.result()
    assert path.read_bytes() in CONTENTS
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file.json").mkdir()
    with pytest.raises(OSError, match="director"):
        replace_file(tmp_path / "file.json", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_files_that_are_replaced_in_the_same_tick_have_times_of_their_own(tmp_path: Path) -> None:
    """A reader that compares inode and time would take two replacements for none where the inode is used again."""
    path, times = tmp_path / "file.json", set()
    for number in range(200):
        replace_file(path, b"%d" % number)
        times.add(path.stat().st_mtime_ns)
    assert len(times) == 200
