"""Real registries that tests can break: MLflow servers, on sqlite or on a PostgreSQL of the test's own."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

import httpx

from tests.e2e.server import free_port, is_free, wait_until
from tests.forks import FORKS
from tests.waiting import WAIT_SECONDS

PROXIED = "mlflow-artifacts:/"
"""The root of artifacts that go through the server."""


def serve_mlflow(port: int, database: str, artifacts: str, log: Path, environ: dict[str, str]) -> None:
    """What `mlflow server --workers 1` does with these options; its output goes to `log`. Does not return."""
    import uvicorn
    from mlflow import server
    from mlflow.server.handlers import initialize_backend_stores

    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ |= {
        server.BACKEND_STORE_URI_ENV_VAR: database,
        server.REGISTRY_STORE_URI_ENV_VAR: database,
        server.ARTIFACT_ROOT_ENV_VAR: PROXIED,
        server.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        server.SERVE_ARTIFACTS_ENV_VAR: "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **environ,
    }
    initialize_backend_stores(database, database, PROXIED)
    uvicorn.run("mlflow.server.fastapi_app:app", port=port)


class MlflowServer:
    """An MLflow server on a database, always at the same address. Use it as a context manager.

    environ: variables of its process that MLflow does not read on import.
    """

    def __init__(
        self, folder: Path, database: str, environ: dict[str, str] | None = None, artifacts: str | None = None
    ) -> None:
        """artifacts: the store's address, a folder in `folder` by default."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "mlflow.log"
        self._arguments = (self.port, database, artifacts or str(folder / "artifacts"), self._log, environ or {})
        self._process: ForkServerProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        self._process = FORKS.Process(target=serve_mlflow, args=self._arguments)
        self._process.start()
        try:
            wait_until(self._answers, "MLflow answers")
        except BaseException:
            self.kill()
            raise

    def answered(self, *words: str) -> int:
        """How many requests it has answered in whose address all of these words stand."""
        lines = self._log.read_text(errors="replace").splitlines()
        return sum("HTTP/1.1" in line and all(word in line for word in words) for line in lines)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.is_alive(), f"MLflow ended: {self._log.read_text()[-2000:]}"
        return httpx.get(f"{self.url}/health").status_code == 200

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.join(WAIT_SECONDS)
            self._process = None
            wait_until(lambda: is_free(self.port), "it has left the port")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


@contextmanager
def nonsense(port: int, status: int, body: bytes) -> Iterator[list[str]]:
    """A server at this port that answers everything alike; gives the paths that it has been asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            asked.append(self.path)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, None where it is not installed."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve())
    return next((path.parent for path in sorted(found, reverse=True) if (path.parent / "initdb").is_file()), None)


class Postgres:
    """A PostgreSQL of the test's own, by a user without privileges, as it demands. Use it as a context manager.

    url: of its database.
    """

    def __init__(self, programs: Path) -> None:
        self._port = free_port()
        self._programs = programs
        self._user: list[str] = []
        self.url = f"postgresql+psycopg2://postgres@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="headwaiter-postgres-"))
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
            self._user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        initdb = [*self._user, self._programs / "initdb", "--no-sync", "--auth=trust", "--username=postgres"]
        subprocess.run([*initdb, "--pgdata", self._folder / "data"], check=True, capture_output=True, cwd=self._folder)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        server = [*self._user, self._programs / "postgres", "-D", self._folder / "data", "-p", str(self._port)]
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen([*server, *options], stdout=log, stderr=log, cwd=self._folder)
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL answers")

    def stop(self) -> None:
        """Its fast shutdown, which breaks all connections."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(WAIT_SECONDS)

    def restart(self) -> None:
        """End it and start it again."""
        self.stop()
        self.start()
