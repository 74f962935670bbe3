"""MLflow's own tools with logged models: `mlflow models serve` and evaluation. Spark is in `test_other_engines`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas
import pytest

from bench.processes import serving
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from tests.alike import assert_alike
from tests.conftest import forget_tracking
from tests.e2e.server import Server, free_port, inherited
from tests.small_models import SINGLE_LABELS
from tests.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
TEXTS = ["good", "bad, but not too bad", "it came late"]


@pytest.fixture(scope="module")
def tracked(home: Path) -> Iterator[RegistrySettings]:
    """The session's registry, at which MLflow's functions are pointed."""
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    connect_mlflow(settings)
    yield settings
    forget_tracking()


def test_mlflow_models_serve_answers_as_the_server_does(
    tracked: RegistrySettings, server: Server, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["mlflow", "models", "serve", "-m", "models:/sentiment/1", "--env-manager", "local", "-p", str(port)]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    environ = {**inherited(), "PATH": programs, "MLFLOW_TRACKING_URI": tracked.tracking_uri}
    example = Path(mlflow.artifacts.download_artifacts("models:/sentiment/1")) / "serving_input_example.json"

    def ask(body: bytes) -> Any:
        headers = {"content-type": "application/json"}
        found = httpx.post(f"{url}/invocations", content=body, headers=headers, timeout=WAIT_SECONDS)
        assert found.status_code == 200, found.text
        return found.json()["predictions"]

    with serving(command, environ, f"{url}/ping", tmp_path / "serve.log", WAIT_SECONDS):
        assert ask(example.read_bytes())
        table = pandas.DataFrame({"text": TEXTS}).to_json(orient="split")
        answers = ask(f'{{"dataframe_split": {table}, "params": {{"top_k": 2}}}}'.encode())
    assert_alike(answers, server.ask("sentiment", TEXTS, top_k=2))


def test_mlflow_evaluates_a_classifier_by_its_labels(tracked: RegistrySettings, server: Server) -> None:
    loaded = mlflow.pyfunc.load_model("models:/sentiment/1")
    labels = [answer[0]["label"] for answer in server.ask("sentiment", TEXTS)]
    wrong = next(label for label in SINGLE_LABELS if label != labels[2])
    found = mlflow.models.evaluate(
        lambda rows: [answer[0]["label"] for answer in loaded.predict(rows, params={"top_k": 1})],
        pandas.DataFrame({"text": TEXTS, "label": [*labels[:2], wrong]}),
        targets="label",
        model_type="classifier",
        evaluator_config={"log_explainer": False},
    )
    assert found.metrics["accuracy_score"] == pytest.approx(2 / 3)


def test_mlflow_evaluates_answers_that_are_objects(tracked: RegistrySettings, server: Server) -> None:
    questions = [{"question": "Where?", "context": "Ada lives in Paris."}, {"question": "Who?", "context": "Bob did."}]
    answers = [each["answer"] for each in server.ask("question-answering", questions)]
    found = mlflow.models.evaluate(
        "models:/question-answering/1",
        pandas.DataFrame(questions).assign(right=[answers[0], f"not {answers[1]}"]),
        targets="right",
        predictions="answer",
        extra_metrics=[mlflow.metrics.exact_match()],
    )
    assert found.metrics["exact_match/v1"] == pytest.approx(0.5)
