"""Who may come in, on a real server with two front processes."""

from collections.abc import Iterator
from pathlib import Path

import bentoml
import httpx
import openai
import pytest

from serving.runtime.key_file import KeyFile
from tests.e2e.conftest import copy_of
from tests.e2e.server import Server, free_port, run_cli, wait_until

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
        "/metrics",
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
        with pytest.raises(bentoml.exceptions.BentoMLException, match="Authorization error"):
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
        """Of both fronts, as each takes connections by turns."""
        return {httpx.get(f"{closed.url}/v1/models", headers=headers).status_code for _ in range(16)}

    wait_until(lambda: statuses() == {200}, "the key is valid on every front")
    run_cli(closed.home, "keys", "remove", "late", **closed.environ)
    wait_until(lambda: statuses() == {401}, "the key is valid nowhere")


def test_a_rate_holds_for_both_fronts_together(closed: Closed) -> None:
    limited = closed.keys.add("limited", rate=4)
    headers = {"Authorization": f"Bearer {limited}"}
    wait_until(lambda: httpx.get(f"{closed.url}/v1/models", headers=headers).status_code == 200, "the key is valid")
    wait_until(lambda: httpx.get(f"{closed.url}/v1/models", headers=headers).status_code == 429, "it is used up")
    answers = [httpx.post(f"{closed.url}/models/m", json={"inputs": "x"}, headers=headers) for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
