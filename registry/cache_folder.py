"""The folder of the cache: whose it is, what is on its way in, and what leaves once there is too much.

One sub-folder a contract digest, of mode 0700 with files of mode 0400. Its time of modification is that of its last
use, which only decides what leaves first. Processes agree by flock(2): on the folder itself for a moment, on a download
while it lasts, and on an artifact from when it is found or fetched until nobody needs its files any more.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from registry.errors import DigestMismatch, UnsafeArtifact
from registry.held_folder import is_free
from registry.own_folder import make_home
from registry.plain_files import list_plain
from registry.settings import InvalidSetting, RegistrySettings

FOLDER_MODE, FILE_MODE, LOCK_MODE = 0o700, 0o400, 0o600
INCOMING, LEAVING = ".incoming-", ".leaving-"
"""Beginnings of the names of folders that are no artifacts: a download, and what is being removed."""
FETCHING = ".fetching-"
"""Beginning of the name of the file that is locked while an artifact is fetched."""
DIGEST = re.compile(r"[0-9a-f]{64}")


class Held:
    """An artifact that stays in the cache as long as this object is referenced. root: its folder."""

    def __init__(self, root: Path, descriptor: int) -> None:
        """descriptor: of the folder, not locked or locked by this process; this object closes it."""
        self.root = root
        self._descriptor = descriptor
        with suppress(OSError):  # a file system without locks, where nothing is removed
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        touch(root)

    @classmethod
    def take(cls, root: Path) -> Self:
        """Hold the artifact in this folder, and note that it is used. Raises DigestMismatch for one that is gone."""
        try:
            return cls(root, os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise DigestMismatch(f"{root} is no longer in the cache: fetch it again") from error

    def __del__(self) -> None:
        os.close(self._descriptor)


_held: list[Held] = []
"""Artifacts that are held for as long as this process lives."""


def hold(root: Path) -> None:
    """Keep the artifact in the cache until this process ends. Raises as `Held.take`."""
    _held.append(Held.take(root))


def touch(root: Path) -> None:
    """Note that the artifact is used now."""
    with suppress(OSError):  # a file system that cannot be written
        os.utime(root)


class CacheFolder:
    """The cache of `settings`. Every method may raise OSError, as of a full disk."""

    def __init__(self, settings: RegistrySettings) -> None:
        """Make the folder if there is none. Raises InvalidSetting for one that is another user's."""
        self.path = settings.cache
        make_home(settings.home)
        self.path.mkdir(mode=FOLDER_MODE, exist_ok=True)
        status = self.path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise InvalidSetting(
                f"HEADWAITER_HOME={settings.home} cannot be used: {self.path} is a link or belongs to user "
                f"{status.st_uid}, and this is user {os.geteuid()}, so that its files are not to be trusted: name a "
                "folder of this user"
            )
        if stat.S_IMODE(status.st_mode) != FOLDER_MODE:
            self.path.chmod(FOLDER_MODE)
        self._incoming: dict[Path, int] = {}
        self.max_bytes = settings.artifact_cache_bytes or shutil.disk_usage(self.path).total // 2

    def find(self, digest: str) -> Held | None:
        """The artifact with this contract digest, None without one. Raises DigestMismatch for what is no digest.

        Its files may have changed; see `check_own`.
        """
        if not DIGEST.fullmatch(digest):
            raise DigestMismatch(f"the registry recorded {digest!a}, which is no sha256: log the model again")
        root = self.path / digest
        with self._locked():
            if not root.is_dir() or root.is_symlink():
                return None
            return Held.take(root)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder to download to, removed in the end unless it was kept. What killed downloads left is removed."""
        with self._locked():
            self._sweep()
            folder = self.path / f"{INCOMING}{uuid.uuid4().hex}"
            folder.mkdir(mode=FOLDER_MODE)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._incoming[folder] = descriptor
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if folder in self._incoming:
                os.close(self._incoming.pop(folder))

    @contextmanager
    def fetching(self, digest: str | None) -> Iterator[None]:
        """One at a time for each digest that is known: blocks while another process or thread fetches the artifact.

        A process that is killed holds up nobody.
        """
        with ExitStack() as stack:
            if digest is not None:
                with suppress(OSError):  # a file system without locks
                    path = self.path / f"{FETCHING}{digest}"
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, LOCK_MODE)
                    stack.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    stack.callback(path.unlink, missing_ok=True)
            yield

    def keep(self, staging: Path, digest: str) -> Held:
        """Make the download the artifact of this digest, unless it is there already, and read-only."""
        for path in staging.rglob("*"):
            path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
        root = self.path / digest
        with self._locked():
            if root.is_dir():
                return Held.take(root)
            staging.rename(root)
            return Held(root, self._incoming.pop(staging))

    def discard(self, root: Path) -> None:
        """Remove the artifact, whoever uses it: what an engine has opened stays open."""
        with suppress(FileNotFoundError):
            shutil.rmtree(root.rename(self.path / f"{LEAVING}{uuid.uuid4().hex}"), ignore_errors=True)

    def make_room(self, size_bytes: int) -> None:
        """Remove the artifacts that were not used for longest, until `size_bytes` more are within the bound.

        What somebody holds stays, even past the bound. Raises InvalidSetting for more than the bound, OSError for more
        than is free.
        """
        if size_bytes > self.max_bytes:
            raise InvalidSetting(
                f"the artifact has {size_bytes:,} bytes, and the cache holds {self.max_bytes:,} "
                "(HEADWAITER_ARTIFACT_CACHE_BYTES, or half of the disk): set it higher"
            )
        self._remove_unused(size_bytes)
        if size_bytes > shutil.disk_usage(self.path).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def finds_room(self, size_bytes: int) -> bool:
        """Make room as `make_room` does, for what can be left out: whether it is within the bound then."""
        return size_bytes <= self.max_bytes and self._remove_unused(size_bytes)

    def _remove_unused(self, size_bytes: int) -> bool:
        """Remove what nobody holds until `size_bytes` more are within the bound; whether they are."""
        with self._locked():
            used = {}
            for root in self.path.iterdir():
                if DIGEST.fullmatch(root.name):
                    with suppress(FileNotFoundError):  # its files were damaged, and another process removed it
                        used[root] = root.lstat().st_mtime
            sizes = {root: _size_bytes(root) for root in used}
            excess = sum(sizes.values()) + size_bytes - self.max_bytes
            for root in sorted(used, key=lambda root: used[root]):
                if excess <= 0:
                    break
                if is_free(root):
                    self.discard(root)
                    excess -= sizes[root]
        return excess <= 0

    def _sweep(self) -> None:
        """Remove what processes that were killed have left."""
        for prefix in (INCOMING, LEAVING):
            for left in self.path.glob(f"{prefix}*"):
                if is_free(left):
                    shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def check_own(root: Path, folder: str) -> None:
    """Check that the files of a cached artifact are this user's alone. Raises UnsafeArtifact."""
    for name, status in list_plain(root, folder).items():
        if status.st_uid != os.geteuid() or status.st_nlink != 1 or status.st_mode & 0o022:
            raise UnsafeArtifact(
                f"{name} in the cache belongs to user {status.st_uid}, has {status.st_nlink} names, or others may "
                "write to it, so it is not trusted: the artifact is fetched again"
            )


def _size_bytes(root: Path) -> int:
    """The bytes of the files below the folder, without those that vanish meanwhile, as an engine's graph may."""
    size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(folder, name).lstat().st_size
    return size
