"""`headwaiter doctor` tells what is wrong and what would help; its status says whether a server would work."""

import json
import socket
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
    check_port,
    check_processor,
    check_torch,
)
from serving.commands.main import main
from serving.runtime.limits import Limits

GPU = Gpu("0", 0, 80 * GIB, 0.0)


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
        (check_processor("EPYC", ("avx2", "amx_bf16"), limits()), "ok", "4 of 8 cores"),
        (check_processor("EPYC", ("avx2",), limits()), "note", "float32"),
        (check_processor("EPYC", ("amx_bf16",), limits(cores=1)), "note", "one core (control group)"),
        (check_memory(limits()), "ok", "16.0 GiB (machine), 8.0 GiB of it free"),
        (check_memory(limits(available_bytes=GIB)), "note", "have 2 GiB free"),
        (check_gpus([]), "ok", "none"),
        (check_gpus([GPU]), "ok", "cuda:0 with 80 GiB"),
    ],
)
def test_a_check_says_what_it_found_and_what_would_help(finding: Finding, state: str, says: str) -> None:
    assert finding.state == state
    assert says in f"{finding.found} {finding.advice}"
    assert bool(finding.advice) == (state != "ok")


def test_packages_that_are_missing_or_too_old_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_packages().state == "ok"
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


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        finding = check_port(listener.getsockname()[1])
    assert finding.state == "wrong"


@pytest.mark.usefixtures("settings")
def test_the_exit_status_says_whether_a_server_would_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    well = CliRunner().invoke(main, ["doctor", "--port", port, "--json"])
    found = {finding["check"]: finding["state"] for finding in json.loads(well.stdout)}
    assert found.keys() == {"packages", "torch", "processor", "memory", "GPU", "registry", "port"}
    assert "wrong" not in found.values(), well.stdout
    assert well.exit_code == 0
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path / "a-file"))
    ill = CliRunner().invoke(main, ["doctor", "--port", port])
    assert ill.exit_code == 1
    assert "wrong  registry" in ill.stdout
