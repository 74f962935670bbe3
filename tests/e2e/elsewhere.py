"""Clients whose packages cannot be installed beside the server, run by the Python of an environment of their own."""

import json
import os
import subprocess
from typing import Any

import pytest

from tests.waiting import WAIT_SECONDS


def needs_environment(variable: str, *packages: str) -> list[pytest.MarkDecorator]:
    """The marks of tests that run a program there. variable: names the environment's Python. packages: to install."""
    how = f"python3 -m venv other; other/bin/pip install {' '.join(packages)}; {variable}=other/bin/python"
    return [
        pytest.mark.integration,
        pytest.mark.processor,
        pytest.mark.skipif(not os.environ.get(variable), reason=f"{variable} is not set: {how}"),
    ]


def run_elsewhere(variable: str, program: str, *arguments: str) -> Any:
    """The JSON that a program prints there."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    command = [os.environ[variable], "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS, env=environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
