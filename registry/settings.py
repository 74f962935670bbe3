"""The registry's settings, read from the environment once, at the edge."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.errors import RegistryError

DEFAULT_ALIAS = "champion"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class InvalidSetting(RegistryError):
    """A setting's value breaks its rule."""


@dataclass(frozen=True)
class RegistrySettings:
    """Where the registry and its local cache are.

    home: the one folder for cache, sockets and run state (`HEADWAITER_HOME`).
    tracking_uri: MLflow's own address (`MLFLOW_TRACKING_URI`); default: a sqlite file under home.
    """

    home: Path
    tracking_uri: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "RegistrySettings":
        """Read `HEADWAITER_HOME` and `MLFLOW_TRACKING_URI`; an empty value counts as unset."""
        home = Path(environ.get("HEADWAITER_HOME") or "~/.headwaiter").expanduser().resolve()
        uri = environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
        return cls(home=home, tracking_uri=uri)

    @property
    def cache(self) -> Path:
        """Folder of verified artifacts, one sub-folder per contract digest."""
        return self.home / "cache"

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow keeps artifacts when no tracking server is configured."""
        return self.home / "artifacts"

    @property
    def is_embedded(self) -> bool:
        """Whether MLflow is the sqlite file under home, with nobody else configuring it."""
        return self.tracking_uri == f"sqlite:///{self.home / 'mlflow.db'}"


def check_model_name(name: str) -> str:
    """Return `name` if it can be a URL path segment and a metric label, else raise InvalidSetting."""
    if not _NAME.fullmatch(name):
        raise InvalidSetting(
            f"model name {name!r} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        )
    return name
