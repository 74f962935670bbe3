"""An artifact opened for loading: the bytes that are loaded are those that were hashed, whatever happens to the paths.

Each file is opened once. Its digest is computed through the descriptor, and libraries load through it as well. Files
that were touched meanwhile are hashed again before the load counts.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from registry.digests import check_digest
from registry.errors import DigestMismatch, UnsafeArtifact
from registry.held_folder import held_folder
from registry.plain_files import MAX_FILES, check_name, open_plain

LINKS = Path("/dev/shm")  # noqa: S108  # a folder of one's own is made in it; there, a full disk does not matter
"""Where the folder of links to the descriptors is, if it exists."""
PREFIX = "headwaiter-links-"


def is_weights(name: str) -> bool:
    """Whether the file holds weights, which only an engine needs."""
    return name.endswith(".safetensors")


@dataclass(frozen=True)
class _Opened:
    """An open file of the artifact, whose bytes have the sha256 `digest`. change: of its inode, before it was read."""

    name: str
    file: FileIO
    digest: str
    change: int

    def check(self) -> None:
        """Raise DigestMismatch where the file's bytes are others."""
        self.file.seek(0)
        check_digest(self.name, hashlib.file_digest(self.file, "sha256").hexdigest(), self.digest)

    def check_again(self) -> None:
        """As `check`, unless nobody has touched the file since."""
        if os.fstat(self.file.fileno()).st_ctime_ns != self.change:
            self.check()


@contextmanager
def open_verified(
    root: Path, files: Mapping[str, str], is_wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[Path]:
    """A folder with the artifact's `files` as its contract has them, for libraries that load from a path.

    files: path relative to `root` → sha256 in hex. is_wanted: whether the file is needed; each that is needed is hashed
    once. The folder does not outlive the context, and what was loaded counts only after its end. Blocks. Raises
    DigestMismatch for a file that is missing or has other bytes, UnsafeArtifact for one that is no plain file,
    and for more than MAX_FILES.
    """
    wanted = {name: digest for name, digest in files.items() if is_wanted(check_name(name))}
    if len(wanted) > MAX_FILES:
        raise UnsafeArtifact(
            f"the contract lists {len(wanted):,} files, at most {MAX_FILES} are opened at once: save the model in "
            "larger shards (max_shard_size) and log it again"
        )
    with ExitStack() as stack:
        folder, opened = stack.enter_context(_folder_of_links()), list[_Opened]()
        for name, digest in wanted.items():
            try:
                file = stack.enter_context(open_plain(root, name))
            except FileNotFoundError as error:
                raise DigestMismatch(f"{name} is missing from {root}; the contract lists it: fetch it again") from error
            opened.append(_Opened(name, file, digest, os.fstat(file.fileno()).st_ctime_ns))
            opened[-1].check()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(f"/proc/self/fd/{file.fileno()}")
        yield folder
        for each in opened:
            each.check_again()


def _folder_of_links() -> AbstractContextManager[Path]:
    return held_folder(PREFIX, LINKS if os.access(LINKS, os.W_OK) else None)
