"""A real server, started from the real command line, in a home of its own; and what tests do with one."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Self

import httpx
import psutil
from click.testing import CliRunner, Result

from registry.settings import RETRIES, TIMEOUT
from serving.commands.main import main
from serving.runtime.run_folder import LOCK_VARIABLE, claim
from tests.e2e.shared_template import forked_for, lend_template
from tests.waiting import WAIT_SECONDS

DEFAULTS = {
    "HEADWAITER_POLL_SECONDS": "0.5",
    "HEADWAITER_HANG_SECONDS": "86400",
    "HEADWAITER_TIMEOUT_SECONDS": f"{WAIT_SECONDS:g}",
}
"""Settings of every server: tests let engines stand still for as long as they look, and requests wait as long as their
clients, also for an engine that is started again, which takes a busy machine longer than the default deadline.
"""
LEFT_BEHIND = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", TIMEOUT, RETRIES)
"""Variables that MLflow, or a command, leaves in the environment of a process once it was used there."""


_claims: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections.

    No other call gives it, here or in other tests on this machine, as long as this process runs: the UDP port of the
    same number is taken, which servers don't use.
    """
    while True:
        port = random.randint(10_000, 32_000)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with suppress(OSError):
            claim.bind(("127.0.0.1", port))
            if is_free(port):
                _claims.append(claim)
                return port
        claim.close()


def is_free(port: int) -> bool:
    """Whether nobody listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS, log: Path | None = None) -> Any:
    """The first true value of `condition`; asks it again and again until then, ever less often.

    log: what to show of a process that did not become what was waited for.
    """
    deadline, pause = time.monotonic() + seconds, 0.02
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except httpx.TransportError:
            pass
        time.sleep(pause)
        pause = min(1.2 * pause, 0.1)  # a look at metrics or processes takes 10 ms, which what is waited for may need
    raise AssertionError(f"not within {seconds:g} s: {what}{log.read_text()[-4000:] if log else ''}")


def inherited() -> dict[str, str]:
    """This process' variables, but for LEFT_BEHIND."""
    return {name: value for name, value in os.environ.items() if name not in LEFT_BEHIND}


def invoke(home: Path, *arguments: str, check: bool = True) -> Result:
    """Run the `headwaiter` command in `home`, in this process, which has imported what takes a new one seconds."""
    environ = {"HEADWAITER_HOME": str(home), **dict.fromkeys(LEFT_BEHIND)}
    done = CliRunner().invoke(main, arguments, env=environ)
    if check:
        assert done.exit_code == 0, done.output
    return done


