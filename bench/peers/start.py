"""Starts the peers; each runs while its block does."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.peers.catalog import PLAIN_BENTOML, Peer
from bench.peers.environments import cache_folder, install
from bench.processes import Server, free_port, run_module, serving


@contextlib.contextmanager
def plain_bentoml(folder: Path, dtype: str, device: str) -> Iterator[Server]:
    """The plain BentoML service with the checkpoint in `folder`; raises BenchError where it does not start."""
    with start(PLAIN_BENTOML, folder, dtype, device) as server:
        yield server


@contextlib.contextmanager
def start(peer: Peer, folder: Path, dtype: str, device: str = "cpu") -> Iterator[Server]:
    """The peer with the checkpoint in `folder`, installed before where it needs to be; entered once it answers a text.

    Raises BenchError where a step fails.
    """
    python = sys.executable
    if peer.requirements:
        pins = peer.uses_project_pins
        python = install(peer.folder, peer.requirements, uses_project_pins=pins, folder=cache_folder())
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-", ignore_cleanup_errors=True) as home:
        port = free_port()
        export = str(Path(home) / "export")
        places = {"port": str(port), "model": str(folder), "export": export, "home": home, "dtype": dtype}
        environment = os.environ | {
            # MLflow calls uvicorn by its name
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would take the cores from the event loop
            "BENCH_MODEL": str(folder),
            "BENCH_EXPORT": export,
            "BENCH_DTYPE": dtype,
            "BENCH_DEVICE": device,
            **{key: value.format_map(places) for key, value in peer.environment.items()},
        }
        if peer.export:
            run_module([peer.export, str(folder), export], environment, python)
        command = [part.format_map(places) for part in peer.command]
        url = f"http://127.0.0.1:{port}{peer.path}"
        server = Server(peer.name, url, peer.field, peer.in_list)
        text = json.dumps(server.request("a text")).encode()
        log = Path(home) / "serve.log"
        with serving(command, environment, url, log, python=python, ready_body=text) as pid:
            yield Server(peer.name, url, peer.field, peer.in_list, pid)


@contextlib.contextmanager
def echo() -> Iterator[Server]:
    """The echo app under uvicorn with uvloop and httptools; raises BenchError where it does not start."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as home:
        port = free_port()
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        command = ["uvicorn", "bench.peers.echo:app", "--port", str(port), *options]
        root = f"http://127.0.0.1:{port}"
        with serving(command, os.environ, f"{root}/", Path(home) / "serve.log"):
            yield Server("ASGI echo (no model)", f"{root}/")
