"""The demonstrations' server: a process of its own, in one folder, started by the command that a user would type."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from registry.child_process import module_command, python_path
from registry.settings import RegistrySettings
from serving.errors import EngineError

_OF_OTHER_SERVERS = ("HEADWAITER_KEYS_FILE", "HEADWAITER_TLS_CERT", "HEADWAITER_TLS_KEY", "HEADWAITER_ADMIN_PORT")
"""Variables that are meant for a server of the user's own."""
START_SECONDS = 120.0

Say = Callable[[str], None]


@contextmanager
def demo_folder(home: Path | None) -> Iterator[Path]:
    """The demonstration's folder: `home`, which is kept, or one that is removed in the end."""
    if home is not None:
        home.mkdir(parents=True, exist_ok=True)
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
def run_server(home: Path, name: str, port: int, say: Say) -> Iterator[httpx.Client]:
    """A server of the model while the context lasts, and a client of it. Raises EngineError if it does not come up."""
    say(f"\n3. headwaiter serve {name} --port {port} …")
    command = module_command("serving.commands.main", "serve", name, "--port", str(port))
    environ = {name: value for name, value in os.environ.items() if name not in _OF_OTHER_SERVERS}
    environ["PYTHONPATH"] = python_path()
    began = time.perf_counter()
    log = home / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environ
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait(lambda: _is_ready(client, process, log), "the server to be ready", START_SECONDS)
            say(f"   ready after {time.perf_counter() - began:.1f} s")
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait(condition: Callable[[], bool], what: str, seconds: float, look_seconds: float = 0.02) -> None:
    """Block until the condition holds, which is looked at again and again. Raises EngineError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise EngineError(f"waited {seconds:.0f} s for {what}")
        time.sleep(look_seconds)


def _is_ready(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise EngineError(f"the server ended with status {process.returncode}:\n{log.read_text()[-2000:]}")
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
