"""Notices that the SQLite file of a registry was written, so that nobody waits for the next poll."""

import os


class RegistryFile:
    """The file behind a registry's address. For an address of another kind nothing ever changes.

    paths: of the file and its write-ahead log; empty for an address of another kind.

    Looking costs two `stat`, a poll several milliseconds. A registry behind a server tells by its webhooks.
    """

    def __init__(self, address: str) -> None:
        """address: MLflow's, as `sqlite:////home/me/mlflow.db`."""
        scheme, _, rest = address.partition(":///")
        path = rest.partition("?")[0]
        is_plain = bool(path) and not path.startswith((":memory:", "file:"))
        path = os.path.realpath(path) if is_plain else ""  # SQLite writes its log beside the file, not beside a link
        is_file = scheme.partition("+")[0] == "sqlite" and bool(path)
        self.paths = (path, f"{path}-wal") if is_file else ()
        self._seen = self._look()

    def was_written(self) -> bool:
        """Whether the file was written since the last call, or since this was made."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        """What a write changes: of the file, and of its write-ahead log, which a reader creates and leaves empty."""
        found = []
        for path in self.paths:
            try:
                stat = os.stat(path)
            except OSError:
                continue
            if stat.st_size:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(found)
