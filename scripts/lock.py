"""Writes the lock files of the image, `deploy/requirements*.txt`: every package that it installs, pinned by hash.

`python -m scripts.lock` asks pip's sources by uv. The versions are those of `constraints.txt`. torch's build for CPUs
comes from PyTorch's own index, and stands without a hash in `deploy/requirements-cpu.txt`, by hand.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from scripts.install import CONSTRAINTS, ROOT, read_pip_config, to_environment, to_uv_options

PYTHON = "3.13"
PLATFORM = "x86_64-manylinux_2_28"
CUDA = re.compile(r"(torch|triton|cuda-.*|nvidia-(?!ml-py).*)==")
"""What only the CUDA variant takes from the lock. nvidia-ml-py reads a GPU's metrics where there is one."""
SBOM = "cyclonedx-bom==7.5.0"
HEADER = "# Made by `python -m scripts.lock`.\n"


def compile_lock(source: str, *options: str) -> list[str]:
    """Every package that `source` needs, one string each, with its hashes. source: a file, or "-" for `SBOM`."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    config = read_pip_config(subprocess.run(pip, capture_output=True, text=True, check=True).stdout)
    config.pop("find-links", None)  # local wheels are no source for others
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", source, "--quiet", "--generate-hashes"]
    command += ["--python-version", PYTHON, "--python-platform", PLATFORM, "--only-binary", ":all:", "--no-annotate"]
    command += ["--no-header", *to_uv_options(config), *options]
    environ = {**os.environ, **to_environment(config)}
    stdin = SBOM if source == "-" else None
    done = subprocess.run(command, capture_output=True, text=True, env=environ, input=stdin, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr)
    return re.split(r"\n(?=\S)", done.stdout.strip())


def main() -> None:
    """Write the three files."""
    argparse.ArgumentParser(prog="python -m scripts.lock", description=__doc__).parse_args()
    extras = [option for extra in ("tracing", "signing", "grpc") for option in ("--extra", extra)]
    found = compile_lock("pyproject.toml", *extras, "--constraints", str(CONSTRAINTS))
    locks = {
        "requirements.txt": [entry for entry in found if not CUDA.match(entry)],
        "requirements-cuda.txt": [entry for entry in found if CUDA.match(entry)],
        "requirements-sbom.txt": compile_lock("-"),
    }
    for name, entries in locks.items():
        (ROOT / "deploy" / name).write_text(HEADER + "\n".join(entries) + "\n", encoding="utf-8")
        print(f"deploy/{name}: {len(entries)} packages")


if __name__ == "__main__":
    main()
