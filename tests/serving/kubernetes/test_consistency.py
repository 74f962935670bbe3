"""The values of the files fit one another and the server: ports, labels, settings, routes, metrics, times."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.metrics import METRICS, PREFIX
from registry.settings import RegistrySettings
from serving.front.openapi.routes import ROUTES
from serving.kubernetes import pod
from serving.kubernetes.export import files
from serving.kubernetes.installation import ADMIN_PORT, GRPC_PORT, HTTP_PORT, PARTS, Installation
from serving.kubernetes.kserve import service_name
from serving.runtime.supervisor import LEAVE_SECONDS, SHUT_DOWN_SECONDS
from serving.settings import ServingSettings
from tests.abilities import needs
from tests.serving.kubernetes.installations import BOTH, FULL, PLAIN, containers, environment, objects, of_kind, one

ROOT = Path(__file__).resolve().parents[3]
EVERY = pytest.mark.parametrize("installation", BOTH.values(), ids=BOTH)


def settings_of(environ: dict[str, str]) -> ServingSettings:
    return ServingSettings.from_environment(environ, run=Path())


@pytest.mark.slow
@EVERY
def test_the_server_takes_the_settings(installation: Installation) -> None:
    environ = environment(installation)
    settings = settings_of(environ)
    assert [str(model) for model in settings.models] == [str(each) for each in installation.references]
    assert {str(model) for model in settings.pinned} == ({"reviews@champion"} if installation is FULL else set())
    assert settings.registry.tracking_uri == installation.mlflow_uri
    assert (settings.admin_port, settings.grpc_port) == (ADMIN_PORT, GRPC_PORT if installation.grpc else 0)
    assert settings.registry.artifact_cache_bytes < installation.disk_gib * 2**30
    assert settings.devices == (("cuda:0", "cuda:1") if installation.gpus else ("auto",))
    asked = {variable for variable in environ if variable.startswith("HEADWAITER_")}
    assert asked <= set(re.findall(r"`(HEADWAITER_\w+)`", (ROOT / "docs/settings.md").read_text(encoding="utf-8")))


@EVERY
def test_only_the_volume_is_written_to(installation: Installation) -> None:
    environ = environment(installation)
    for server in containers(installation):
        mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
        assert [path for path, mount in mounts.items() if not mount.get("readOnly")] == [pod.DATA]
        assert server["securityContext"]["readOnlyRootFilesystem"]
    for variable in ("HEADWAITER_HOME", "HOME", "TMPDIR"):
        assert Path(environ[variable]).is_relative_to(pod.DATA)
    assert environ["HEADWAITER_HOME"] != pod.DATA, "a volume's own folder may belong to others"
    assert RegistrySettings.from_environment(environ).home.parent == Path(pod.DATA)
    assert Path(environ["HEADWAITER_KEYS_FILE"]).parent == Path(pod.KEYS)


@EVERY
def test_volumes_and_mounts_have_the_same_names(installation: Installation) -> None:
    specs = [one(installation, "Deployment")["spec"]["template"]["spec"], one(installation, "ServingRuntime")["spec"]]
    for spec in specs:
        mounted = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


@EVERY
def test_every_pod_keeps_the_restricted_standard(installation: Installation) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, "Restricted"."""
    pods = [one(installation, "Deployment")["spec"]["template"]["spec"]]
    pods += [each["spec"]["predictor"] for each in of_kind(installation, "InferenceService")]
    for spec in pods:
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"]["type"] == "RuntimeDefault"
        assert not spec.get("hostNetwork")
    for server in containers(installation):
        security = server["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
    kinds = {kind for volume in pods[0]["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret"}


@EVERY
def test_probes_ask_routes_of_the_admin_port(installation: Installation) -> None:
    known = {route.path for route in ROUTES}
    for server in containers(installation):
        probes = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {name: probe["path"] for name, probe in probes.items()} == {
            "startup": "/livez",
            "liveness": "/livez",
            "readiness": "/readyz",
        }
        assert {probe["path"] for probe in probes.values()} <= known
        assert {probe["port"] for probe in probes.values()} == {ADMIN_PORT}


@EVERY
def test_a_pod_is_of_the_class_guaranteed(installation: Installation) -> None:
    """In which the server can tell the kernel what to end first where memory runs out."""
    for server in containers(installation):
        requests, limits = server["resources"]["requests"], server["resources"]["limits"]
        assert {name: requests[name] for name in ("cpu", "memory")} == {
            name: limits[name] for name in ("cpu", "memory")
        }
        assert limits["cpu"].isdigit(), "whole cores, as a server rounds its quota down"
        assert limits.get("nvidia.com/gpu") == (str(installation.gpus) if installation.gpus else None)


def policies(installation: Installation) -> list[Any]:
    """What the network policies of `base` and of `kserve` say."""
    found = objects(installation)
    return [found[f"{folder}/network-policy.yaml"]["spec"] for folder in ("base", "kserve")]


@EVERY
def test_ports_meet(installation: Installation) -> None:
    own, of_kserve = containers(installation)
    ports = {port["name"]: port["containerPort"] for port in own["ports"]}
    of_clients = {"http": HTTP_PORT} | ({"grpc": GRPC_PORT} if installation.grpc else {})
    assert ports == {"admin": ADMIN_PORT} | of_clients
    assert [port["containerPort"] for port in of_kserve["ports"]] == [HTTP_PORT]
    assert own["args"][own["args"].index("--port") + 1] == str(HTTP_PORT)
    assert [port["targetPort"] for port in one(installation, "Service")["spec"]["ports"]] == list(of_clients)
    (endpoint,) = one(installation, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert ports[endpoint["port"]] == ADMIN_PORT
    assert endpoint["path"] == "/metrics"
    for policy, expected in zip(policies(installation), (set(ports.values()), {HTTP_PORT, ADMIN_PORT}), strict=True):
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == expected
        asked = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
        assert {53, 443, installation.registry_port} == asked


@EVERY
def test_selectors_find_the_pods_and_names_the_objects(installation: Installation) -> None:
    deployment = one(installation, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [one(installation, "Service")["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]]
    of_pods, of_kserve = [policy["podSelector"] for policy in policies(installation)]
    selectors += [of_pods["matchLabels"]]
    selectors += [
        one(installation, kind)["spec"]["selector"]["matchLabels"] for kind in ("PodMonitor", "PodDisruptionBudget")
    ]
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    targets = [
        one(installation, kind)["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert set(targets) == {deployment["metadata"]["name"]}
    (expression,) = of_kserve["matchExpressions"]
    named = [each["metadata"]["name"] for each in of_kind(installation, "InferenceService")]
    assert sorted(named) == expression["values"], "KServe labels pods with these names"
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    assert account == one(installation, "ServiceAccount")["metadata"]["name"]


def test_pods_of_kserve_are_not_found_by_the_other_service() -> None:
    assert "labels" not in one(PLAIN, "ServingRuntime")["spec"]
    for each in of_kind(PLAIN, "InferenceService"):
        assert "labels" not in each["metadata"]
        assert each["spec"]["predictor"]["model"]["runtime"] == one(PLAIN, "ServingRuntime")["metadata"]["name"]


@EVERY
def test_kserve_serves_each_model_by_itself(installation: Installation) -> None:
    services = of_kind(installation, "InferenceService")
    served = [entry for each in services for entry in each["spec"]["predictor"]["model"]["env"]]
    assert [entry["value"] for entry in served] == [str(each) for each in installation.references]
    assert {entry["name"] for entry in served} == {"HEADWAITER_MODELS"}
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", each["metadata"]["name"]) for each in services)
    assert "HEADWAITER_MODELS" not in {entry["name"] for entry in containers(installation)[1]["env"]}


def test_the_name_of_a_service_is_a_label() -> None:
    assert [service_name(each) for each in FULL.references] == ["reviews", "topic-labels-3", "model-9lives"]


@EVERY
def test_a_pod_is_given_the_time_that_the_server_takes_to_end(installation: Installation) -> None:
    settings = settings_of(environment(installation))
    needed = pod.DRAIN_SECONDS + settings.grace_seconds + SHUT_DOWN_SECONDS + LEAVE_SECONDS
    given = one(installation, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert given >= needed
    assert one(installation, "Deployment")["spec"]["progressDeadlineSeconds"] > settings.load_seconds


def test_the_targets_have_the_job_that_rules_and_scaling_name() -> None:
    label = one(PLAIN, "PodMonitor")["spec"]["jobLabel"]
    job = one(PLAIN, "Deployment")["spec"]["template"]["metadata"]["labels"][label]
    rules = json.dumps(one(PLAIN, "PrometheusRule"))
    query = one(PLAIN, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    assert set(re.findall(r'job=\\?"(\w+)', rules)) == set(re.findall(r'job="(\w+)', query)) == {job}
    assert 'namespace="shop"' in one(FULL, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    assert set(re.findall(rf"{PREFIX}(\w+)", query)) <= set(METRICS)


def test_a_dashboard_is_small_enough_for_kubectl_apply() -> None:
    """Which keeps a copy in an annotation of at most 256 KiB."""
    for dashboard in of_kind(PLAIN, "ConfigMap"):
        assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((name, text),) = dashboard["data"].items()
        assert json.loads(text)["uid"] == name.removesuffix(".json")
        assert len(json.dumps(dashboard)) < 2**18


@EVERY
def test_kustomization_files_list_what_is_there(installation: Installation) -> None:
    written = files(installation)
    for path in (path for path in written if path.endswith("kustomization.yaml")):
        content, folder = yaml.safe_load(written[path]), Path(path).parent
        if path == "kustomization.yaml":
            assert content["resources"] == ["base"]
            assert content.get("components", []) == list(installation.parts)
        else:
            listed = {str(folder / name) for name in content["resources"]}
            assert listed == {name for name in written if Path(name).parent == folder and name != path}
    assert {str(Path(path).parent) for path in written} == {".", "base", "kserve", *PARTS}


@pytest.mark.slow
@needs("kubectl")
@EVERY
def test_kustomize_builds_the_files(tmp_path: Path, installation: Installation) -> None:
    for name, content in files(installation).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    for folder, expected in ((tmp_path, "base"), (tmp_path / "kserve", "kserve")):
        command = ["kubectl", "kustomize", str(folder)]
        built = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        kinds = {content["kind"] for path, content in objects(installation).items() if path.startswith(f"{expected}/")}
        assert kinds <= {content["kind"] for content in built}
        assert {content["metadata"]["namespace"] for content in built} == {installation.namespace}
        for content in built:
            scaled = any(part.endswith("scaling") for part in installation.parts)
            assert content["kind"] != "Deployment" or ("replicas" in content["spec"]) != scaled
