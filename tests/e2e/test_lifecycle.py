"""A server's life: ready only when it answers, versions followed and rolled back, full queues, crashes, SIGTERM."""

import asyncio
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from registry.settings import RegistrySettings
from registry.tracking import connect
from tests.alike import assert_alike
from tests.e2e.conftest import copy_of
from tests.e2e.load import Load
from tests.e2e.overlap import held, sent
from tests.e2e.server import WAIT_SECONDS, Server, inherited, invoke, wait_until

pytestmark = pytest.mark.surroundings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Iterator[Server]:
    """One server of `m`; its queue and its patience are short. Version 1 is live until the last two of its tests."""
    environ = {"HEADWAITER_QUEUE_TOKENS": "3000", "HEADWAITER_GRACE_SECONDS": "1"}
    with Server(copy_of(small_template, tmp_path_factory), ("m",), environ) as server:
        yield server


def test_a_server_is_ready_only_when_every_model_answers(small_home: Path) -> None:
    with Server(small_home, ("m@canary",), wait=False) as server:
        wait_until(lambda: "no m@canary" in (server.describe("m").get("error") or ""), "the missing alias is shown")
        assert server.http.get("/readyz").status_code == 503
        assert server.http.get("/livez").status_code == 200
        answer = server.post("m", {"inputs": "x"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        invoke(small_home, "promote", "m", "1", "--alias", "canary", "--why", "now it is there")
        wait_until(server.is_ready, "ready")
        assert server.post("m@canary", {"inputs": "x"}).status_code == 200


def test_a_full_queue_refuses_at_once_and_the_accepted_are_answered(server: Server) -> None:
    too_much = server.post("m", {"inputs": ["some words of a text " * 40] * 30})
    assert (too_much.status_code, too_much.json()["error_type"]) == (413, "too_large")

    (engine,) = server.processes("serving.engine")

    async def flood() -> tuple[list[httpx.Response], list[httpx.Response]]:
        """The answers that came while the engine stood still, and those that came later."""
        async with httpx.AsyncClient(
            base_url=server.url, timeout=WAIT_SECONDS, limits=httpx.Limits(max_connections=64)
        ) as client:
            body = {"inputs": ["some words of a text " * 40] * 10}
            asked = [asyncio.create_task(client.post("/models/m", json=body)) for _ in range(64)]
            with held(engine):
                while sum(task.done() for task in asked) < 63:
                    await asyncio.wait(filter(lambda task: not task.done(), asked), return_when="FIRST_COMPLETED")
                refused = [task.result() for task in asked if task.done()]
            answers = await asyncio.gather(*asked)
            return refused, [answer for answer in answers if answer not in refused]

    refused, accepted = asyncio.run(flood())
    assert [response.status_code for response in refused] == [429] * 63, "the queue takes one of them"
    assert [response.status_code for response in accepted] == [200]
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
    assert all(response.json()["error_type"] == "queue_full" for response in refused)
    assert server.sample("rejected_total", model="m", reason="queue_full") == len(refused)
    assert server.post("m", {"inputs": "x"}).status_code == 200


def test_a_request_past_its_deadline_gets_504_and_leaves_the_queue(small_home: Path) -> None:
    with Server(small_home, ("m",), {"HEADWAITER_TIMEOUT_SECONDS": "0.3"}) as server:
        (engine,) = server.processes("serving.engine")
        engine.suspend()
        assert server.post("m", {"inputs": "x"}).status_code == 504
        engine.resume()
        wait_until(lambda: server.post("m", {"inputs": "x"}).status_code == 200, "it answers again")
        assert server.sample("rejected_total", model="m", reason="deadline") >= 1


def test_a_client_that_leaves_costs_no_forward_pass(server: Server) -> None:
    (engine,) = server.processes("serving.engine")
    server.ask("m", "warm")
    before = server.sample("batch_rows_sum", model="m")
    with held(engine):
        with sent(server, "/models/m", {"inputs": ["x"] * 7}):
            wait_until(lambda: server.sample("requests_in_progress", model="m") == 1, "the request is on its way")
        wait_until(lambda: server.sample("rejected_total", model="m", reason="client_gone") == 1, "it is noticed")
    server.ask("m", "after")
    assert server.sample("batch_rows_sum", model="m") == before + 1
    assert server.sample("requests_in_progress", model="m") == 0


def test_a_killed_engine_comes_back_and_answers_the_requests_that_it_had(server: Server) -> None:
    restarts = server.sample("engine_restarts_total", model="m")
    (engine,) = server.processes("serving.engine")
    engine.suspend()
    asking = server.ask_aside("m")
    engine.kill()
    assert asking.result(WAIT_SECONDS).status_code == 200
    assert server.post("m", {"inputs": "x"}).status_code == 200
    wait_until(server.is_ready, "ready again")
    assert server.sample("engine_restarts_total", model="m") == restarts + 1


def test_liveness_fails_when_the_manager_stays_away(server: Server) -> None:
    def is_alive() -> bool:
        return server.http.get("/livez").status_code == 200

    wait_until(is_alive, "alive")  # on a busy machine the manager is away for a second now and then
    (manager,) = server.processes("headwaiter_manager")
    with held(manager):
        wait_until(lambda: not is_alive(), "not alive")
        assert server.post("m", {"inputs": "serving goes on"}).status_code == 200
    wait_until(is_alive, "alive again")


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_live(server: Server) -> None:
    weights = sorted(server.home.glob("artifacts/**/model.safetensors"), key=lambda path: path.stat().st_mtime)[1]
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused = invoke(server.home, "promote", "m", "2", "--why", "it is damaged, nobody knows yet", check=False)
    assert "m/2 is not promoted: model/model.safetensors has sha256" in refused.stderr
    client = connect(RegistrySettings.from_environment({"HEADWAITER_HOME": str(server.home)}))
    failures = server.sample("swap_total", model="m", outcome="failure")
    client.set_registered_model_alias("m", "champion", "2")  # by hand, past the check
    failed = wait_until(lambda: server.describe("m")["versions"].get("2", {}).get("error"), "the failure is shown")
    assert "model/model.safetensors has sha256" in failed
    assert server.live("m") == "1"
    assert server.post("m", {"inputs": "x"}).headers["x-model-version"] == "1"
    assert server.post("m", {"inputs": "x"}, version="2").status_code == 503
    wait_until(server.is_ready, "ready")  # with this patience, each heartbeat of the manager that is late is missed
    assert server.sample("swap_total", model="m", outcome="failure") == failures + 1
    assert server.sample("model_state", model="m", version="2", state="failed") == 1
    client.set_registered_model_alias("m", "champion", "1")
    wait_until(lambda: set(server.describe("m")["versions"]) == {"1"}, "the failed version is forgotten")
    weights.write_bytes(good)


def test_an_alias_is_followed_and_rolled_back_without_a_failed_request(server: Server) -> None:
    swaps = server.sample("swap_total", model="m", outcome="success")
    with Load(server, "/models/m", 16) as load:
        own = dict.fromkeys("12")
        own["1"] = server.ask("m", "the same text")
        invoke(server.home, "promote", "m", "2", "--why", "better")
        wait_until(lambda: server.live("m") == "2", "version 2 is live")
        own["2"] = server.ask("m", "the same text")
        assert own["1"][0][0]["label"] != own["2"][0][0]["label"], "the answers must prove which version gave them"
        assert_alike(server.ask("m", "the same text", version="1"), own["1"], server.dtype("m", "1"))
        invoke(server.home, "rollback", "m", "--why", "worse after all")
        wait_until(lambda: server.live("m") == "1", "version 1 is live again")
        assert_alike(server.ask("m", "the same text"), own["1"], server.dtype("m", "1"))
        assert server.sample("swap_total", model="m", outcome="success") == swaps + 2
        assert server.sample("model_info", model="m", version="1", alias="champion") == 1
        assert server.sample("model_info", model="m", version="2", alias="") == 1
        invoke(server.home, "promote", "m", "3", "--why", "third")
        wait_until(lambda: set(server.describe("m")["versions"]) == {"1", "3"}, "version 2 has been unloaded")
        wait_until(lambda: len(server.processes("serving.engine")) == 2, "its engine has ended")
        assert server.post("m", {"inputs": "x"}, version="2").status_code == 404
        load.wait_for("3", 32)  # so that what the versions before had begun has come, too
        before = load.total("1"), load.total("2")
        load.wait_for("3", 32)
        assert (load.total("1"), load.total("2")) == before
    assert (load.failures(), load.lost) == ([], [])
    assert {version: load.answers()[version] for version in "12"} == {
        version: {answer[0][0]["label"]} for version, answer in own.items()
    }


def test_a_killed_manager_is_followed_by_one_that_adopts_its_engines(server: Server) -> None:
    live = server.live("m")
    assert live is not None
    engine = psutil.Process(server.describe("m")["versions"][live]["engines"][0]["pid"])
    (manager,) = server.processes("headwaiter_manager")
    with Load(server, "/models/m", 16) as load:
        manager.kill()
        wait_until(
            lambda: [found for found in server.processes("headwaiter_manager") if found.pid != manager.pid],
            "another manager is there",
        )
        invoke(server.home, "promote", "m", "2", "--why", "the new manager follows")
        wait_until(lambda: server.live("m") == "2", "version 2 is live")
        assert engine.is_running()
        assert server.post("m", {"inputs": "x"}, version=live).status_code == 200
    assert (load.failures(), load.lost) == ([], [])
    server.stop()
    assert not psutil.wait_procs([engine], timeout=WAIT_SECONDS)[1]


def test_sigterm_finishes_what_was_accepted_and_ends_with_0(small_home: Path) -> None:
    with Server(small_home, ("m",)) as server:
        (engine,) = server.processes("serving.engine")
        engine.suspend()
        answers: list[httpx.Response] = []
        asking = [
            threading.Thread(
                target=lambda: answers.append(
                    httpx.post(f"{server.url}/models/m", json={"inputs": "x"}, timeout=WAIT_SECONDS)
                )
            )
            for _ in range(8)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: server.sample("requests_in_progress", model="m") == 8, "all are accepted")
        everyone = server.everyone()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(server.port), "new connections are refused")
        engine.resume()
        assert server.process.wait(WAIT_SECONDS) == 0
        for thread in asking:
            thread.join(WAIT_SECONDS)
        assert [answer.status_code for answer in answers] == [200] * 8
        assert not psutil.wait_procs(everyone, timeout=WAIT_SECONDS)[1]
        assert not list((small_home / "run").iterdir())


def accepts(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def bento_environ(home: Path) -> dict[str, str]:
    return {
        "HEADWAITER_MODELS": "m",
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_HOST": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.long
def test_bentoml_serve_takes_the_settings_from_the_environment(small_home: Path) -> None:
    command = (sys.executable, "-m", "bentoml", "serve", "serving.service:Headwaiter")
    with Server(small_home, (), bento_environ(small_home), command=command, cwd=ROOT) as server:
        assert server.post("m", {"inputs": "x"}).status_code == 200
        assert server.stop() == 0


@pytest.mark.long
def test_a_bento_is_built_and_served(small_home: Path, tmp_path_factory: Any) -> None:
    import subprocess

    source = tmp_path_factory.mktemp("source")
    for name in (
        "headwaiter.py",
        "serving",
        "registry",
        "monitoring",
        "deploy",
        "scripts",
        "LICENSE",
        "bentofile.yaml",
        "pyproject.toml",
        "README.md",
        "constraints.txt",
    ):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    environ = {**inherited(), **bento_environ(small_home), "PYTHONPATH": ""}
    built = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--output", "tag"],
        cwd=source,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    tag = built.stdout.strip().splitlines()[-1].rpartition("__tag__:")[2]
    assert tag.startswith("headwaiter:")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = (sys.executable, "-m", "bentoml", "serve", tag)
    environ_of_bento = {**bento_environ(small_home), "PYTHONPATH": ""}
    with Server(small_home, (), environ_of_bento, command=command, cwd=elsewhere) as server:
        assert server.post("m", {"inputs": "x"}).status_code == 200
        (engine,) = server.processes("serving.engine")
        assert "bentos" in engine.cwd() or "bentos" in engine.environ().get("PYTHONPATH", "")
