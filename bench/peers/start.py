"""Starts the peers; each runs while its block does."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.processes import Server, free_port, serving


@contextlib.contextmanager
def plain_bentoml(folder: Path, dtype: str, device: str) -> Iterator[Server]:
    """The plain BentoML service with the checkpoint in `folder`; raises BenchError where it does not start."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as home:
        environment = os.environ | {
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "True",
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would take the cores from the event loop
            "BENCH_MODEL": str(folder),
            "BENCH_DTYPE": dtype,
            "BENCH_DEVICE": device,
        }
        port = free_port()
        command = ["bentoml", "serve", "bench.peers.plain_bentoml:Plain", "--port", str(port)]
        root = f"http://127.0.0.1:{port}"
        with serving(command, environment, f"{root}/readyz", Path(home) / "serve.log"):
            yield Server("plain BentoML", f"{root}/classify", field="texts", in_list=True)


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
