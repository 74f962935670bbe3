"""The `mlflow.deployments` target `headwaiter`: MLflow's own commands and client, on a running server.

A deployment is a registered model that the registry marks as deployed; servers that follow deployments serve what its
alias names. So every replica follows, and what is done here outlives a server.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from registry.child_process import module_command, python_path
from registry.errors import NotFound
from registry.layout import FLAVOR
from registry.references import Reference
from registry.settings import DEFAULT_ALIAS
from registry.versions import Versions
from serving.client.deployment_options import (
    Options,
    mlflow_errors,
    read_config,
    read_status,
    read_uri,
    refusal,
    registry_settings,
    to_body,
)
from serving.client.server_client import Described, Remote
from serving.errors import RemoteError

logger = logging.getLogger("headwaiter.deployments")

DEFAULT_URL = "http://127.0.0.1:3000"
POLL_SECONDS = 0.2
WAIT_SECONDS = 600.0
STOP_SECONDS = 60.0
CONFIG = ("alias", "why", "allow_breaking", "wait_seconds")
LOCAL_CONFIG = ("host", "port", "device", "dtype", "workers")

Found = TypeVar("Found")


def target_help() -> str:
    """The text that `mlflow deployments help -t headwaiter` prints."""
    return f"""\
The target is a running Headwaiter server: headwaiter:http://HOST:PORT, or headwaiter for {DEFAULT_URL}. Start it with
`headwaiter serve --deployments`; it shares its MLflow with this command (MLFLOW_TRACKING_URI).

A deployment has the name of its registered model. Its model URI is models:/NAME/VERSION, to which the alias is
promoted, or models:/NAME@ALIAS, which is followed. `create` and `update` return once the server serves the version;
`delete` takes the mark away and keeps versions, aliases and history.

-C alias=NAME        the alias to move to models:/NAME/VERSION and to follow; default: {DEFAULT_ALIAS}
-C why=TEXT          the reason, for the history
-C allow_breaking=TEXT  why clients may notice the change; without it, one that they would notice is refused
-C wait_seconds=N    how long the server may take; default: {WAIT_SECONDS:g}

