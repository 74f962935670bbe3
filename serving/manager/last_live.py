"""The versions that were last live here, kept on disk for a server that starts while the registry is down."""

import hashlib
import os
from pathlib import Path

import msgspec

from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from serving.wire.report_file import write_report


class _Record(msgspec.Struct, frozen=True, tag_field="format", tag=1):
    """One without a number is of format 1. One of another format is not read: a start asks the registry then."""

    version: ResolvedVersion


class LastLive:
    """One small file a reference, under home and the registry's address; shared by all servers of the machine."""

    def __init__(self, settings: RegistrySettings) -> None:
        registry = hashlib.sha256(settings.registry_address.encode()).hexdigest()[:16]
        self._folder = settings.home / "last-live" / registry

    def remember(self, reference: Reference, version: ResolvedVersion) -> None:
        """The reference serves this version now."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_report(self._path(reference), _Record(version))

    def recall(self, reference: Reference) -> ResolvedVersion | None:
        """The version that it served last, None where none is known."""
        return _read(self._path(reference))

    def recall_all(self) -> list[ResolvedVersion]:
        """The versions that all references served last."""
        found = (_read(path) for path in sorted(self._folder.glob("*.json")))
        return [version for version in found if version is not None]

    def touch(self, reference: Reference) -> None:
        """It was used now. Raises OSError."""
        os.utime(self._path(reference))

    def used_at(self, reference: Reference) -> float:
        """When it was last used here, in seconds since the epoch; 0 for never."""
        try:
            return self._path(reference).stat().st_mtime
        except OSError:
            return 0.0

    def _path(self, reference: Reference) -> Path:
        return self._folder / (str(reference).replace("/", "+") + ".json")


def _read(path: Path) -> ResolvedVersion | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record).version
    except (OSError, msgspec.DecodeError):
        return None
