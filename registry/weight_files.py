"""Whether the files of a checkpoint arrived whole: no pointers of Git LFS, and weights whose headers can be read."""

from pathlib import Path

from registry.checkpoint_files import WeightsIndex, one_line, read_json
from registry.errors import UnreadableArtifact

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""One of these is what transformers (5.23) loads."""
READ_SUFFIXES = frozenset({".safetensors", ".json", ".model", ".spm", ".txt"})
"""Of the files of a checkpoint that are read."""
POINTER = b"version https://git-lfs."
"""A pointer of Git LFS begins so, and is smaller than POINTER_BYTES (its specification, version 1)."""
POINTER_BYTES = 1024


def refuse_pointers(folder: Path) -> None:
    """Raise UnreadableArtifact for a pointer of Git LFS, which a clone without it has in place of a large file."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in READ_SUFFIXES or not path.is_file() or path.stat().st_size >= POINTER_BYTES:
            continue
        if path.read_bytes().startswith(POINTER):
            raise UnreadableArtifact(
                f"{path.name} is a pointer of Git LFS and not the file itself: run git lfs pull in the clone, or "
                "download the file, and restore it here"
            )


def check_weights(folder: Path) -> None:
    """Raise UnreadableArtifact for weights in a file that is no safetensors file, or not a whole one. Reads headers.

    The folder has one of WEIGHTS, and the files that an index names.
    """
    from safetensors import SafetensorError, safe_open

    single, index = (folder / name for name in WEIGHTS)
    names = [single.name] if single.is_file() else sorted({*read_json(index, WeightsIndex).weight_map.values()})
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UnreadableArtifact(
                f"{name} is not a whole safetensors file ({one_line(error)}): download or restore it again, or save "
                "the model again with save_pretrained"
            ) from error
