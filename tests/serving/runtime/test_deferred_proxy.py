"""BentoML's workers import no reverse proxy, and a service that is a command gets it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
import bentoml
import serving.service
from _bentoml_impl.server import app, proxy
print("aiohttp" in sys.modules, "pyparsing" in sys.modules)
command = bentoml.service(cmd=["true"])(type("Command", (), {}))
print(type(app.create_proxy_app(command)).__name__, proxy._check_health.__name__)
print("aiohttp" in sys.modules)
"""


@pytest.mark.server
def test_the_proxy_is_imported_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == ["False False", "FastAPI _check_health", "True"]
