"""Installs the project with its `demo` and `dev` extras into a virtual environment; `make` calls it.

    python3 scripts/install.py .venv

torch comes first. On Linux without an NVIDIA GPU it is PyTorch's CPU build, because the default index has the CUDA
build alone, with 3 GB of libraries. Then uv, which pip installs, installs everything else. Where PyTorch's index or uv
cannot be had, pip and its configured sources do the same work. `TORCH_INDEX=URL` names another index for torch;
`TORCH_INDEX=` (empty) takes torch from pip's sources.

uv leaves bytecode to the first import of each module, where pip compiles everything.

Only the standard library is used: this runs before anything is installed.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of builds without CUDA: https://pytorch.org/get-started/locally/."""

PROBE_SECONDS = 5
PROBE = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])"

UV_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraints",
    "trusted-host": "--allow-insecure-host",
}
"""An option of pip's configuration, of one value or several, → uv's name. uv does not read pip's configuration."""


@dataclass(frozen=True)
class TorchSource:
    """Where torch comes from. index: its only index, "" for pip's sources. is_required: no other source will do."""

    index: str
    why: str
    is_required: bool = False


def choose_torch_source(environ: Mapping[str, str], platform: str, has_gpu: bool) -> TorchSource:
    """The source of torch for this machine; platform is `sys.platform`."""
    named = environ.get("TORCH_INDEX")
    if named is not None:
        return TorchSource(named.strip(), "TORCH_INDEX says so", is_required=bool(named.strip()))
    if platform != "linux":
        return TorchSource("", "the default build for this platform needs no CUDA")
    if has_gpu:
        return TorchSource("", "there is an NVIDIA GPU")
    return TorchSource(CPU_INDEX, "there is no NVIDIA GPU")


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver answers or its first device is there."""
    if Path("/dev/nvidia0").exists():
        return True
    command = shutil.which("nvidia-smi")
    return command is not None and subprocess.run([command, "-L"], capture_output=True, check=False).returncode == 0


def answers(index: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether an index answers one request in time.

    The request is a process of its own, because a time-out of a socket does not bound the resolution of a name, nor the
    sum over its addresses.
    """
    command = [sys.executable, "-c", PROBE, f"{index.rstrip('/')}/torch/"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def read_pip_config(listing: str) -> dict[str, str]:
    """What `pip config list` says of `pip install`: option → value.

    pip prints `section.option='value'`. The section `install` wins over `global`, and the environment over both.
    """
    found: dict[str, tuple[int, str]] = {}
    rank = {"global": 0, "install": 1, ":env:": 2}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if equals and section in rank and rank[section] >= found.get(option, (-1, ""))[0]:
            found[option] = (rank[section], str(ast.literal_eval(value)))
    return {option: value for option, (_, value) in found.items()}


def to_uv_options(config: Mapping[str, str]) -> list[str]:
    """Translate pip's configured sources into options of uv."""
    options = []
    for option, name in UV_OPTIONS.items():
        for value in config.get(option, "").split():
            options += [name, value]
    if config.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    if "--index" in options or "--find-links" in options:
        options += ["--index-strategy", "unsafe-best-match"]  # pip's rule: the best version of all sources
    return options


def to_environment(config: Mapping[str, str]) -> dict[str, str]:
    """The variables that give uv and the probe pip's certificates and proxy."""
    environ = {"UV_SYSTEM_CERTS": "1"}  # as pip from 24.2 on; else uv trusts its own list alone
    if config.get("cert"):
        environ["SSL_CERT_FILE"] = config["cert"]
    if config.get("proxy"):
        environ |= {"HTTP_PROXY": config["proxy"], "HTTPS_PROXY": config["proxy"]}
    return environ


class Installer:
    """Installs into one environment, by uv where it works and by pip where it does not."""

    def __init__(self, venv: Path) -> None:
        self.python = str(venv / "bin" / "python")
        command = [self.python, "-m", "pip", "config", "list"]
        config = read_pip_config(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        self.uv_options = to_uv_options(config)
        os.environ.update(to_environment(config))
        self.uv: str | None = None

    def get_uv(self) -> None:
        """Install uv by pip."""
        if self._pip("--only-binary", "uv", "uv"):
            self.uv = str(Path(self.python).with_name("uv"))
        else:
            say("uv cannot be installed: pip installs everything")

    def install_torch(self, source: TorchSource) -> None:
        """Install torch alone; what it depends on comes with everything else. Exits where a required index fails."""
        say(f"torch from {source.index or 'the configured sources'}: {source.why}")
        if not source.index:
            return  # with everything else
        if source.is_required or answers(source.index):
            if self._run("torch", "--no-deps", index=source.index):
                return
            if source.is_required:
                sys.exit(f"torch cannot be installed from TORCH_INDEX={source.index}")
        say(f"{source.index} does not serve it here: torch from pip's sources, which may bring 3 GB of CUDA")

    def install_project(self) -> None:
        """Install everything that is not there yet; exits where that fails."""
        if not self._run("-e", f"{ROOT}[demo,dev]"):
            sys.exit("the packages cannot be installed: the lines above say why")

    def _run(self, *arguments: str, index: str = "") -> bool:
        if self.uv is not None:
            sources = ["--default-index", index] if index else self.uv_options
            command = [self.uv, "pip", "install", "--quiet", "--python", self.python, "--constraints", str(CONSTRAINTS)]
            if sys.dont_write_bytecode:  # where imports may not write it, every process would compile what it imports
                command.append("--compile-bytecode")
            if subprocess.run([*command, *sources, *arguments], check=False).returncode == 0:
                return True
            say("uv failed: pip tries the same")
        return self._pip(*arguments, *(["--index-url", index] if index else []))

    def _pip(self, *arguments: str) -> bool:
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return subprocess.run([*command, "-c", str(CONSTRAINTS), *arguments], check=False).returncode == 0


def say(line: str) -> None:
    """Print one line at once."""
    print(line, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Make the environment and install into it."""
    start = time.monotonic()
    (folder,) = arguments
    venv = Path(folder).resolve()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    installer = Installer(venv)
    installer.get_uv()
    installer.install_torch(choose_torch_source(os.environ, sys.platform, has_nvidia_gpu()))
    installer.install_project()
    say(f"{venv}: ready after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
