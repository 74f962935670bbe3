"""Every object against the published schema of its kind: Kubernetes' own by kubernetes-validate, in strict mode, others
by the files in `schemas`, which say where they come from."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest

from tests.serving.kubernetes.installations import BOTH, containers, objects, of_kind, one

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = ("1.32", "1.37")
"""The oldest and the newest Kubernetes that the files are checked for."""
CUSTOM = {
    "PodMonitor": "pod-monitor",
    "PrometheusRule": "prometheus-rule",
    "ScaledObject": "scaled-object",
    "ServingRuntime": "serving-runtime",
    "InferenceService": "inference-service",
}
NATIVE = {
    *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"),
    "ServiceAccount",
}


def check_custom(content: Any) -> None:
    """Raise ValidationError for what the kind's schema does not allow."""
    schema = json.loads((SCHEMAS / f"{CUSTOM[content['kind']]}.json").read_text(encoding="utf-8"))
    jsonschema_rs.validator_for(schema).validate(content)


def pod(spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}


@pytest.mark.slow
@pytest.mark.parametrize("installation", BOTH.values(), ids=BOTH)
def test_every_object_has_the_form_of_its_kind(installation: Any) -> None:
    found = objects(installation)
    assert {content["kind"] for content in found.values()} == NATIVE | set(CUSTOM)
    for path, content in found.items():
        if content["kind"] in CUSTOM:
            check_custom(content)
        else:
            for version in VERSIONS:
                assert kubernetes_validate.validate(content, version, strict=True), path


@pytest.mark.parametrize("installation", BOTH.values(), ids=BOTH)
def test_what_kserve_makes_pods_of_has_the_form_of_pods(installation: Any) -> None:
    runtime = one(installation, "ServingRuntime")["spec"]
    fields = {name: runtime[name] for name in ("containers", "volumes", "tolerations") if name in runtime}
    for service in of_kind(installation, "InferenceService"):
        predictor = {name: value for name, value in service["spec"]["predictor"].items() if "eplicas" not in name}
        model = predictor.pop("model")
        (server,) = fields["containers"]
        merged = server | {"env": server["env"] + model["env"]}
        for version in VERSIONS:
            made = pod(fields | predictor | {"containers": [merged]})
            assert kubernetes_validate.validate(made, version, strict=True)


@pytest.mark.parametrize("kind", CUSTOM)
def test_a_field_that_the_kind_does_not_have_is_noticed(kind: str) -> None:
    content = of_kind(BOTH["full"], kind)[0]
    for broken in (content | {"specification": {}}, content | {"spec": content["spec"] | {"replica": 1}}):
        with pytest.raises(jsonschema_rs.ValidationError):
            check_custom(broken)


def test_a_field_that_a_pod_does_not_have_is_noticed() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            pod({"containers": [containers(BOTH["plain"])[0] | {"enviroment": []}]}), VERSIONS[0], strict=True
        )
