"""`headwaiter doctor` tells what is wrong and what would help; its status says whether a server would work."""

import json
import re
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from monitoring.gpus import Gpu
from serving.commands.doctor import (
    GIB,
    Finding,
    check_gpus,
    check_memory,
    check_packages,
    check_ports,
    check_processor,
    check_registry,
    check_settings,
    check_torch,
)
from serving.commands.main import main
from serving.runtime.limits import Limits
from tests.e2e.server import free_port
from tests.waiting import WAIT_SECONDS

GPU = Gpu("0", 20 * GIB, 80 * GIB, 0.0)


def limits(**changes: Any) -> Limits:
    given = {
        "cores": 4,
        "machine_cores": 8,
        "cores_by": "control group",
        "memory_bytes": 16 * GIB,
        "machine_memory_bytes": 16 * GIB,
        "memory_by": "machine",
        "available_bytes": 8 * GIB,
        "oom_kills": 0,
    }
    return Limits(**{**given, **changes})


@pytest.mark.parametrize(
    ("finding", "state", "says"),
    [
        (check_torch("2.13.0+cpu", []), "ok", "2.13.0+cpu"),
        (check_torch("2.13.0+cpu", [GPU]), "note", "build of torch for CUDA"),
        (check_torch("2.13.0", [GPU]), "ok", "2.13.0"),
        (check_processor("EPYC", ("avx2", "amx_bf16"), limits(), {}), "ok", "4 of 8 cores (control group), avx2"),
        (check_processor("EPYC", ("avx2",), limits(), {}), "note", "AVX-512 BF16 are several times as fast"),
        (check_processor("EPYC", ("amx_bf16",), limits(cores=1), {}), "note", "one core (control group)"),
        (check_processor("EPYC", ("bf16",), limits(), {"ATEN_CPU_CAPABILITY": "default"}), "note", "default may keep"),
        (check_processor("", (), limits(cores=1), {}), "note", "second one; models run in float32"),
        (check_memory(limits()), "ok", "16.0 GiB (machine), 8.0 GiB of it free"),
        (check_memory(limits(available_bytes=GIB)), "note", "have 2 GiB free"),
        (check_gpus([]), "ok", "none"),
        (check_gpus([GPU]), "ok", "cuda:0 with 80 GiB, 60 free"),
        (check_settings({}), "ok", "no HEADWAITER_ variable is set"),
        (check_settings({"HEADWAITER_WEBHOOK_SECRET": "x" * 32}), "ok", "HEADWAITER_WEBHOOK_SECRET"),
        (check_settings({"HEADWAITER_WORKERS": "0"}), "wrong", "HEADWAITER_WORKERS='0' is not allowed"),
    ],
)
def test_a_check_says_what_it_found_and_what_would_help(finding: Finding, state: str, says: str) -> None:
    assert finding.state == state
    assert says in f"{finding.found} {finding.advice}"
    assert bool(finding.advice) == (state != "ok")


def test_packages_that_are_missing_or_too_old_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = check_packages()
    assert whole.state == "ok"
    assert f"transformers {version('transformers')}" in whole.found
    info = tmp_path / "demanding-1.0.dist-info"
    info.mkdir()
    needs = ["numpy<1", "surely-not-installed", "pip", 'also-not-installed; extra == "more"']
    lines = [f"Requires-Dist: {each}" for each in needs]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", "Name: demanding", "Version: 1.0", *lines]))
    monkeypatch.syspath_prepend(tmp_path)
    finding = check_packages("demanding")
    assert finding.state == "wrong"
    assert "is not <1; surely-not-installed is not installed" in finding.found
    assert "also-not-installed" not in finding.found


@pytest.mark.parametrize("taken", ["port", "admin port"])
def test_a_port_in_use_is_told(taken: str) -> None:
    free, other = free_port(), free_port()
    admin = "HEADWAITER_ADMIN_PORT"
    found = check_ports(free, {admin: other, "HEADWAITER_GRPC_PORT": 0})
    assert found == Finding("port", "ok", f"{free} and {other} are free")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        used = listener.getsockname()[1]
        finding = check_ports(used, {admin: free}) if taken == "port" else check_ports(free, {admin: used})
    assert finding.state == "wrong"
    assert str(used) in finding.found
    assert (admin in finding.found) == (taken == "admin port")
    assert check_ports(free, {admin: free}).state == "wrong"


@pytest.mark.usefixtures("settings")
def test_a_registry_that_is_slow_or_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_registry(slow_seconds=WAIT_SECONDS)
    assert (found.state, found.advice) == ("ok", "")
    assert re.fullmatch(r"sqlite:///.*mlflow\.db answers in \d+ ms", found.found)
    assert "nearer" in check_registry(slow_seconds=0.0).advice
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hidden-word@127.0.0.1:{free_port()}")
    down = check_registry()
    assert down.state == "wrong"
    assert "does not answer (Failed to establish a new connection" in down.found
    assert "hidden-word" not in down.found


@pytest.mark.usefixtures("settings")
def test_the_exit_status_says_whether_a_server_would_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("h")  # sockets need a short path
    monkeypatch.setenv("HEADWAITER_HOME", str(home))
    port = str(free_port())
    well = CliRunner().invoke(main, ["doctor", "--port", port, "--json"])
    found = {finding["check"]: finding["state"] for finding in json.loads(well.stdout)}
    assert found.keys() == {"packages", "torch", "processor", "memory", "GPU", "settings", "registry", "port"}
    assert "wrong" not in found.values(), well.stdout
    assert well.exit_code == 0
    (home / "a-file").write_text("")
    monkeypatch.setenv("HEADWAITER_HOME", str(home / "a-file"))
    ill = CliRunner().invoke(main, ["doctor", "--port", port])
    assert ill.exit_code == 1
    assert "wrong  registry" in ill.stdout
