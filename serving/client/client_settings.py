"""The settings of commands that ask a running server, and of MLflow's deployments."""

import os
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from registry.environment import read_settings


class ClientSettings(msgspec.Struct, frozen=True):
    """What a client is set to."""

    api_key: Annotated[
        str,
        Meta(
            description="Of a client: the key that headwaiter status, headwaiter batch and mlflow deployments send to "
            "a server."
        ),
    ] = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "ClientSettings":
        """Read the settings."""
        return cls(**read_settings(cls, environ))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
