"""The audit log's file: whole lines of several processes, moved files, full disks, and strangers who do not fill it."""

import json
import logging
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry.settings import InvalidSetting
from serving.commands.main import main
from serving.runtime import audit
from serving.runtime.audit import UNAUTHENTICATED_PER_SECOND, AuditLog


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_who_did_what_and_when(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    log.write("alice", "POST /models/m", status=200, model="m", version="3", address="::1", request_id="r1")
    log.write("alice", "GET /" + "x" * 5000)
    log.close()
    first, second = read(tmp_path / "audit.log")
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "who": "alice",
        "what": "POST /models/m",
        "status": 200,
        "model": "m",
        "version": "3",
        "address": "::1",
        "request_id": "r1",
    }
    assert len(second["what"]) == audit.MAX_WHAT
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_a_line_break_in_a_path_makes_no_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    log.write("alice", 'GET /a\n{"who": "bob"}\r\n\u2028')
    log.close()
    (line,) = (tmp_path / "audit.log").read_bytes().splitlines()
    assert json.loads(line)["who"] == "alice"


def test_a_name_of_any_length_makes_a_short_line(tmp_path: Path) -> None:
    with closing(AuditLog(tmp_path / "audit.log")) as log:
        log.write("alice", "POST " + "p" * 10**6, model="m" * 10**6)
    assert (tmp_path / "audit.log").stat().st_size < 2000


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    def work(name: str) -> None:
        log = AuditLog(tmp_path / "audit.log")
        for number in range(200):
            log.write(name, f"{number} " + name * 200)
        log.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(tmp_path / "audit.log")) == 800


def test_a_file_that_was_moved_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "LOOK_SECONDS", 0.0)
    log = AuditLog(tmp_path / "audit.log")
    log.write("a", "one")
    (tmp_path / "audit.log").rename(tmp_path / "audit.log.1")
    log.write("a", "two")
    log.close()
    assert [line["what"] for name in ("audit.log.1", "audit.log") for line in read(tmp_path / name)] == ["one", "two"]


def test_strangers_are_bounded_and_what_was_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(audit.time, "monotonic", lambda: now)
    log = AuditLog(tmp_path / "audit.log")
    for _ in range(UNAUTHENTICATED_PER_SECOND + 30):
        log.write("", "GET /", status=401)
    log.write("alice", "GET /")
    lines = read(tmp_path / "audit.log")
    assert len(lines) == UNAUTHENTICATED_PER_SECOND + 1
    assert lines[-1]["dropped_before"] == 30
    now = 101.0
    log.write("", "GET /", status=401)
    assert len(read(tmp_path / "audit.log")) == UNAUTHENTICATED_PER_SECOND + 2
    log.close()


def test_a_full_disk_is_told_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    log = AuditLog(Path("/dev/full"))
    with caplog.at_level(logging.ERROR, "headwaiter.audit"):
        for _ in range(5):
            log.write("alice", "GET /")
    log.close()
    assert [record.message for record in caplog.records] == [
        "the audit log cannot be written: [Errno 28] No space left on device"
    ]


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    assert AuditLog.at(None) is None
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for wrong in (tmp_path / "no folder" / "file", tmp_path, tmp_path / "link"):
        with pytest.raises(InvalidSetting, match=f"HEADWAITER_AUDIT_FILE={wrong} cannot be written"):
            AuditLog.at(wrong)


def test_commands_say_who_changed_keys(tmp_path: Path) -> None:
    environ = {
        "HEADWAITER_KEYS_FILE": str(tmp_path / "keys.json"),
        "HEADWAITER_AUDIT_FILE": str(tmp_path / "audit.log"),
        "LOGNAME": "somebody",
    }
    key = CliRunner().invoke(main, ["keys", "add", "alice"], env=environ).stdout.strip()
    assert CliRunner().invoke(main, ["keys", "add", "alice"], env=environ).exit_code == 1
    CliRunner().invoke(main, ["keys", "remove", "alice"], env=environ)
    lines = read(tmp_path / "audit.log")
    assert [(line["who"], line["what"]) for line in lines] == [
        ("somebody", "keys add alice"),
        ("somebody", "keys remove alice"),
    ]
    assert key
    assert key not in (tmp_path / "audit.log").read_text()
