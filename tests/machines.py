"""The suite's parts that depend on processor or surroundings, under those that this machine can be made to have.

    python -m tests.machines [VARIATION…] [-- PYTEST'S ARGUMENTS]

Each variation is one run of pytest, and one line: its name and pytest's last line, or why this machine cannot be so.
The status is 1 if a run failed. The whole output of a run is in `build/machines/`.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from serving.runtime.limits import allowed_cores
from serving.runtime.machine import CPUINFO, read_processor

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "build" / "machines"
PROCESSOR, SURROUNDINGS = "processor", "surroundings"
NOBODY = "nobody"


class Missing(Exception):
    """This machine cannot be so; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where and how pytest runs. options: of `subprocess.run`."""

    environ: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable
    folder: Path = ROOT
    options: dict[str, Any] = field(default_factory=dict)


@contextmanager
def held_to(flag: str, capability: str, onednn: str, mkl: str) -> Iterator[Place]:
    """torch, oneDNN and MKL use no more of the processor than one with `flag` at most has."""
    if flag not in read_processor(CPUINFO.read_text() if CPUINFO.exists() else "")[1]:
        raise Missing(f"the processor has no {flag}")
    held = {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}
    yield Place({name: value for name, value in held.items() if value})


@contextmanager
def one_core() -> Iterator[Place]:
    """Every process is pinned to the same core."""
    if not hasattr(os, "sched_setaffinity"):
        raise Missing("this system pins no process to a core")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield Place()
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def busy() -> Iterator[Place]:
    """Every core has another process to run all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(allowed_cores())]
    try:
        yield Place()
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextmanager
def unprivileged() -> Iterator[Place]:
    """A user without rights, in a folder whose name has a space, whose files nobody else may read, with plain ASCII."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-") as made:
        folder = Path(made) / "a head waiter"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(f"git lists no files of {ROOT}, so they cannot be copied: use a clone") from error
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        options: dict[str, Any] = {"umask": 0o077}
        environ = {"LC_ALL": "C", "HOME": made, "PYTHONPATH": str(folder)}
        if os.getuid() == 0:
            try:
                user = pwd.getpwnam(NOBODY)
            except KeyError as error:
                raise Missing(f"there is no user {NOBODY}") from error
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            environ |= {"USER": NOBODY, "LOGNAME": NOBODY}
            for path in (Path(made), *Path(made).rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
            use = [sys.executable, "-c", "import torch"]
            try:
                subprocess.run(use, cwd="/", capture_output=True, check=True, **options)
            except (OSError, subprocess.CalledProcessError) as error:
                raise Missing(
                    f"{NOBODY} may not run {sys.executable}: use the system's Python, outside of a home"
                ) from error
        yield Place(environ, folder=folder, options=options)


@contextmanager
def python(version: str) -> Iterator[Place]:
    """Another Python, with what the constraints name in an environment of its own, which is kept."""
    variable = f"PYTHON{version.replace('.', '')}"
    program = os.environ.get(variable) or shutil.which(f"python{version}") or ""
    code = f"import sys, venv; sys.exit(sys.version_info[:2] != {tuple(map(int, version.split('.')))})"
    if not program or subprocess.run([program, "-c", code], capture_output=True, check=False).returncode:
        raise Missing(f"no python{version} here: set {variable} to its path")
    venv = ROOT / f".venv-{version}"
    make = ["make", f"VENV={venv.name}", f"PYTHON={program}", f"{venv.name}/.installed"]
    if subprocess.run(make, cwd=ROOT, check=False).returncode:
        raise Missing(f"{venv} could not be made")
    yield Place(python=str(venv / "bin" / "python"))


VARIATIONS: dict[str, tuple[str, Callable[[], AbstractContextManager[Place]]]] = {
    "avx2": (PROCESSOR, partial(held_to, "avx2", "avx2", "AVX2", "AVX2")),
    "avx512": (PROCESSOR, partial(held_to, "avx512bw", "avx512", "AVX512_CORE", "AVX512")),
    "amx": (PROCESSOR, partial(held_to, "amx_bf16", "", "", "")),
    "one-core": (SURROUNDINGS, one_core),
    "busy": (SURROUNDINGS, busy),
    "user": (SURROUNDINGS, unprivileged),
    "3.12": (f"{PROCESSOR} or {SURROUNDINGS}", partial(python, "3.12")),
    "3.13": (f"{PROCESSOR} or {SURROUNDINGS}", partial(python, "3.13")),
}
"""By name: the marks of the tests that run, and the place that they run in."""


def run(name: str, arguments: Sequence[str]) -> bool:
    """Run a variation and print its line; whether it did not fail."""
    marks, make = VARIATIONS[name]
    log = OUTPUT / f"{name}.log"
    try:
        with make() as place, log.open("w") as output:
            done = subprocess.run(
                [place.python, "-m", "pytest", "-m", marks, *arguments],
                env=os.environ | place.environ,
                cwd=place.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                **place.options,
            )
    except Missing as reason:
        print(f"{name}: left out: {reason}", flush=True)
        return True
    lines = log.read_text(errors="replace").splitlines() or ["no output"]
    if done.returncode:
        print("\n".join(lines[-200:]), flush=True)
    print(f"{name}: {lines[-1].strip('= ')}", flush=True)
    return done.returncode == 0


def main(given: Sequence[str]) -> int:
    """The process' exit status."""
    end = list(given).index("--") if "--" in given else len(given)
    names, arguments = given[:end] or list(VARIATIONS), given[end + 1 :]
    if unknown := set(names) - set(VARIATIONS):
        print(f"no variation {', '.join(sorted(unknown))}: choose among {', '.join(VARIATIONS)}")
        return 2
    OUTPUT.mkdir(parents=True, exist_ok=True)
    failed = [name for name in names if not run(name, arguments)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
