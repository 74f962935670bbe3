"""A heartbeat says how far an engine is and what it computes, and never costs it its life."""

from pathlib import Path

from serving.wire.heartbeat import (
    FILE_BYTES,
    HeartbeatFile,
    Pulse,
    heartbeat_path,
    read_pulse,
    read_rows,
    remove_beats,
)


def test_what_is_written_last_is_read(tmp_path: Path) -> None:
    path = tmp_path / "1.7.beat"
    file = HeartbeatFile(path)
    assert (read_pulse(path), read_rows(path)) == (Pulse(0, 0.0), {})
    file.write(Pulse(1, 0.5), {b"front": list(range(1000)), b"other": [1]})
    file.write(Pulse(2, 1.5, is_suspect=True), {b"front": [3]})
    assert (read_pulse(path), read_rows(path)) == (Pulse(2, 1.5, is_suspect=True), {b"front": [3]})
    file.write(Pulse(3, 0.0), None)
    file.close()
    file.write(Pulse(4, 0.0), {})
    assert (read_pulse(path), read_rows(path)) == (Pulse(3, 0.0), None)


def test_rows_that_do_not_fit_are_not_told(tmp_path: Path) -> None:
    path = tmp_path / "1.7.beat"
    file = HeartbeatFile(path)
    file.write(Pulse(1, 0.5), {b"front": list(range(10**9, 10**9 + FILE_BYTES // 4))})
    assert (read_pulse(path), read_rows(path)) == (Pulse(1, 0.5), None)
    assert path.stat().st_size == FILE_BYTES
    file.close()


def test_a_full_disk_leaves_no_heartbeat_that_would_look_silent(tmp_path: Path) -> None:
    path = tmp_path / "1.7.beat"
    path.symlink_to("/dev/full")
    HeartbeatFile(path).write(Pulse(1, 0.0), {})
    assert not path.is_symlink()
    assert read_pulse(path) is None
    HeartbeatFile(tmp_path / "missing" / "1.7.beat").write(Pulse(1, 0.0), {})


def test_what_is_no_heartbeat_is_none(tmp_path: Path) -> None:
    path = tmp_path / "1.7.beat"
    path.write_bytes(b"\0" * 7)
    assert (read_pulse(path), read_rows(path)) == (None, None)
    path.write_bytes(b"\xff" * 64)
    assert read_rows(path) is None


def test_the_files_of_earlier_processes_are_removed(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/00000001-0000001.sock"
    others = [tmp_path / "00000001-0000002.7.beat", tmp_path / "00000001-0000001.json"]
    paths = [heartbeat_path(address, pid) for pid in (7, 8)]
    for path in (*paths, *others):
        path.touch()
    remove_beats(address, but=8)
    assert [path.exists() for path in (*paths, *others)] == [False, True, True, True]
    remove_beats(address)
    assert not paths[1].exists()
