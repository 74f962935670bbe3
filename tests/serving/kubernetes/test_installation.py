"""What an installation refuses."""

import re
from typing import Any

import pytest

from registry.environment import InvalidSetting
from serving.kubernetes.export import files
from serving.kubernetes.installation import Installation

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"models": ()}, "nothing to serve"),
    ({"models": ("a*b",)}, "model name"),
    ({"namespace": "Shop"}, "namespace 'Shop'"),
    ({"monitoring_namespace": "-"}, "namespace '-'"),
    ({"mlflow_uri": "sqlite:///mlflow.db"}, "MLflow's address"),
    ({"mlflow_uri": "http://mlflow:port"}, "MLflow's address"),
    ({"replicas": 3, "max_replicas": 2}, "fewer than 3"),
    ({"parts": ("cpu-scaling", "queue-scaling")}, "choose one"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(said)):
        Installation(**{"models": ("reviews",), **given})


def test_models_that_kserve_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="the same name"):
        files(Installation(models=("reviews", "Reviews@next")))
