"""The way to MLflow: clients of the settings' stores, and `Model.log`, which takes no client, pointed at them."""

import fcntl
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from registry.errors import NotFound, RegistryError, RegistryUnavailable, RequestRefused
from registry.imports import NOT_OF_A_STORE, hiding, importing_mlflow, without_collector
from registry.own_folder import MODE, make_file, make_home
from registry.settings import RegistrySettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "headwaiter"
"""Of an embedded registry, where the environment names none."""
NEW_DATABASE_BYTES = 2 << 20
"""Room for MLflow's empty tables (3.17: 1.4 MB) and a little more."""
_ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_NOT_OF_THE_REQUEST = (401, 408, 429)
"""HTTP statuses below 500 with which a registry would answer any other request, too."""
_process_state = threading.RLock()
"""Held while MLflow's process-wide addresses are the settings'."""


def connect(settings: RegistrySettings) -> "MlflowClient":
    """A client of the registry; the first call on a fresh sqlite file creates its tables. Blocks."""
    with ExitStack() as stack:
        if settings.is_embedded:
            _open_database(settings)
            stack.enter_context(_one_at_a_time(settings))
        with importing_mlflow():
            from mlflow import MlflowClient

        stack.enter_context(without_collector())  # it imports the stores
        stack.enter_context(hiding(NOT_OF_A_STORE))
        return MlflowClient(tracking_uri=settings.tracking_uri, registry_uri=settings.registry_address)


def _open_database(settings: RegistrySettings) -> None:
    """Make home, and try its database out: MLflow (3.17) would try one that cannot be opened for a minute.

    Raises InvalidSetting where home cannot be written, or has no room for a database that is still to be made.
    """
    path = settings.home / "mlflow.db"
    with settings.home_errors():
        make_home(settings.home)
        if not path.exists():
            with tempfile.TemporaryFile(dir=settings.home) as file:
                file.write(bytes(NEW_DATABASE_BYTES))
            make_file(path)  # sqlite's journals get the rights of the database
        try:
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise OSError(None, str(error), str(path)) from error


@contextmanager
def _one_at_a_time(settings: RegistrySettings) -> Iterator[None]:
    """Let one process of this home make the tables. MLflow's own lock is in a folder that each container has."""
    with ExitStack() as stack:
        with suppress(OSError):  # a home that can only be read, or without locks
            make_file(lock := settings.home / "mlflow.lock")
            file = stack.enter_context(lock.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def connect_mlflow(settings: RegistrySettings | None = None) -> None:
    """Point MLflow's own functions at this registry: addresses, and the experiment of new runs. Blocks.

    settings: those of the environment by default. `log_model` then logs into the run that `mlflow.start_run` began, so
    the run's metrics stand beside the model. Changes MLflow's process-wide state.
    """
    import mlflow

    settings = settings or RegistrySettings.from_environment()
    experiment = choose_experiment(settings)
    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_registry_uri(settings.registry_address)
    mlflow.set_experiment(experiment_id=experiment)


@contextmanager
def mlflow_pointed_at(settings: RegistrySettings) -> Iterator[bool]:
    """Point MLflow's process-wide addresses at the settings meanwhile, for its functions that take no client.

    Gives whether they were there before: then a run or an experiment that the caller has opened is of these stores.
    """
    import mlflow

    with _process_state:
        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        if before == (settings.tracking_uri, settings.registry_address):
            yield True
            return
        variables = {name: os.environ.get(name) for name in _ADDRESSES}
        try:
            mlflow.set_tracking_uri(settings.tracking_uri)
            mlflow.set_registry_uri(settings.registry_address)
            yield before[0] == settings.tracking_uri
        finally:
            _restore(before, variables)


def choose_experiment(settings: RegistrySettings) -> str:
    """Id of the experiment to log to, by the variables that MLflow itself reads; an embedded registry has its own.

    `mlflow.set_experiment` sets MLFLOW_EXPERIMENT_ID, so an id that these stores lack is taken for another store's.
    The artifacts of an experiment that is made in an embedded registry lie under home, not in the working directory.
    Blocks.
    """
    from mlflow.exceptions import MlflowException

    client = connect(settings)
    name, given = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given and not name:
        with suppress(MlflowException):
            return str(client.get_experiment(given).experiment_id)
    name = name or (EXPERIMENT if settings.is_embedded else "Default")
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    if not settings.is_embedded:
        return str(client.create_experiment(name))
    with settings.home_errors():
        settings.artifacts.mkdir(mode=MODE, exist_ok=True)  # MLflow would make it by the umask
    return str(client.create_experiment(name, settings.artifacts.as_uri()))


def _restore(addresses: tuple[str, str | None], variables: dict[str, str | None]) -> None:
    """Give MLflow its addresses back: from its variables, which its setters set, else by the setters."""
    import mlflow

    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if mlflow.get_tracking_uri() != addresses[0]:
        mlflow.set_tracking_uri(addresses[0])
    if mlflow.get_registry_uri() != addresses[1]:
        mlflow.set_registry_uri(addresses[1])


@contextmanager
def registry_errors(what: str) -> Iterator[None]:
    """Turn MLflow's errors into the registry's: NotFound, RequestRefused or RegistryUnavailable."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except RegistryError:
        raise
    except MlflowException as error:
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or (
            "alias" in str(error) and ("not found" in str(error))
        )
        if missing:
            raise NotFound(f"the registry has no {what}: {error.message}") from error
        if (silence := _describe_silence(error)) is not None:
            raise RegistryUnavailable(silence) from error
        status = error.get_http_status_code()
        is_own = 400 <= status < 500 and status not in _NOT_OF_THE_REQUEST
        kind = RequestRefused if is_own else RegistryUnavailable
        raise kind(f"MLflow refused {what}: {error.message}") from error
    except Exception as error:
        raise RegistryUnavailable(f"MLflow did not answer for {what}: {error}") from error


def _describe_silence(error: BaseException) -> str | None:
    """Which address did not answer, why, and what to do; None where it answered, or it is not HTTP.

    error: MLflow's (3.17), raised over what its HTTP client raised.
    """
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import Timeout

    cause = error.__context__
    if not isinstance(cause, NoConnection | Timeout) or cause.request is None:
        return None
    url = urlsplit(str(cause.request.url))
    inner = cause.args[0] if cause.args else cause
    reason = str(getattr(inner, "reason", inner)).rpartition("): ")[2]  # behind the name of the pool
    return (
        f"the registry at {url.scheme}://{url.netloc} does not answer ({reason}): see that it runs, or that "
        "MLFLOW_TRACKING_URI is its address"
    )
