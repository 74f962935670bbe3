"""A virtual environment for each peer, below a cache folder: pinned requirements come in, its Python's path leaves.

An environment is made once and used again for as long as its requirements and the project's pins stay the same.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import ROOT, BenchError

CONSTRAINTS = ROOT / "constraints.txt"
MARK = "installed.sha256"


def cache_folder() -> Path:
    """Where the environments are: `headwaiter-bench/peers` below `XDG_CACHE_HOME` or else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwaiter-bench" / "peers"


def project_pin(name: str) -> str:
    """The requirement that `constraints.txt` has for a distribution."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def install(name: str, requirements: Sequence[str], *, uses_project_pins: bool = True, folder: Path) -> str:
    """The Python of the environment `folder/name`, made where it is missing or has other requirements. Blocks.

    uses_project_pins: `constraints.txt` holds for whatever else is installed. Raises BenchError where a step fails, and
    leaves nothing then.
    """
    target = folder / name
    python = str(target / "bin" / "python")
    pins = CONSTRAINTS.read_text(encoding="utf-8") if uses_project_pins else ""
    wanted = hashlib.sha256("\n".join([sys.version, *requirements, pins]).encode()).hexdigest()
    mark = target / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {name} in {target}", file=sys.stderr)
    shutil.rmtree(target, ignore_errors=True)
    constraints = ["-c", str(CONSTRAINTS)] if uses_project_pins else []
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, *requirements]
    try:
        for command in ([sys.executable, "-m", "venv", str(target)], pip):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchError(f"it does not install:\n{(done.stdout + done.stderr)[-3000:]}")
        mark.write_text(wanted, encoding="utf-8")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return python
