"""Benchmarks run where not every extra is installed: what one of them needs is imported where it is used."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


OPTIONAL = ("grpc", "google.protobuf", "hpack", "tritonclient")


def test_the_command_line_imports_no_client_of_grpc() -> None:
    program = f"import bench.__main__, sys; print(*(set({OPTIONAL!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
