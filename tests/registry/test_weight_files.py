"""Files that did not arrive whole are refused by name, with what to do about it."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from registry.checks import check_files
from registry.errors import IncompleteArtifact, UnreadableArtifact

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    """A checkpoint of one file of weights."""
    return shutil.copytree(models["single"], tmp_path / "changed")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", struct.pack("<Q", 1 << 40) + b"{}", None])
def test_weights_that_are_not_whole(folder: Path, content: bytes | None) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    with pytest.raises(UnreadableArtifact, match=r"^model\.safetensors is not a whole safetensors file .*download"):
        check_files(folder)


def test_one_of_several_files_of_weights_that_is_not_whole(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder, max_shard_size="500KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    check_files(folder)
    last = sorted(folder.glob("model-*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-8])
    with pytest.raises(UnreadableArtifact, match=rf"^{last.name} is not a whole safetensors file"):
        check_files(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "spiece.model"])
def test_pointers_of_git_lfs(folder: Path, name: str) -> None:
    (folder / "onnx.bin").write_bytes(POINTER)
    check_files(folder)
    (folder / name).write_bytes(POINTER)
    with pytest.raises(UnreadableArtifact, match=f"^{name} is a pointer of Git LFS.*git lfs pull"):
        check_files(folder)


@pytest.mark.parametrize(
    ("content", "named"),
    [({"weight_map": {"a": "b.safetensors"}}, "metadata"), ({"metadata": {}, "weight_map": {}}, "weight_map")],
)
def test_an_index_that_transformers_cannot_read(folder: Path, content: dict[str, object], named: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(UnreadableArtifact, match=rf"^model\.safetensors\.index\.json: .*{named}"):
        check_files(folder)


@pytest.mark.parametrize(("name", "is_refused"), [("vocab.txt", True), ("merges.txt", False)])
def test_a_tokenizers_texts(folder: Path, name: str, is_refused: bool) -> None:
    (folder / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnreadableArtifact, match=f"^{name} is no text in UTF-8"):
        check_files(folder)
    (folder / name).write_bytes(b"\n")
    if is_refused:
        with pytest.raises(UnreadableArtifact, match=f"^{name} is empty"):
            check_files(folder)
    else:
        check_files(folder)


@pytest.mark.parametrize("name", ["tf_model.h5", "model.gguf", "consolidated.safetensors", "model.fp16.safetensors"])
def test_weights_of_other_formats_are_named(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(
        IncompleteArtifact, match=rf"has no model\.safetensors .*and {name} is not read.*save_pretrained"
    ):
        check_files(folder)


@pytest.mark.parametrize(("dtype", "named"), [("float8_e4m3fn", "F8_E4M3"), ("int8", "I8")])
def test_quantized_weights_without_their_settings(folder: Path, dtype: str, named: str) -> None:
    """transformers takes them for numbers as they are."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["embeddings.position_ids"] = torch.arange(9, dtype=torch.int8)  # no weight
    save_file(weights, folder / "model.safetensors")
    check_files(folder)
    weights["classifier.weight"] = weights["classifier.weight"].to(getattr(torch, dtype))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UnreadableArtifact, match=rf"^model\.safetensors: classifier\.weight is in {named}.*precision"):
        check_files(folder)
