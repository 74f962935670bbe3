"""A front that runs out of file descriptors follows the routing table again once there are some."""

import asyncio
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from registry.artifact import read_contract
from registry.settings import RegistrySettings
from serving.front.front import Front
from serving.settings import ServingSettings
from serving.wire.routing_table import EngineEntry, ModelEntry, Table, TableFile, VersionEntry
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.surroundings, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
ARTIFACT = ROOT / "tests" / "fixtures" / "artifact-of-format-1"
DESCRIPTORS = 128


class Failures(logging.Handler):
    """Knows the errors that were logged."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(str(record.exc_info[1]) if record.exc_info else "")


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def follow_without_descriptors(run: Path) -> None:
    """A front's process: it says how far it is, a line each."""
    failures = Failures()
    logging.getLogger("headwaiter.front").addHandler(failures)
    settings = ServingSettings(RegistrySettings(run, ""), (), run, os.getppid(), grace_seconds=WAIT_SECONDS)
    front = Front(settings)
    await front.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        tell("none left")
    while not failures.errors:
        await asyncio.sleep(0.01)
    tell(f"failed: {failures.errors[0]}")
    for descriptor in taken:
        os.close(descriptor)
    while not front.routing.links():
        await asyncio.sleep(0.01)
    tell("follows, alive" if front.is_alive() else "follows, dead")
    await front.stop()


def test_a_front_without_descriptors_follows_the_table_later(tmp_path: Path) -> None:
    file = TableFile(tmp_path)
    code = (
        "import asyncio, sys; from pathlib import Path; from tests.serving.front import test_descriptors as this; "
        "asyncio.run(this.follow_without_descriptors(Path(sys.argv[1])))"
    )
    contract = read_contract(ARTIFACT)
    engine = EngineEntry(address=f"ipc://{tmp_path}/1.sock", pid=7, accepting=True)
    version = VersionEntry(state="ready", root=str(ARTIFACT), contract=contract, engines=(engine,))
    table = Table(models={"m": ModelEntry(live="1", aliases={"champion": "1"}, versions={"1": version})})
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as front:
        try:
            assert front.stdout is not None
            assert front.stdout.readline() == "none left\n"
            file.beat()
            file.write(table)
            assert "Too many open files" in front.stdout.readline()
            assert front.stdout.readline() == "follows, alive\n"
            wait_until(lambda: front.poll() == 0, "it ends as it should")
        finally:
            front.kill()
