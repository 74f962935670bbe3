"""The image without a container engine: the installed package as an unprivileged user, on a root that cannot be written
to, with one writable folder, and with tini as process 1 of process ids of its own."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.kubernetes import pod
from tests.abilities import needs
from tests.deploy.dockerfile import ROOT, command, environment
from tests.e2e.server import Server, free_port, wait_until
from tests.quick import copy_home
from tests.small_models import build_model
from tests.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.server, needs("pid namespaces"), needs("mount"), needs("tini")]

CONTAINER = """
set -e
if [ "$CLOSED" ]; then
  mount --bind "$PYTHON" /mnt
  mount -t tmpfs -o mode=755 tmpfs "$CLOSED"
  mkdir -p "$PYTHON"
  mount --move /mnt "$PYTHON"
fi
mount --bind "$DATA" "$DATA"
mount -o remount,bind,ro /
if mountpoint --quiet /tmp; then mount -o remount,bind,ro /tmp; fi
exec setpriv --reuid {user} --regid {user} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
"""
"""Run by root in mounts and process ids of its own, as a container engine does it.

Where Python is installed in a home that other users may not enter, it is shown there all the same.
"""


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The writable folder, with a registry that has a live version of `m`; the image's user can get there."""
    from registry.flavor import log_model

    home = tmp_path_factory.mktemp("h")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    checkpoint = build_model(tmp_path_factory.mktemp("m"), "single")
    log_model(checkpoint, task="text-classification", name="m", settings=settings)
    Versions(settings).promote("m", "1", why="start")
    with tempfile.TemporaryDirectory(prefix="hw-") as folder:
        copy_home(home, Path(folder, "headwaiter"))
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, pod.USER, pod.USER)
        yield Path(folder)


@pytest.fixture
def installed() -> Iterator[Path]:
    """The package as pip installs it, where everybody may read it."""
    with tempfile.TemporaryDirectory(prefix="hw-") as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        source.mkdir()
        names = (
            "pyproject.toml",
            "README.md",
            "LICENSE",
            "headwaiter.py",
            "scripts",
            "monitoring",
            "registry",
            "serving",
        )
        subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(source)], check=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--target", str(target), str(source)], check=True)
        Path(folder).chmod(0o755)
        yield target


def closed_folder(path: Path) -> str:
    """The first folder on the way to `path` that not everybody may enter; empty if there is none."""
    way = [*reversed(path.parents), path]
    return next((str(folder) for folder in way if not folder.stat().st_mode & 0o001), "")


@pytest.mark.long
def test_it_serves_is_looked_at_reaps_and_ends(data: Path, installed: Path) -> None:
    admin = free_port()
    environ = {name: value.replace(pod.DATA, str(data), 1) for name, value in environment().items()}
    environ |= {"PYTHON": sys.base_prefix, "CLOSED": closed_folder(Path(sys.base_prefix))}
    environ |= {"HEADWAITER_ADMIN_PORT": str(admin), "DATA": str(data), "PYTHONPATH": str(installed)}
    isolate = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    isolate += ["sh", "-c", CONTAINER.format(user=pod.USER), "sh"]
    entry = [*command("ENTRYPOINT")[:-1], sys.executable, "-P", str(installed / "bin/headwaiter")]
    running = Server(data / "headwaiter", ("m",), environ, command=(*isolate, *entry, "serve", "m"), cwd=data)
    with running as server:
        assert server.ask("m", "a text")
        (first,) = psutil.Process(server.process.pid).children()
        assert first.name() == "tini"
        users, paths = wait_until(lambda: _look(first), "no process ended while they were looked at")
        assert len(users) > 3
        assert set(users) == {pod.USER}
        assert set(paths) == {str(installed)}
        check = [part.replace("9000", str(admin)) for part in command("HEALTHCHECK")]
        look = [sys.executable, *check[1:]]  # it gives up after seconds, and is tried again by who looks
        wait_until(lambda: subprocess.run(look, check=False).returncode == 0, "it is healthy")
        orphan = ["nsenter", "--target", str(first.pid), "--pid", "sh", "-c", "sleep 1000 & true"]
        subprocess.run(orphan, check=True)
        left = wait_until(
            lambda: next((each for each in first.children() if _name(each) == "sleep"), None), "it has begun"
        )
        left.kill()
        wait_until(lambda: not psutil.pid_exists(left.pid), "a process without a parent is reaped")
        first.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_SECONDS) == 0


def _name(process: psutil.Process) -> str:
    """Its name, "" if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def _look(first: psutil.Process) -> tuple[list[int], list[str]] | None:
    """The users of the processes below `first` and with it, and where those of Python look for modules first.

    None if one of them has ended meanwhile.
    """
    try:
        below = first.children(recursive=True)
        users = [process.uids().effective for process in (first, *below)]
        environs = [process.environ() for process in below]
    except psutil.NoSuchProcess:
        return None
    return users, [each["PYTHONPATH"].partition(os.pathsep)[0] for each in environs if "PYTHONPATH" in each]
