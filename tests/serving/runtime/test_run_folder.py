"""Whose a run folder is: real locks, real processes that are killed, and files that nobody expects."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.runtime.run_folder import LOCK, LOCK_VARIABLE, RUN_VARIABLE, RunFolder, claim, remove_left
from serving.runtime.server_process import ServerProcess
from tests.e2e.server import wait_until

pytestmark = pytest.mark.slow


SERVER = (
    "import os, sys; from pathlib import Path; from serving.runtime.run_folder import claim\n"
    "print(claim(Path(sys.argv[1])).path, flush=True); sys.stdin.read()"
)
"""A process that is a server: it has a run folder of this home until it ends."""


@contextmanager
def serving(home: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A server of `home`, and its run folder."""
    command = [sys.executable, "-c", SERVER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server, Path(server.stdout.readline().strip())
        finally:
            server.kill()


def test_servers_of_one_home_have_folders_of_their_own_and_leave_each_others_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as (first, one), serving(tmp_path) as (second, two):
        third = claim(tmp_path)
        assert {one, two, third.path} == set((tmp_path / "run").iterdir())
        assert len({one, two, third.path}) == 3
        first.kill()
        first.wait()
        fourth = claim(tmp_path)
        assert set((tmp_path / "run").iterdir()) == {two, third.path, fourth.path}
        third.close()
        fourth.close()
        assert second.poll() is None


def test_a_server_is_gone_once_its_process_is_whatever_its_id_does_next(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, run):
        watched, late = ServerProcess(run), ServerProcess(run)
        assert not watched.is_gone()
        assert not watched.is_gone()
        server.kill()
        server.wait()
        assert watched.is_gone()
        shutil.rmtree(run)
        assert late.is_gone()
        assert late.is_gone()
        assert ServerProcess(run).is_gone()


def test_those_that_look_for_a_server_do_not_keep_its_folder(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, run):
        watched = ServerProcess(run)
        assert not watched.is_gone()
        server.kill()
        server.wait()
        assert watched.is_gone()
        remove_left(tmp_path / "run")
        assert not run.exists()


def test_changed_times_of_files_make_no_server_a_stranger(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, run):
        for path in (run, run / LOCK, run / "engines"):
            os.utime(path, (0, 0))
        remove_left(tmp_path / "run")
        for path in (run, run / LOCK):
            os.utime(path, (2**33, 2**33))
        remove_left(tmp_path / "run")
        assert run.exists()
        assert not ServerProcess(run).is_gone()


def test_a_program_that_takes_the_servers_place_holds_the_same_folder_and_its_children_do_not(tmp_path: Path) -> None:
    become = (
        "import os, subprocess, sys; from pathlib import Path; from serving.runtime.run_folder import claim\n"
        "home = Path(sys.argv[1]); run = claim(home)\n"
        "if len(sys.argv) == 2:\n"
        "    os.environ.update(run.hand_over())\n"
        "    os.execv(sys.executable, [*sys.orig_argv, str(run.path)])\n"
        "assert str(run.path) == sys.argv[2], sys.argv\n"
        "assert '_HEADWAITER_RUN_LOCK' not in os.environ\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], close_fds=False)\n"
        "print(run.path, child.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", become, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        run = Path(server.stdout.readline().split()[0])
        assert list((tmp_path / "run").iterdir()) == [run]
        watched = ServerProcess(run)
        assert not watched.is_gone()
        os.kill(server.pid, 9)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        assert wait_until(watched.is_gone, "the lock is free although a child lives")


@pytest.mark.parametrize("value", ["", "none", "-1", "999999", "0", "1"])
def test_a_lock_that_was_not_handed_over_is_not_believed(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = RunFolder.make(tmp_path / "run" / "other")
    monkeypatch.setenv(RUN_VARIABLE, str(held.path))
    monkeypatch.setenv(LOCK_VARIABLE, value)
    own = claim(tmp_path)
    assert own.path not in (held.path, Path())
    assert LOCK_VARIABLE not in os.environ
    own.close()
    held.close()


def test_what_is_no_run_folder_stops_nobody_and_stays(tmp_path: Path) -> None:
    runs = tmp_path / "run"
    (runs / "1").mkdir(parents=True)
    (runs / "1" / "server").write_bytes(b"\xff not a number")  # as earlier releases had it, torn
    (runs / "2" / LOCK).mkdir(parents=True)
    (runs / "3").mkdir()
    (runs / "3" / LOCK).symlink_to("/nowhere")
    (runs / "4").mkdir()
    os.mkfifo(runs / "4" / LOCK)
    (runs / "5").write_text("a file")
    (runs / "6").symlink_to(runs / "6")
    run = claim(tmp_path)
    assert {path.name for path in runs.iterdir()} >= {"1", "2", "3", "5", "6", run.path.name}
    run.close()


def test_a_folder_that_was_not_removed_to_the_end_is_removed_later(tmp_path: Path) -> None:
    left = RunFolder.make(tmp_path / "run" / "left")
    left.close()
    (left.path / "engines" / "torn.json").write_bytes(b'{"pid": 1')
    (left.path / "routes.json").write_bytes(b"\x00")
    (left.path / "cycle").symlink_to(left.path)
    remove_left(tmp_path / "run")
    assert not left.path.exists()
    remove_left(tmp_path / "run")


def test_a_home_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"):
        claim(tmp_path)
