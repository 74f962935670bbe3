"""Reads the URI, config and inputs of a deployment, and turns Headwaiter's errors into MLflow's."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow
import msgspec
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from registry.errors import NotFound, RegistryError
from registry.layout import FLAVOR, TEXT_COLUMNS
from registry.references import Reference
from registry.settings import InvalidSetting, RegistrySettings
from serving.client.server_client import Described, Remote
from serving.errors import RemoteError, mlflow_code

Options = dict[str, Any]
"""The checked config of a deployment: a text or a number each."""


def refusal(message: str, code: str) -> MlflowException:
    """The error to raise. code: the name of one of MLflow's error codes."""
    return MlflowException(message, error_code=ErrorCode.Value(code))


def read_uri(name: str, model_uri: str, flavor: str | None) -> Reference:
    """The registered model's version or alias; raises MlflowException, InvalidSetting."""
    if flavor not in (None, FLAVOR):
        raise refusal(
            f"flavor {flavor!r} is not to choose: leave it out, the model's contract says how it is served",
            "INVALID_PARAMETER_VALUE",
        )
    scheme, _, rest = model_uri.partition(":/")
    reference = Reference.parse(rest.strip("/")) if scheme == "models" else None
    if reference is None or reference.name != name or not ("@" in rest or "/" in rest.strip("/")):
        raise refusal(
            f"model URI {model_uri!r} cannot be deployed as {name!r}: give models:/{name}/VERSION or "
            f"models:/{name}@ALIAS, as a deployment has the name of its registered model",
            "INVALID_PARAMETER_VALUE",
        )
    return reference


def read_config(config: Mapping[str, object] | None, allowed: tuple[str, ...]) -> Options:
    """The config, whose numbers are texts when they come from the command line; refuses unknown keys."""
    options = dict(config or {})
    for key in options.keys() - set(allowed):
        raise refusal(f"config {key!r} is unknown: give some of {', '.join(allowed)}", "INVALID_PARAMETER_VALUE")
    if "wait_seconds" in options:
        options["wait_seconds"] = _read_seconds("wait_seconds", options["wait_seconds"])
    return options


def _read_seconds(key: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise refusal(f"config {key}={value!r} is no number of seconds: give one above 0", "INVALID_PARAMETER_VALUE")
    return seconds


def registry_settings() -> RegistrySettings:
    """Headwaiter's own, unless this process has pointed MLflow somewhere else."""
    settings = RegistrySettings.from_environment()
    if not mlflow.is_tracking_uri_set():
        return settings
    return msgspec.structs.replace(
        settings, tracking_uri=mlflow.get_tracking_uri(), registry_uri=mlflow.get_registry_uri()
    )


class _Version(msgspec.Struct):
    state: str
    error: str | None = None


class _Model(msgspec.Struct):
    name: str
    live: str | None
    aliases: dict[str, str]
    error: str | None
    versions: dict[str, _Version]


class _Status(msgspec.Struct):
    """What deployments read of a server's state; it has more."""

    models: list[_Model]
    named: list[str]
    deployments: bool


def read_status(server: Remote) -> Described:
    """What the server tells of itself, as it is. Raises RemoteError where something is not as a Headwaiter has it."""
    found = server.status()
    try:
        msgspec.convert(found, _Status)
    except msgspec.ValidationError as error:
        raise RemoteError(
            f"{server.url} tells its state in a form that is not known ({error}): see that it is a Headwaiter of this "
            "release"
        ) from error
    return found


def to_body(inputs: object) -> dict[str, object]:
    """The request's body for a text, a list, an array, a DataFrame or a whole request."""
    if hasattr(inputs, "to_json"):  # pandas: its own JSON knows its types
        rows = json.loads(inputs.to_json(orient="records"))
        names = [str(name) for name in getattr(inputs, "columns", ())]
        column = next((name for name in TEXT_COLUMNS if name in names and "text_pair" not in names), None)
        if column is None and len(names) == 1:
            column = names[0]
        return {"inputs": [row[column] for row in rows] if column else rows}
    if isinstance(inputs, dict) and "inputs" in inputs:
        return inputs
    return {"inputs": inputs.tolist() if hasattr(inputs, "tolist") else inputs}


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn Headwaiter's errors into MLflow's."""
    try:
        yield
    except RemoteError as error:
        raise refusal(str(error), mlflow_code(error.status)) from error
    except InvalidSetting as error:
        raise refusal(str(error), "INVALID_PARAMETER_VALUE") from error
    except NotFound as error:
        raise refusal(str(error), "RESOURCE_DOES_NOT_EXIST") from error
    except RegistryError as error:
        raise refusal(str(error), "INVALID_STATE") from error