`run-local` serves one model until it is interrupted, with -C {"=…, -C ".join(LOCAL_CONFIG)}=… as `headwaiter serve` has them.
"""  # noqa: E501  # one line for a terminal of any width


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, object] | None = None) -> None:
    """Serve the model on this machine; blocks until the server ends, and ends it when interrupted.

    Raises MlflowException for a model URI or configuration that cannot be served, and for a server that fails.
    """
    with mlflow_errors():
        reference = read_uri(name, model_uri, flavor)
        options = read_config(config, LOCAL_CONFIG)
        command = module_command("serving.commands.main", "serve", str(reference))
        for key, value in options.items():
            command += [f"--{key}", str(value)]
        settings = registry_settings()
        environ = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "MLFLOW_REGISTRY_URI": settings.registry_address}
        environ["PYTHONPATH"] = python_path()
    status = _run(command, environ)
    if status not in (0, -signal.SIGINT, -signal.SIGTERM):
        raise MlflowException(f"the server of {reference} ended with status {status}: its output says why")


class HeadwaiterDeploymentClient(BaseDeploymentClient):
    """MLflow's client for one running server. Every method blocks; errors are MlflowException.

    target_uri: `headwaiter:http://HOST:PORT`; without an address, a server on this machine's port 3000.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        with mlflow_errors():
            self._server = Remote(target_uri.partition(":")[2] or DEFAULT_URL)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, object] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, object]:
        """Mark the model as deployed, and wait until the server serves it. See `target_help` for uri and config.

        A deployment that does not come up is unmarked again; where its alias was moved, the alias stays there.
        """
        with mlflow_errors():
            reference, options = read_uri(name, model_uri, flavor), read_config(config, CONFIG)
            versions = Versions(registry_settings())
            if any(found.name == name for found in versions.deployed()):
                raise refusal(f"{name} is deployed already: update it, or delete it first", "RESOURCE_ALREADY_EXISTS")
            alias = _choose_alias(reference, options, DEFAULT_ALIAS)
            self._check_followed(Reference(name, alias=alias))
            _point(versions, reference, alias, options)
            versions.deploy(name, alias)
            try:
                return self._wait_until_served(versions, name, alias, options)
            except BaseException:
                versions.undeploy(name)
                raise

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, object] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, object]:
        """Promote the deployment's alias to another version, or follow another alias; waits until that is served."""
        with mlflow_errors():
            if model_uri is None:
                raise refusal(
                    f"nothing to update: give the model URI models:/{name}/VERSION or models:/{name}@ALIAS",
                    "INVALID_PARAMETER_VALUE",
                )
            reference, options = read_uri(name, model_uri, flavor), read_config(config, CONFIG)
            versions = Versions(registry_settings())
            before = next((found.alias for found in versions.deployed() if found.name == name), None)
            if before is None:
                raise _not_deployed(name)
            alias = _choose_alias(reference, options, before)
            self._check_followed(Reference(name, alias=alias))
            _point(versions, reference, alias, options)
            if alias != before:
                versions.deploy(name, alias)
            return self._wait_until_served(versions, name, alias, options)

    def delete_deployment(
        self, name: str, config: Mapping[str, object] | None = None, endpoint: str | None = None
    ) -> None:
        """Take the mark away, and wait until the server has let the model go. One that is not there is no error."""
        with mlflow_errors():
            options = read_config(config, CONFIG)
            try:
                Versions(registry_settings()).undeploy(name)
            except NotFound:
                return
            if any(Reference.parse(text).name == name for text in read_status(self._server)["named"]):
                logger.warning("%s is deployed no more, but this server was started with its name and goes on", name)
                return
            self._wait(lambda: self._model(name) is None or None, options, f"{self._server.url} still has {name}")

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, object]]:
        """The served models, one dict each: name, flavor, live, aliases, error, and states by version."""
        with mlflow_errors():
            return [_summary(model) for model in read_status(self._server)["models"]]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, object]:
        """One model as `GET /models/{name}` shows it, with the flavor; raises RESOURCE_DOES_NOT_EXIST."""
        with mlflow_errors():
            found = self._model(name)
            if found is None:
                raise _not_deployed(name)
            return {**found, "flavor": FLAVOR}

    def predict(
        self, deployment_name: str | None = None, inputs: object = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """The live version's answers.

        inputs: one of the task's inputs; a list of them; a request `{"inputs": …, "parameters": {…}}`; or a pandas
        DataFrame, of whose column `inputs` or `text` (or only column) each cell is an input, else each row a dict.
        """
        name = deployment_name or endpoint
        if not name:
            raise refusal("name the deployment to ask", "INVALID_PARAMETER_VALUE")
        with mlflow_errors():
            return PredictionsResponse({"predictions": self._server.predict(name, to_body(inputs))})

    def _model(self, name: str) -> Described | None:
        """The model's part of the server's state, None if the server does not know it."""
        return next((model for model in read_status(self._server)["models"] if model["name"] == name), None)

    def _check_followed(self, reference: Reference) -> None:
        """Refuse at once a deployment that this server can never serve."""
        status = read_status(self._server)
        if not status["deployments"] and str(reference) not in status["named"]:
            raise refusal(
                f"the server at {self._server.url} does not follow deployments: start it with "
                "`headwaiter serve --deployments`",
                "INVALID_STATE",
            )

    def _wait_until_served(self, versions: Versions, name: str, alias: str, options: Options) -> dict[str, object]:
        wanted = versions.resolve(Reference(name, alias=alias)).version

        def look() -> Described | None:
            found = self._model(name)
            if found is None:
                return None
            version = found["versions"].get(wanted, {})
            if version.get("state") == "failed":
                raise refusal(f"{name}/{wanted} cannot be served: {version.get('error')}", "INVALID_STATE")
            return found if found["aliases"].get(alias) == wanted else None

        found = self._wait(look, options, f"{self._server.url} does not serve {name}/{wanted} at {alias!r}")
        return {**_summary(found), "version": wanted}

    def _wait(self, look: Callable[[], Found | None], options: Options, failure: str) -> Found:
        """The first thing that `look` finds. A server that does not answer for a while may come back."""
        seconds = options.get("wait_seconds", WAIT_SECONDS)
        deadline, cause = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            try:
                if (found := look()) is not None:
                    return found
                cause = ""
            except RemoteError as error:
                cause = f": {error}"
            time.sleep(POLL_SECONDS)
        raise refusal(
            f"{failure} after {seconds:g} s{cause}: see `headwaiter status {self._server.url}`",
            "TEMPORARILY_UNAVAILABLE",
        )


def _choose_alias(reference: Reference, options: Options, default: str) -> str:
    """The alias to follow: the URI's, the config's, or the default."""
    named = options.get("alias", reference.alias or default)
    if reference.alias not in (None, named):
        raise refusal(
            f"the model URI follows {reference.alias!r}, the config {named!r}: name one of them",
            "INVALID_PARAMETER_VALUE",
        )
    return str(named)


def _point(versions: Versions, reference: Reference, alias: str, options: Options) -> None:
    """Move the alias to the version that the reference names; one that names an alias must name a version by it."""
    if reference.version is None:
        versions.resolve(reference)
    elif versions.current(reference.name, alias) != reference.version:
        why, allowed = str(options.get("why") or "mlflow deployments"), options.get("allow_breaking")
        allow_breaking = None if allowed is None else str(allowed)
        versions.promote(reference.name, reference.version, why=why, alias=alias, allow_breaking=allow_breaking)


def _summary(model: Described) -> dict[str, object]:
    states = {version: entry["state"] for version, entry in model["versions"].items()}
    kept = {key: model[key] for key in ("name", "live", "aliases", "error")}
    return {**kept, "flavor": FLAVOR, "versions": states}


def _not_deployed(name: str) -> MlflowException:
    return refusal(f"there is no deployment {name!r}: create it", "RESOURCE_DOES_NOT_EXIST")


def _run(command: list[str], environ: Mapping[str, str]) -> int:
    """The exit status of the command; it ends when this process is asked to end."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if is_main else None
    process = subprocess.Popen(command, env={**os.environ, **environ})
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if is_main:
            signal.signal(signal.SIGTERM, before)
