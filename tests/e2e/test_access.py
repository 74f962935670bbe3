"""Who may come in, on a real server with two front processes."""

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import bentoml
import httpx
import openai
import psutil
import pytest

from serving.runtime.key_file import KeyFile
from tests.authority import Authority, shown_name
from tests.e2e.conftest import copy_of
from tests.e2e.server import Server, free_port, run_cli, wait_until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.processor


class Closed(Server):
    """A server with keys, whose own client shows an operator's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.keys = KeyFile(self.home / "keys.json")
        self.operator = self.keys.add("operator", admin=True)
        self.somebody = self.keys.add("somebody", models=("m",))
        self.admin_port = free_port()
        self.environ["HEADWAITER_ADMIN_PORT"] = str(self.admin_port)
        self.environ["HEADWAITER_KEYS_FILE"] = str(self.home / "keys.json")
        self.http.headers["Authorization"] = f"Bearer {self.operator}"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Iterator[Closed]:
    home = copy_of(small_template, tmp_path_factory)
    with Closed(home, ("m",), {}, ("--workers", "2")) as running:
        yield running


def test_no_route_of_bentoml_or_of_a_protocol_answers_without_a_key(closed: Closed) -> None:
    paths = (
        "/",
        "/predict",
        "/livez",
        "/readyz",
        "/docs.json",
        "/schema.json",
        "/static_content/index.css",
    )
    with httpx.Client(base_url=closed.url) as stranger:
        for path in (*paths, "/metrics", "/models", "/models/m", "/v1/models", "/v2", "/v2/health/live", "/ping"):
            for method in ("GET", "POST"):
                assert stranger.request(method, path, json={}).status_code == 401, path
    assert all(closed.http.get(path).status_code == 200 for path in paths if path != "/predict")


def test_official_clients_show_their_key(closed: Closed) -> None:
    body = {"inputs": "good"}
    expected = closed.ask("m", "good")
    with bentoml.SyncHTTPClient(closed.url, token=closed.somebody) as client:
        assert client.predict(model="m", inputs="good") == expected
        with pytest.raises(bentoml.exceptions.BentoMLException, match="may not ask for the model 'other'"):
            client.predict(model="other", inputs="good")
    with openai.OpenAI(base_url=f"{closed.url}/v1", api_key=closed.somebody) as other:
        assert [model.id for model in other.models.list()] == ["m"]
    wrong = openai.OpenAI(base_url=f"{closed.url}/v1", api_key="wrong")
    with wrong, pytest.raises(openai.AuthenticationError, match="the key is not valid"):
        wrong.models.list()
    headers = {"Authorization": f"Bearer {closed.somebody}"}
    assert closed.http.post("/models/m", json=body, headers=headers).json() == expected
    told = run_cli(closed.home, "status", closed.url, HEADWAITER_API_KEY=closed.operator).stdout
    assert "m  live: 1" in told
    told = run_cli(closed.home, "status", closed.url, check=False, HEADWAITER_API_KEY=closed.somebody).stderr
    assert "tells its state to operators only" in told


def test_a_new_key_opens_and_a_removed_one_closes_without_a_restart(closed: Closed) -> None:
    late = run_cli(closed.home, "keys", "add", "late", **closed.environ).stdout.strip()
    headers = {"Authorization": f"Bearer {late}"}

    def statuses() -> set[int]:
        """Of each front, which reads the file of keys at times of its own."""
        with closed.front_clients() as fronts:
            return {front.get("/v1/models", headers=headers).status_code for front in fronts}

    wait_until(lambda: statuses() == {200}, "the key is valid on every front")
    answer = closed.http.post("/models/m", json={"inputs": "good"}, headers=headers)
    assert answer.json() == closed.ask("m", "good")
    run_cli(closed.home, "keys", "remove", "late", **closed.environ)
    wait_until(lambda: statuses() == {401}, "the key is valid nowhere")
    assert "the key is not valid" in closed.http.get("/v1/models", headers=headers).text
    assert closed.http.get("/v1/models").status_code == 200, "other keys stay valid"


def test_a_rate_holds_for_both_fronts_together(closed: Closed) -> None:
    limited = closed.keys.add("limited", rate=0.01)  # so that nothing depends on how fast the test asks
    headers = {"Authorization": f"Bearer {limited}"}
    with closed.front_clients() as (one, other):

        def ask(front: httpx.Client) -> httpx.Response:
            return front.post("/models/m", json={"inputs": "x"}, headers=headers)

        wait_until(lambda: ask(one).status_code == 200, "the key is valid")
        wait_until(lambda: ask(other).status_code != 401, "the other front knows it, too")
        for refused in (ask(other), ask(one)):
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 100


def test_metrics_and_probes_are_at_a_port_of_their_own(closed: Closed) -> None:
    assert closed.post("m", {"inputs": "x"}).status_code == 200
    for _ in range(8):
        with httpx.Client(base_url=f"http://127.0.0.1:{closed.admin_port}") as probe:
            assert {probe.get(path).status_code for path in ("/livez", "/readyz")} == {200}
            assert 'headwaiter_request_duration_seconds_count{model="m"' in probe.get("/metrics").text
            assert probe.get("/models").status_code == 404
    assert closed.http.get("/metrics").status_code == 404


@pytest.mark.long
def test_a_server_runs_nothing_of_the_folder_it_was_started_in(small_home: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name in ("msgspec", "psutil", "zmq", "json", "uvicorn", "numpy", "serving", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(sprung)!r}, 'a').write({name!r})\n")
    command = (sys.executable, "-P", "-m", "serving.commands.main", "serve", "m")
    secrets = {"AWS_SECRET_ACCESS_KEY": "a secret", "MY_OWN_THING": "a secret", "PYTHONPATH": str(ROOT)}
    with Server(small_home, (), secrets, command=command, cwd=tmp_path) as server:
        assert server.post("m", {"inputs": "x"}).status_code == 200
        folders, environs = wait_until(lambda: look(server), "no process ended while they were looked at")
        assert str(tmp_path) not in folders
        assert environs
        assert not any({"AWS_SECRET_ACCESS_KEY", "MY_OWN_THING"} & each.keys() for each in environs)
    assert not sprung.exists()


def look(server: Server) -> tuple[set[str], list[dict[str, str]]] | None:
    """The working directories of its processes, and the environments of its engines and of their template.

    None if one of them has ended meanwhile.
    """
    engines = server.processes("serving.engine") + server.processes("serving.engine.template")
    try:
        return {process.cwd() for process in server.everyone()}, [each.environ() for each in engines]
    except psutil.NoSuchProcess:
        return None


def test_a_server_with_tls_takes_clients_of_its_authority_and_renews_its_certificate(
    small_home: Path, tmp_path: Path
) -> None:
    own, clients = Authority(tmp_path / "own", "own"), Authority(tmp_path / "clients", "clients")
    certificate, key = own.sign("first")
    client = clients.sign("a client")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(clients.file))
    admin_port = free_port()
    server = Server(small_home, ("m",), {"HEADWAITER_ADMIN_PORT": str(admin_port)}, options, wait=False)
    with server:
        probe = f"http://127.0.0.1:{admin_port}/readyz"
        wait_until(lambda: httpx.get(probe).status_code == 200, "ready", log=server.log)
        address = ("127.0.0.1", server.port)
        assert shown_name(address, own, client) == "first"
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            shown_name(address, own)
        own.sign("second")
        wait_until(lambda: shown_name(address, own, client) == "second", "the renewed certificate", log=server.log)
