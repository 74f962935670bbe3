"""The same server behind KServe: a ServingRuntime and, for each model, an InferenceService of protocol v2.

KServe chooses pods, services and scaling itself, so these files stand for `base` and are applied without it.
"""

import re
from dataclasses import replace

from registry.environment import InvalidSetting
from registry.references import Reference
from serving.kubernetes.base import named, network_policy
from serving.kubernetes.installation import ADMIN_PORT, NAME, Installation, Manifest
from serving.kubernetes.pod import container, environment, pod_security, termination_seconds, tolerations, volumes

FORMAT = {"name": NAME, "version": "1"}
POD_LABEL = "serving.kserve.io/inferenceservice"
"""KServe gives it to each pod, with the InferenceService's name."""
MODE = {"serving.kserve.io/deploymentMode": "RawDeployment"}
"""Plain deployments, without Knative; from KServe 0.16 on it is called Standard, and both names are understood."""


def objects(installation: Installation) -> dict[str, Manifest]:
    """File → object, without gRPC, as KServe's containers declare one port.

    Raises InvalidSetting where two models would get one name.
    """
    installation = replace(installation, grpc=False)
    named_by = {service_name(reference): reference for reference in installation.references}
    if len(named_by) < len(installation.references):
        raise InvalidSetting(
            f"{' '.join(installation.models)}: KServe's services are named by the models in lower case, without alias, "
            "and two of these would get the same name: export them into folders of their own"
        )
    names = sorted(named_by)
    services = {f"inference-service-{name}.yaml": _service(installation, each) for name, each in named_by.items()}
    policy = network_policy(installation, {"matchExpressions": [{"key": POD_LABEL, "operator": "In", "values": names}]})
    return {"serving-runtime.yaml": _runtime(installation), "network-policy.yaml": policy} | services


def service_name(reference: Reference) -> str:
    """The name of a model's InferenceService: it becomes a part of a host name, so it is a label of RFC 1035."""
    text = reference.name if reference.alias is not None else f"{reference.name}-{reference.version}"
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return (label if label[:1].isalpha() else f"model-{label}")[:50].rstrip("-")


def _runtime(installation: Installation) -> Manifest:
    """Its container declares one port only, which KServe's service leads to."""
    server = container(installation, models="", name="kserve-container")
    server["env"] = [entry for entry in server["env"] if entry["value"]]
    server["ports"] = [port for port in server["ports"] if port["name"] == "http"]
    spec = {
        "annotations": {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(ADMIN_PORT),
            "prometheus.io/path": "/metrics",
        },
        "multiModel": False,
        "supportedModelFormats": [FORMAT | {"autoSelect": False}],
        "protocolVersions": ["v2"],
        "containers": [server],
        "volumes": volumes(installation),
    }
    return named("serving.kserve.io/v1alpha1", "ServingRuntime", spec | tolerations(installation))


def _service(installation: Installation, reference: Reference) -> Manifest:
    models = environment(installation, str(reference))
    predictor = {
        "minReplicas": installation.replicas,
        "maxReplicas": installation.max_replicas,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": termination_seconds(),
        "model": {
            "modelFormat": FORMAT,
            "runtime": NAME,
            "protocolVersion": "v2",
            "env": [{"name": name, "value": value} for name, value in models.items() if value == str(reference)],
        },
    }
    service = named("serving.kserve.io/v1beta1", "InferenceService", {"predictor": predictor}, service_name(reference))
    service["metadata"] = {"name": service_name(reference), "annotations": MODE}  # KServe gives its labels to the pods
    return service
