"""Installations for tests, and the objects in their files."""

from copy import deepcopy
from functools import cache
from typing import Any

import yaml

from serving.kubernetes.export import files
from serving.kubernetes.installation import Installation

PLAIN = Installation(models=("reviews", "topics/3"))
FULL = Installation(
    models=("!reviews@champion", "Topic_Labels/3", "9lives"),
    namespace="shop",
    gpus=2,
    disk_class="fast",
    grpc=True,
    mlflow_uri="https://mlflow.example.com",
    parts=("prometheus", "queue-scaling"),
)
BOTH = {"plain": PLAIN, "full": FULL}


def objects(installation: Installation) -> dict[str, Any]:
    """File → object, without the files of Kustomize."""
    return deepcopy(_objects(installation))


@cache
def _objects(installation: Installation) -> dict[str, Any]:
    found = {path: yaml.safe_load(text) for path, text in files(installation).items()}
    return {path: content for path, content in found.items() if not path.endswith("kustomization.yaml")}


def of_kind(installation: Installation, kind: str) -> list[Any]:
    """The objects of this kind."""
    found = [content for content in objects(installation).values() if content["kind"] == kind]
    assert found, kind
    return found


def one(installation: Installation, kind: str) -> Any:
    """The only object of this kind."""
    (found,) = of_kind(installation, kind)
    return found


def containers(installation: Installation) -> list[Any]:
    """The containers of a server: the deployment's and the KServe runtime's."""
    (own,) = one(installation, "Deployment")["spec"]["template"]["spec"]["containers"]
    (of_kserve,) = one(installation, "ServingRuntime")["spec"]["containers"]
    return [own, of_kserve]


def environment(installation: Installation) -> dict[str, str]:
    """The variables of the deployment's container."""
    return {entry["name"]: entry["value"] for entry in containers(installation)[0]["env"]}
