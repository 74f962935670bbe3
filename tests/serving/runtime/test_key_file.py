"""The file of keys: what is in it, who may write it, and how a key is found."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from registry.settings import InvalidSetting
from serving.runtime import key_file
from serving.runtime.key_file import AccessKey, KeyFile, Keys
from tests.waiting import WAIT_SECONDS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


def test_a_key_is_found_again_and_no_other(path: Path) -> None:
    file = KeyFile(path)
    alice = file.add("alice", models=("m", "n"), rate=2, concurrency=3)
    ops = file.add("ops", admin=True)
    keys = file.read()
    found = keys.find(alice.encode())
    assert found is not None
    assert (found.name, found.models, found.admin, found.rate, found.concurrency) == ("alice", ("m", "n"), False, 2, 3)
    assert found.may_ask("m")
    assert not found.may_ask("o")
    operator = keys.find(ops.encode())
    assert operator is not None
    assert operator.admin
    assert operator.may_ask("whatever")
    for wrong in (b"", b"alice", alice[:-1].encode(), alice.encode() + b"x", alice.upper().encode(), b"\xff" * 46):
        assert keys.find(wrong) is None
    assert keys.find(bytes.fromhex(found.sha256)) is None, "the digest is no key"


def test_half_of_a_digest_finds_nothing() -> None:
    """The lookup takes the first half; the whole is compared."""
    token = b"hw_a-key"
    (key,) = (Keys([AccessKey(name="a", sha256="ab" * 32)]).find(token),)
    assert key is None
    from hashlib import sha256

    digest = sha256(token).hexdigest()
    forged = digest[:32] + digest[32:].translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    assert Keys([AccessKey(name="a", sha256=digest)]).find(token) is not None
    assert Keys([AccessKey(name="a", sha256=forged)]).find(token) is None


def test_keys_are_random_and_not_in_the_file(path: Path) -> None:
    file = KeyFile(path)
    tokens = [file.add(f"user-{number}") for number in range(20)]
    assert len(set(tokens)) == 20
    assert all(len(token) >= 3 + 43 for token in tokens), "256 bits in base64"
    text = path.read_text()
    assert not any(token in text or token.removeprefix("hw_") in text for token in tokens)


def test_the_file_is_its_owners_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        KeyFile(path).add("alice")
        KeyFile(path).add("bob")
        KeyFile(path).remove("bob")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not list(path.parent.glob("*.tmp"))


def test_a_name_is_given_once_and_can_be_given_again(path: Path) -> None:
    file = KeyFile(path)
    first = file.add("alice")
    with pytest.raises(InvalidSetting, match="has a key of 'alice' already"):
        file.add("alice")
    with pytest.raises(InvalidSetting, match="no key of 'bob'; it has alice"):
        file.remove("bob")
    file.remove("alice")
    assert file.read().find(first.encode()) is None
    assert file.add("alice") != first
    with pytest.raises(InvalidSetting, match="name 'a b' is not allowed"):
        file.add("a b")


def test_commands_at_the_same_time_lose_no_key(path: Path) -> None:
    threads = [threading.Thread(target=KeyFile(path).add, args=(f"user-{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KeyFile(path).read().keys) == 12


def test_a_change_is_read_once(path: Path) -> None:
    KeyFile(path).add("alice")
    file = KeyFile(path)
    assert file.read_if_changed() is not None
    assert file.read_if_changed() is None
    KeyFile(path).add("bob")
    again = file.read_if_changed()
    assert again is not None
    assert [key.name for key in again.keys] == ["alice", "bob"]


def test_a_change_within_a_step_of_the_clock_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's clock advances in steps, and a file that is replaced twice may get its first number again."""
    monkeypatch.setattr(key_file, "SETTLED_SECONDS", WAIT_SECONDS)  # the disk may take seconds to write it
    KeyFile(path).add("alice")
    file = KeyFile(path)
    assert file.read_if_changed() is not None
    before = path.stat()
    changed = path.read_bytes().replace(b"alice", b"carol")
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    again = file.read_if_changed()
    assert again is not None
    assert [key.name for key in again.keys] == ["carol"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(path: Path, mode: int) -> None:
    KeyFile(path).add("alice")
    path.chmod(mode)
    with pytest.raises(InvalidSetting, match="can be written by others"):
        KeyFile(path).read()


def test_a_file_that_is_none_of_keys_is_refused(path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot be used.*headwaiter keys add"):
        KeyFile(path).read()
    path.parent.mkdir()
    for text in (b"", b"\xff", b"[]", b'{"keys": [{"name": "a"}]}', b'{"keys": [{"name": "a", "sha256": "00"}]}'):
        path.write_bytes(text)
        with pytest.raises(InvalidSetting, match="is no file of keys"):
            KeyFile(path).read()
    with pytest.raises(InvalidSetting, match="Is a directory"):
        KeyFile(path.parent).read()
    pipe = path.parent / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidSetting, match="is no file"):
        KeyFile(pipe).read()


def test_a_misspelt_right_is_no_right(path: Path) -> None:
    """A field that nobody knows would be a bound that nobody keeps."""
    KeyFile(path).add("alice")
    content = json.loads(path.read_text())
    content["keys"][0]["model"] = ["m"]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidSetting, match="unknown field `model`"):
        KeyFile(path).read()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": -1.0},
        {"rate": 1e-309},
        {"rate": 0.99 * key_file.MIN_RATE},
        {"rate": 1.01 * key_file.MAX_RATE},
        {"concurrency": -1},
        {"concurrency": 10**7},
        {"models": ("\ud800",)},
    ],
    ids=repr,
)
def test_a_key_that_could_not_be_read_again_is_not_written(wrong: dict[str, Any], path: Path) -> None:
    file = KeyFile(path)
    file.add("first", rate=key_file.MIN_RATE, concurrency=1)
    before = path.read_bytes()
    with pytest.raises(InvalidSetting, match="second"):
        file.add("second", **wrong)
    assert path.read_bytes() == before
    assert [key.name for key in file.read().keys] == ["first"]
    file.remove("first")


def test_a_file_that_would_be_too_large_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeyFile(path)
    file.add("first")
    monkeypatch.setattr(key_file, "MAX_FILE_BYTES", path.stat().st_size)
    with pytest.raises(InvalidSetting, match="second"):
        file.add("second")
    assert [key.name for key in file.read().keys] == ["first"]


@pytest.mark.parametrize(
    ("field", "value"), [("rate", "1e-300"), ("created", "1e300"), ("created", "-1"), ("sha256", f'"{"0" * 64}\\n"')]
)
def test_a_record_out_of_bounds_is_refused(field: str, value: str, path: Path) -> None:
    KeyFile(path).add("first", rate=1.0)
    record = json.loads(path.read_text())["keys"][0]
    del record[field]
    path.write_text(f'{{"keys": [{json.dumps(record)[:-1]}, "{field}": {value}}}]}}')
    with pytest.raises(InvalidSetting, match="is no file of keys"):
        KeyFile(path).read()
