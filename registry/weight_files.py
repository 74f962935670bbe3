"""Whether the files of a checkpoint arrived whole: no pointers of Git LFS, and weights whose headers can be read."""

from pathlib import Path

from registry.checkpoint_files import WeightsIndex, one_line, read_json
from registry.errors import UnreadableArtifact

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""One of these is what transformers (5.23) loads."""
READ_SUFFIXES = frozenset({".safetensors", ".json", ".model", ".spm", ".txt"})
"""Of the files of a checkpoint that are read."""
QUANTIZED = ("I8", "U8", "F8", "F4")
"""What names of dtypes that need a scale begin with (safetensors 0.6)."""
UNREAD_SUFFIXES = frozenset({".h5", ".msgpack", ".gguf", ".onnx", ".safetensors"})
"""Of weights of TensorFlow, Flax, llama.cpp and ONNX, and of safetensors files that transformers does not look for."""
VOCABULARY = "vocab.txt"
TEXTS = (VOCABULARY, "merges.txt", "chat_template.jinja")
"""Files of a tokenizer that are neither JSON nor binary."""
POINTER = b"version https://git-lfs."
"""A pointer of Git LFS begins so, and is smaller than POINTER_BYTES (its specification, version 1)."""
POINTER_BYTES = 1024


def refuse_pointers(folder: Path, within: str = "") -> None:
    """Raise UnreadableArtifact for a pointer of Git LFS, which a clone without it has in place of a large file.

    within: the subfolder that is looked at; "" for the folder's own files.
    """
    for path in sorted((folder / within).iterdir()):
        if path.suffix not in READ_SUFFIXES or not path.is_file() or path.stat().st_size >= POINTER_BYTES:
            continue
        if path.read_bytes().startswith(POINTER):
            raise UnreadableArtifact(
                f"{path.relative_to(folder)} is a pointer of Git LFS and not the file itself: run git lfs pull in the "
                "clone, or download the file, and restore it here"
            )


def check_texts(folder: Path) -> None:
    """Raise UnreadableArtifact for one of TEXTS that is no UTF-8, and for a vocabulary of nothing."""
    for path in (folder / name for name in TEXTS):
        if not path.is_file():
            continue
        try:
            is_empty = not path.read_text(encoding="utf-8").strip() and path.name == VOCABULARY
        except UnicodeDecodeError as error:
            raise UnreadableArtifact(
                f"{path.name} is no text in UTF-8 ({one_line(error)}): restore that file, or save the tokenizer again "
                "with save_pretrained"
            ) from error
        if is_empty:
            raise UnreadableArtifact(f"{path.name} is empty: restore it, or save the tokenizer with save_pretrained")


def list_unread(folder: Path) -> list[str]:
    """The files of weights in formats, or under names, that are not read."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in UNREAD_SUFFIXES and path.is_file())


def check_weights(folder: Path) -> None:
    """Check each file of weights as `read_shapes` does. Raises UnreadableArtifact.

    The folder has one of WEIGHTS, and the files that an index names.
    """
    for name in list_weights(folder):
        read_shapes(folder, name)


def list_weights(folder: Path) -> list[str]:
    """The files of the weights that transformers loads from a folder that has one of WEIGHTS."""
    single, index = (folder / name for name in WEIGHTS)
    return [single.name] if single.is_file() else sorted({*read_json(index, WeightsIndex).weight_map.values()})


def read_shapes(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a safetensors file, from its header.

    Raises UnreadableArtifact for what is no safetensors file, or not a whole one, and for quantized weights, which
    transformers (5.23) would take for numbers as they are.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / name, framework="numpy") as file:
            found = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            dtypes = {key: str(weight.get_dtype()) for key, weight in found.items()}
            shapes = {key: tuple(weight.get_shape()) for key, weight in found.items()}
    except (OSError, SafetensorError) as error:
        raise UnreadableArtifact(
            f"{name} is not a whole safetensors file ({one_line(error)}): download or restore it again, or save "
            "the model again with save_pretrained"
        ) from error
    quantized = [key for key, dtype in dtypes.items() if key.endswith("weight") and dtype.startswith(QUANTIZED)]
    if quantized:
        raise UnreadableArtifact(
            f"{name}: {quantized[0]} is in {dtypes[quantized[0]]}, and means nothing without its scale: quantized "
            "weights are not served; save the model in full precision with save_pretrained"
        )
    return shapes