def run_cli(home: Path, *arguments: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the `headwaiter` command in `home`, as a process of its own; `invoke` costs less."""
    return subprocess.run(
        [sys.executable, "-m", "serving.commands.main", *arguments],
        env={**inherited(), "HEADWAITER_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=check,
    )


@dataclass
class Server:
    """`headwaiter serve` (or `command`) as a process. Use it as a context manager.

    port: a free one by default.
    own_template: whether its engines are forked from a template of its own; one with a `command` always has its own.
    """

    home: Path
    models: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    cwd: Path | None = None
    wait: bool = True
    own_template: bool = False
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        self.grpc_address = f"127.0.0.1:{self.environ.get('HEADWAITER_GRPC_PORT')}"
        self.log = self.home / f"server-{self.port}.log"
        self.http = httpx.Client(base_url=self.url, timeout=WAIT_SECONDS)
        self._run: Path | None = None

    def __enter__(self) -> Self:
        command = self.command or (sys.executable, "-m", "serving.commands.main", "serve", *self.models, *self.options)
        environ = {**DEFAULTS, **self.environ, "HEADWAITER_HOME": str(self.home)}
        with self.log.open("w") as log, ExitStack() as lent:
            if not self.command and not self.own_template:
                environ |= self._lend_template(lent)
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env={**inherited(), **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.cwd,
                pass_fds=[int(environ[name]) for name in (LOCK_VARIABLE,) if name in environ],
            )
        try:
            if self.wait:
                wait_until(self.is_ready, "ready: ", log=self.log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.stop()

    def stop(self, seconds: float = WAIT_SECONDS) -> int:
        """SIGTERM, then the exit status; kills what is left after `seconds` and says so."""
        children = self.everyone()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired as late:
            kill_all((*children, psutil.Process(self.process.pid)))
            self.process.wait()
            raise AssertionError(f"the server did not end within {seconds:g} s: {self.text()}") from late
        _, alive = psutil.wait_procs(children, timeout=WAIT_SECONDS)
        assert not alive, f"left running: {alive}"
        return status

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.text()}")
        return self.http.get("/readyz").status_code == 200

    def text(self) -> str:
        """What it wrote, the end of it."""
        return self.log.read_text()[-4000:]

    def ask(self, model: str, inputs: Any, version: str | None = None, **parameters: Any) -> Any:
        """The answer to a request that must succeed."""
        answer = self.post(model, {"inputs": inputs, "parameters": parameters}, version)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, model: str, body: Any, version: str | None = None) -> httpx.Response:
        """The response to any body, bytes as they are or data as JSON."""
        path = f"/models/{model}" + (f"/versions/{version}" if version else "")
        return self.http.post(path, content=body) if isinstance(body, bytes) else self.http.post(path, json=body)

    def ask_aside(self, model: str) -> "Future[httpx.Response]":
        """The response to a request that another thread waits for, once it is on its way."""
        asking: Future[httpx.Response] = Future()
        Thread(target=lambda: asking.set_result(self.post(model, {"inputs": "x"})), daemon=True).start()
        wait_until(lambda: self.sample("requests_in_progress", model=model) == 1, "the request is on its way")
        return asking

    def live(self, model: str) -> str | None:
        """The version that answers, by `GET /models/{name}`."""
        found: str | None = self.describe(model).get("live")
        return found

    def dtype(self, model: str, version: str) -> str:
        """That a version answers in."""
        return str(self.describe(model)["versions"][version]["engines"][0]["dtype"])

    def describe(self, model: str) -> dict[str, Any]:
        """`GET /models/{name}`."""
        described: dict[str, Any] = self.http.get(f"/models/{model}").json()
        return described

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            found = re.fullmatch(r"headwaiter_(\w+?)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                own = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
                if labels.items() <= own.items():
                    total += float(found[3])
        return total

    def everyone(self) -> list[psutil.Process]:
        """All of its processes but the first one."""
        forked = forked_for(self._run) if self._run is not None else []
        return psutil.Process(self.process.pid).children(recursive=True) + forked

    def fronts(self) -> list[psutil.Process]:
        """Its front workers."""
        managers = self.processes("headwaiter_manager")
        return [found for found in self.processes("worker.service") if found not in managers]

    @contextmanager
    def front_clients(self) -> Iterator[list[httpx.Client]]:
        """A client of each front worker, by a connection that is kept open, with the headers of `http`."""
        with ExitStack() as stack:
            found: dict[int, httpx.Client] = {}

            def connect() -> bool:
                made = httpx.Client(base_url=self.url, timeout=WAIT_SECONDS, headers=self.http.headers)
                client = stack.enter_context(made)
                with client.stream("GET", "/models") as answer:
                    port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
                    answer.read()
                fronts = self.fronts()
                for front in fronts:
                    if port in ports_of(front, self.port):
                        found.setdefault(front.pid, client)
                return found.keys() == {front.pid for front in fronts}

            wait_until(connect, "a connection to each front")
            yield list(found.values())

    def _lend_template(self, lent: ExitStack) -> dict[str, str]:
        """The variables of a server that finds the shared template in its run folder, which is made here."""
        run = claim(self.home)
        lent.callback(run.close)
        self._run = run.path
        lend_template(run.path)
        return run.hand_over()

    def processes(self, word: str) -> list[psutil.Process]:
        """The server's processes whose command line has `word`, as a part of no longer module's name."""
        pattern = re.compile(rf"{re.escape(word)}(?!\.\w)")
        return [process for process in self.everyone() if any(map(pattern.search, _command_of(process)))]


def ports_of(front: psutil.Process, port: int) -> set[int]:
    """The clients' ports of a front's connections. port: the server's."""
    found = front.net_connections("tcp4")
    return {each.raddr.port for each in found if each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED}


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """kill -9 of each that has not ended; one may end with another, or by itself, meanwhile."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; it may end between two looks, and a zombie has ended."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty for one that has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
