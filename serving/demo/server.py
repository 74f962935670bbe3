"""The demonstrations' server: a process of its own, in one folder, started by the command that a user would type."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from registry.own_folder import make_home, own_files
from registry.settings import RegistrySettings
from serving.client.local_server import run_server
from serving.errors import EngineError

SWAP_SECONDS = 300.0
"""Until a version is loaded, or has left."""

Say = Callable[[str], None]


@contextmanager
def demo_folder(home: Path | None) -> Iterator[Path]:
    """The demonstration's folder: `home`, which is kept, or one that is removed in the end.

    What is made meanwhile is for this user alone. Raises InvalidSetting for a home of another user's.
    """
    if home is not None:
        make_home(home)
        with own_files():
            yield home
        return
    with tempfile.TemporaryDirectory(prefix="headwaiter-demo-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def use_home(home: Path) -> RegistrySettings:
    """Everything from here on, and every process started, uses this folder and its embedded MLflow."""
    os.environ["HEADWAITER_HOME"] = str(home.resolve())
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.pop("MLFLOW_REGISTRY_URI", None)
    os.environ.setdefault("HEADWAITER_POLL_SECONDS", "0.5")
    return RegistrySettings.from_environment()


@contextmanager
def serve_model(home: Path, name: str, port: int, say: Say) -> Iterator[httpx.Client]:
    """A server of the model while the context lasts, and a client of it. Raises EngineError if it does not come up."""
    say(f"\n3. headwaiter serve {name} --port {port} …")
    began = time.perf_counter()
    with run_server(name, port=port, log=home / "server.log") as url, httpx.Client(base_url=url, timeout=30) as client:
        say(f"   ready after {time.perf_counter() - began:.1f} s")
        yield client


def wait(condition: Callable[[], bool], what: str, seconds: float, look_seconds: float = 0.02) -> None:
    """Block until the condition holds, which is looked at again and again. Raises EngineError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise EngineError(
                f"waited {seconds:.0f} s for {what}: run the demo again with --home DIR, where server.log says why, or "
                "on a less busy machine"
            )
        time.sleep(look_seconds)
