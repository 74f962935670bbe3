"""Real clients, unchanged."""

import json
import re
from pathlib import Path

import bentoml
import huggingface_hub
import numpy
import pytest
from huggingface_hub import InferenceClient

from tests.abilities import can
from tests.alike import assert_alike
from tests.e2e.server import Server, free_port, run_cli
from tests.small_models import SINGLE_LABELS

pytestmark = pytest.mark.processor


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client calls nothing while the hub is switched off, as it is for all other tests."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_the_hugging_face_client(server: Server, online: None) -> None:
    labels = InferenceClient(model=f"{server.url}/models/sentiment").text_classification("I like it")
    assert {element.label for element in labels} == set(SINGLE_LABELS)
    assert len(InferenceClient(model=f"{server.url}/models/sentiment").text_classification("x", top_k=2)) == 2
    entities = InferenceClient(model=f"{server.url}/models/names").token_classification(
        "Ada went to Paris", aggregation_strategy="simple", ignore_labels=[]
    )
    assert [entity.start for entity in entities] == sorted(entity.start for entity in entities)
    vector = InferenceClient(model=f"{server.url}/models/embedder").feature_extraction("some text", normalize=True)
    assert vector.shape == (32,)
    assert_alike(numpy.linalg.norm(vector), 1.0)


def test_the_bentoml_client(server: Server) -> None:
    with bentoml.SyncHTTPClient(server.url) as client:
        answer = client.predict(model="sentiment", inputs=["good", "bad"], parameters={"top_k": 1})
        assert_alike(answer, server.ask("sentiment", ["good", "bad"], top_k=1))
        assert_alike(client.predict(model="stars", inputs="good", version="1"), server.ask("stars", "good"))
        with pytest.raises(bentoml.exceptions.BentoMLException, match="no model 'nobody'"):
            client.predict(model="nobody", inputs="x")
        with pytest.raises(bentoml.exceptions.BentoMLException, match="unknown field `top`"):
            client.predict(model="sentiment", inputs="x", parameters={"top": 1})


def test_the_openapi_page_shows_the_typed_api(server: Server) -> None:
    assert server.http.get("/").status_code == 200
    paths = server.http.get("/docs.json").json()["paths"]
    schema = paths["/predict"]["post"]
    assert "200" in schema["responses"]
    assert {"/livez", "/readyz"} <= set(paths)


def test_models_are_listed_with_versions_states_and_contract(server: Server, home: Path) -> None:
    listed = server.http.get("/models").json()
    assert {model["name"] for model in listed["models"]} >= {"sentiment", "names", "embedder"}
    described = server.describe("sentiment")
    assert (described["live"], described["aliases"]) == ("1", {"champion": "1"})
    version = described["versions"]["1"]
    assert version["state"] == "ready"
    assert version["contract"]["labels"] == list(SINGLE_LABELS)
    assert version["contract"]["model_class"] == "BertForSequenceClassification"
    (engine,) = version["engines"]
    assert (engine["device"], engine["dtype"]) == ("cpu", "float32")
    assert engine["execution"] == "packed sequences, first-token pruning, TorchScript"
    assert engine["notes"] == []
    assert re.fullmatch(r"\d+ × \d+", engine["split"])
    assert engine["budget_tokens"] >= 256
    (engine,) = server.describe("sentiment-bf16")["versions"]["1"]["engines"]
    assert engine["dtype"] == "bfloat16"
    refused = [note for note in engine["notes"] if note.startswith("weights are not prepacked: RuntimeError: ")]
    assert bool(refused) != can("packed bfloat16")
    printed = run_cli(home, "status", server.url).stdout
    assert all(f"    cpu: {note}\n" in printed for note in engine["notes"])


@pytest.mark.parametrize(
    ("name", "batching"), [("sentiment", "any lengths"), ("zero-shot-classification", "equal lengths")]
)
def test_a_model_says_how_its_rows_are_batched(server: Server, name: str, batching: str) -> None:
    version = server.describe(name)["versions"]["1"]
    assert [engine["batching"] for engine in version["engines"]] == [batching]
    assert version["contract"]["batching"] == batching


def test_every_answer_names_its_version_and_its_timings(server: Server) -> None:
    answer = server.post("sentiment", {"inputs": "x"}, version="1")
    assert answer.headers["x-model-version"] == "1"
    stages = [part.partition(";dur=") for part in answer.headers["server-timing"].split(", ")]
    assert [name for name, _, _ in stages] == ["tokenize", "queue", "forward", "decode"]
    assert all(float(value) >= 0 for _, _, value in stages)
    assert server.post("sentiment@champion", {"inputs": "x"}).status_code == 200


def test_a_front_is_small_and_has_no_torch(server: Server) -> None:
    fronts = [process for process in server.processes("worker.service") if "headwaiter" in process.cmdline()]
    assert len(fronts) == 2
    for front in fronts:
        assert front.memory_info().rss < 200 * 2**20
        assert not [region.path for region in front.memory_maps() if "libtorch" in region.path]


def test_status_prints_what_is_served(server: Server, home: Path) -> None:
    printed = run_cli(home, "status", server.url).stdout
    assert "sentiment  live: 1  champion → 1" in printed
    (engine,) = server.describe("sentiment")["versions"]["1"]["engines"]
    row = rf"^  1 +ready +champion +[1-9][0-9,]* MiB +0 +{engine['pid']} +cpu +float32 +text-classification$"
    assert re.search(row, printed, re.MULTILINE), printed
    assert re.search(r" UTC +.+  sentiment@champion +none → 1 +success ", printed)
    listed = json.loads(run_cli(home, "status", server.url, "--json").stdout)
    assert {model["name"] for model in listed["models"]} >= {"sentiment", "names"}
    for address, cause in (
        (f"http://127.0.0.1:{free_port()}", "no Headwaiter answers"),
        (f"{server.url}/predict", "no such route|405|404"),
        ("localhost:3000", "is no http://"),
    ):
        refused = run_cli(home, "status", address, check=False)
        assert refused.returncode == 1
        assert re.search(cause, refused.stderr), refused
