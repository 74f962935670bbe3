"""What an installation refuses."""

import re
from typing import Any

import pytest

from registry.environment import InvalidSetting
from serving.kubernetes.export import files
from serving.kubernetes.installation import FLEET_REQUESTS, POLL_REQUESTS, Installation
from serving.manager.rollout.keeper import IDLE_POLLS
from tests.serving.kubernetes.installations import one

pytestmark = pytest.mark.slow


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"models": ()}, "nothing to serve"),
    ({"models": ("a*b",)}, "model name"),
    ({"namespace": "Shop"}, "namespace 'Shop'"),
    ({"monitoring_namespace": "-"}, "namespace '-'"),
    ({"mlflow_uri": "sqlite:///mlflow.db"}, "MLflow's address"),
    ({"mlflow_uri": "http://mlflow:port"}, "MLflow's address"),
    ({"mlflow_uri": "https://u:secret@mlflow"}, "a user or a password, which manifests would show"),
    ({"replicas": 3, "max_replicas": 2}, "--max-replicas 2 is below --replicas 3"),
    ({"parts": ("cpu-scaling", "queue-scaling")}, "choose one"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(said)):
        Installation(**{"models": ("reviews",), **given})


def test_models_that_kserve_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="the same name"):
        files(Installation(models=("reviews", "Reviews@next")))


def poll_variable(**given: Any) -> str:
    """The poll interval that pods get."""
    deployment = one(Installation(**{"models": ("reviews",), "max_replicas": 1000, **given}), "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    (value,) = (each["value"] for each in environment if each["name"] == "HEADWAITER_POLL_SECONDS")
    return str(value)


def test_the_more_pods_there_may_be_the_less_often_each_asks_the_registry() -> None:
    assert poll_variable(replicas=2) == poll_variable(replicas=100) == "2"
    assert poll_variable(replicas=1000) == poll_variable(replicas=2, parts=("cpu-scaling",)) == "15"
    assert poll_variable(replicas=1000, models=("reviews", "topics")) == "28"
    assert 1000 * POLL_REQUESTS / 15 <= FLEET_REQUESTS
    assert pytest.approx(1 + 1 / IDLE_POLLS) == POLL_REQUESTS
