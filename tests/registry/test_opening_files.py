"""No name or link in an artifact leads to a file outside of it, and the bytes that load are those that were hashed."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import plain_files, verified
from registry.checkpoint_files import check_json_files
from registry.checks import read_config
from registry.digests import digest_folder
from registry.errors import ArtifactError, DigestMismatch, UnsafeArtifact
from registry.plain_files import check_name, open_plain
from registry.verified import is_weights, open_verified

SECRET = b"a secret of this machine"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.json").write_bytes(SECRET)
    root = tmp_path / "artifact"
    (root / "model").mkdir(parents=True)
    (root / "model" / "config.json").write_bytes(b"{}")
    return root


def link(root: Path) -> None:
    (root / "model" / "vocab.json").symlink_to(root.parent / "secret.json")


def link_a_folder(root: Path) -> None:
    (root / "model" / "1_Pooling").symlink_to(root.parent)


def make_fifo(root: Path) -> None:
    os.mkfifo(root / "model" / "vocab.json")


def make_socket(root: Path) -> None:
    os.chdir(root / "model")  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("vocab.json")


def make_huge(root: Path) -> None:
    with (root / "model" / "vocab.json").open("wb") as file:
        file.truncate(plain_files.MAX_TEXT_BYTES + 1)


def make_many(root: Path) -> None:
    for number in range(plain_files.MAX_FILES):
        (root / "model" / f"{number}.json").touch()


def nest(root: Path) -> None:
    place = root / "model" / "a" / "b" / "c"
    place.mkdir(parents=True)
    (place / "vocab.json").touch()


def name_oddly(name: bytes) -> Callable[[Path], None]:
    return lambda root: os.close(os.open(os.fsencode(root / "model") + b"/" + name, os.O_CREAT))


ATTACKS = {
    "a link": link,
    "a link to a folder": link_a_folder,
    "a FIFO": make_fifo,
    "a socket": make_socket,
    "a huge vocabulary": make_huge,
    "many files": make_many,
    "deep folders": nest,
    "code": name_oddly(b"modeling_mine.py"),
    "a pickle": name_oddly(b"pytorch_model.bin"),
    "a newline": name_oddly(b"a\nb.json"),
    "no UTF-8": name_oddly(b"\xff.json"),
    "a hidden file": name_oddly(b".json"),
    "an option": name_oddly(b"-x.json"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_plain_file_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    monkeypatch.chdir(root)
    ATTACKS[attack](root)
    with pytest.raises(UnsafeArtifact) as refused:
        digest_folder(root, "model")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("attack", ["a link", "a FIFO", "a socket", "a huge vocabulary"])
def test_what_is_no_plain_file_is_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    monkeypatch.chdir(root)
    ATTACKS[attack](root)
    with pytest.raises(UnsafeArtifact), open_plain(root, "model/vocab.json"):
        pass
    files = digest_folder(shutil.copytree(root, root.parent / "plain", ignore=lambda *_: ["vocab.json"]), "model")
    with pytest.raises(ArtifactError), open_verified(root, files | {"model/vocab.json": "00"}):
        pass


def test_a_link_in_the_path_is_not_followed(root: Path) -> None:
    link_a_folder(root)
    with pytest.raises(UnsafeArtifact, match="is a link"), open_plain(root, "model/1_Pooling/secret.json"):
        pass


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.json", "/etc/passwd.json", "model/../../secret.json", "model//config.json", "model/./config.json"),
        *(
            "",
            "config",
            "model/",
            "a/b/c/d/e.json",
            "a\n.json",
            "a.json\n",
            "\udcff.json",
            "ä.json",
            "x" * 200 + ".json",
        ),
    ],
)
def test_names_that_are_not_plain_are_refused(root: Path, name: str) -> None:
    with pytest.raises(UnsafeArtifact):
        check_name(name)
    with pytest.raises(UnsafeArtifact), open_verified(root, {name: "00"}):
        pass


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "1_Pooling/config.json"),
        *("merges.txt", "spiece.model", "source.spm", "bpe.codes", "chat_template.jinja", "2_Dense/model.safetensors"),
        *("additional_chat_templates/tool_use.jinja", "prophetnet.tokenizer", "sentence_xlm-roberta_config.json"),
    ],
)
def test_names_that_libraries_write_are_plain(name: str) -> None:
    assert check_name(name) == name
    assert check_name(f"model/{name}") == f"model/{name}"


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/tmp/outside.safetensors", "outside.bin", "a/b.safetensors"]
)
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"head.bias": name}})
    )
    with pytest.raises(UnsafeArtifact, match="head.bias"):
        check_json_files(folder)
    (folder / "model.safetensors").touch()  # then the index is not used, by this release of transformers
    with pytest.raises(UnsafeArtifact, match="head.bias"):
        check_json_files(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "transformers_weights": name}))
    with pytest.raises(UnsafeArtifact, match="transformers_weights"):
        read_config(folder)


@pytest.mark.parametrize(("name", "is_refused"), [("other.safetensors", True), ("model.safetensors", False)])
def test_other_weights_than_those_that_are_checked_are_refused(tmp_path: Path, *, name: str, is_refused: bool) -> None:
    for file in ("model.safetensors", "other.safetensors"):
        (tmp_path / file).touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "transformers_weights": name}))
    if is_refused:
        with pytest.raises(UnsafeArtifact, match=r"other weights than model\.safetensors"):
            read_config(tmp_path)
    else:
        assert read_config(tmp_path)["transformers_weights"] == name


def test_the_bytes_that_were_hashed_are_those_that_are_read(root: Path) -> None:
    files = digest_folder(root, "model")
    place = root / "model" / "config.json"
    with open_verified(root, files) as folder:
        place.unlink()
        place.write_bytes(b"other")
        assert (folder / "model" / "config.json").read_bytes() == b"{}"
    with pytest.raises(DigestMismatch, match=r"model/config\.json has sha256"), open_verified(root, files):
        pass
    place.unlink()
    with pytest.raises(DigestMismatch, match="is missing"), open_verified(root, files):
        pass


def test_a_file_that_is_written_to_while_it_is_loaded_does_not_count(root: Path) -> None:
    files = digest_folder(root, "model")
    place = root / "model" / "config.json"
    before = place.stat()

    def load() -> None:
        with open_verified(root, files):
            place.write_bytes(b"[]")
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(DigestMismatch):
        load()


def test_a_file_that_is_removed_while_it_is_loaded_counts(root: Path) -> None:
    with open_verified(root, digest_folder(root, "model")) as folder:
        shutil.rmtree(root)
        assert (folder / "model" / "config.json").read_bytes() == b"{}"
    assert not folder.exists()


def test_a_load_holds_no_more_files_open_than_may_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_files.MAX_FILES <= 512, "a process may have 1,024 descriptors in many places"
    for number in range(4):
        (root / "model" / f"{number}.json").write_text("{}")
    files = {f"model/{name.name}": "0" * 64 for name in (root / "model").glob("*.json")}
    monkeypatch.setattr(verified, "MAX_FILES", 3)
    monkeypatch.setattr(verified, "open_plain", lambda *_: pytest.fail("a file was opened"))
    with pytest.raises(UnsafeArtifact, match="at most 3 are opened"), open_verified(root, files):
        pass
    with open_verified(root, files, lambda _: False):
        pass


def test_a_front_reads_no_weights(root: Path) -> None:
    (root / "model" / "model.safetensors").write_bytes(b"changed")
    files = digest_folder(root, "model") | {"model/model.safetensors": "00"}
    with open_verified(root, files, lambda name: not is_weights(name)) as folder:
        assert [path.name for path in (folder / "model").iterdir()] == ["config.json"]


def test_what_a_killed_process_left_is_removed_and_a_running_one_keeps_its_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "LINKS", tmp_path)
    left = tmp_path / f"{verified.PREFIX}left"
    left.mkdir()
    (left / "config.json").symlink_to("/proc/self/fd/3")
    files = digest_folder(root, "model")
    with open_verified(root, files) as running:
        assert not left.exists()
        for age_seconds in (0, 2**33):
            os.utime(running, (age_seconds, age_seconds))  # whatever the clock says
            with open_verified(root, files) as other:
                assert running.exists()
            assert not other.exists()
    assert not list(tmp_path.glob("*headwaiter*"))
