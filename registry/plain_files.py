"""The one way to a file of an artifact: a plain name, a regular file, no links, a bounded size.

An artifact comes from a store that others may write to, so nothing in it may lead to another file of this machine.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from registry.errors import UnsafeArtifact

SUFFIXES = ("bpe", "codes", "jinja", "json", "md", "model", "safetensors", "spm", "tokenizer", "txt", "vocab")
"""Endings of the files that `save_pretrained` and sentence-transformers write: those that are read to serve, and the
model's card. None of them holds code or pickled data."""
MAX_FILES = 512
"""Of an artifact. A load holds a descriptor of each, of which a process may have 1,024 in many places; the largest
checkpoints have some 200 shards."""
MAX_TEXT_BYTES = 1 << 28
"""Of a file other than weights; the largest vocabularies take a tenth of it."""
MAX_RECORD_BYTES = 1 << 24
"""Of `MLmodel`. A contract, which has a bound of its own, takes up to three times as much there."""
OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""The open of a FIFO that nobody writes to does not block."""

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_NAME = re.compile(rf"(?:{_SEGMENT}/){{0,3}}{_SEGMENT}\.(?:{'|'.join(SUFFIXES)})")


def check_name(name: str) -> str:
    """Return the path, relative to the artifact or the model's folder, if such a file is served.

    Raises UnsafeArtifact.
    """
    if not _NAME.fullmatch(name):
        raise UnsafeArtifact(
            f"the file {name!a} is not served: a name has A-Z a-z 0-9 . _ -, at most three folders before it, and ends "
            f"in .{', .'.join(SUFFIXES)}. Remove the file, or save the model again with save_pretrained"
        )
    return name


@contextmanager
def open_plain(root: Path, name: str, max_bytes: int | None = None) -> Iterator[FileIO]:
    """The file `root/name`, opened for reading without a buffer.

    max_bytes: of the file; by default MAX_TEXT_BYTES, unbounded for weights. Raises UnsafeArtifact for a link in the
    path below `root`, for what is no regular file, and for one that is too large. Raises OSError as `open` does.
    """
    *folders, last = name.split("/")
    with ExitStack() as opened:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, at)
        try:
            for folder in folders:
                at = os.open(folder, OPEN_FLAGS | os.O_DIRECTORY, dir_fd=at)
                opened.callback(os.close, at)
            file = opened.enter_context(os.fdopen(os.open(last, OPEN_FLAGS, dir_fd=at), "rb", buffering=0))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _refuse_link(root, name, error)
            raise
        _check_status(name, os.fstat(file.fileno()), _bound(name) if max_bytes is None else max_bytes)
        yield file


def list_plain(root: Path, folder: str) -> dict[str, os.stat_result]:
    """Path relative to `root` → status, of every file below `root/folder`, sorted by path.

    Raises UnsafeArtifact as `check_name` and `open_plain` do. A folder that does not exist has no files.
    """
    found: dict[str, os.stat_result] = {}
    waiting = [folder]
    while waiting:
        at = waiting.pop()
        try:
            entries = list(os.scandir(root / at))
        except FileNotFoundError:
            continue
        for entry in entries:
            name, status = f"{at}/{entry.name}", entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and name.count("/") <= 3:
                waiting.append(name)
                continue
            check_name(name)
            _check_status(name, status, _bound(name))
            found[name] = status
        if len(found) + len(waiting) > MAX_FILES:
            raise UnsafeArtifact(f"the artifact has more than {MAX_FILES} files: save the model with save_pretrained")
    return dict(sorted(found.items()))


def read_record(root: Path, name: str) -> bytes:
    """The content of the file `root/name`, at most MAX_RECORD_BYTES. Raises as `open_plain`."""
    with open_plain(root, name, MAX_RECORD_BYTES) as file:
        parts = list(iter(lambda: file.read(1 << 20), b""))
    return b"".join(parts)


def _bound(name: str) -> int | None:
    """The most bytes of the file; None for weights, which only the size of the whole artifact limits."""
    return None if name.endswith(".safetensors") else MAX_TEXT_BYTES


def _check_status(name: str, status: os.stat_result, max_bytes: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "no regular file"
        raise UnsafeArtifact(f"{name!a} is {kind}: an artifact holds regular files only; log the model again")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UnsafeArtifact(
            f"{name!a} has {status.st_size:,} bytes, at most {max_bytes:,} are read: put the right file in its place, "
            "or log the model again"
        )


def _refuse_link(root: Path, name: str, error: OSError) -> None:
    """Raise UnsafeArtifact where a part of the path is a link, or its end is a socket."""
    path = root
    for part in name.split("/"):
        path /= part
        if path.is_symlink() or path.is_socket():
            raise UnsafeArtifact(
                f"{name!a} is a link or no regular file: an artifact holds regular files only; log the model again"
            ) from error
