"""The objects that every cluster takes: deployment, service, account, disruption budget, network policy."""

from serving.kubernetes.installation import ADMIN_PORT, GRPC_PORT, HTTP_PORT, LABELS, NAME, Installation, Manifest
from serving.kubernetes.pod import (
    container,
    pod_security,
    seconds,
    termination_seconds,
    tolerations,
    volumes,
)

DNS_PORT = 53
HTTPS_PORT = 443


def named(api: str, kind: str, spec: Manifest, name: str = NAME) -> Manifest:
    """An object of this kind with the labels of this project."""
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": LABELS}, "spec": spec}


def objects(installation: Installation) -> dict[str, Manifest]:
    """File → object."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "labels": LABELS}}
    return {
        "service-account.yaml": account | {"automountServiceAccountToken": False},
        "deployment.yaml": _deployment(installation),
        "service.yaml": _service(installation),
        "disruption-budget.yaml": named(
            "policy/v1",
            "PodDisruptionBudget",
            {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": LABELS}},
        ),
        "network-policy.yaml": network_policy(installation, {"matchLabels": LABELS}),
    }


def _deployment(installation: Installation) -> Manifest:
    """A new pod is ready before an old one ends, and is given as long as a version may take to load."""
    pod = {
        "serviceAccountName": NAME,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": termination_seconds(),
        "topologySpreadConstraints": [_spread("topology.kubernetes.io/zone"), _spread("kubernetes.io/hostname")],
        "containers": [container(installation, installation.served)],
        "volumes": volumes(installation),
    }
    spec = {
        "replicas": installation.replicas,
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": seconds("load_seconds") + 300,
        "selector": {"matchLabels": LABELS},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": LABELS}, "spec": pod | tolerations(installation)},
    }
    return named("apps/v1", "Deployment", spec)


def _spread(topology: str) -> Manifest:
    """Over zones or nodes as far as possible; `pod-template-hash` counts the pods of each rollout for themselves."""
    return {
        "maxSkew": 1,
        "topologyKey": topology,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": LABELS},
        "matchLabelKeys": ["pod-template-hash"],
    }


def _service(installation: Installation) -> Manifest:
    """Only the ports for clients. Prometheus and the probes ask each pod by itself."""
    ports: list[Manifest] = [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}]
    if installation.grpc:
        ports.append({"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": "grpc"})
    return named("v1", "Service", {"selector": LABELS, "ports": ports})


def network_policy(installation: Installation, pods: Manifest) -> Manifest:
    """Who may ask a server, and whom it may ask. pods: the selector of the servers' pods.

    Clients show keys, so they may come from anywhere. The admin port is for Prometheus; probes come from the node and
    are always let in.
    """
    monitoring = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": installation.monitoring_namespace}}
    }
    registry = sorted({installation.registry_port or HTTPS_PORT, HTTPS_PORT})
    of_clients = [HTTP_PORT, GRPC_PORT] if installation.grpc else [HTTP_PORT]
    spec = {
        "podSelector": pods,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"ports": [{"protocol": "TCP", "port": port} for port in of_clients]},
            {"from": [monitoring], "ports": [{"protocol": "TCP", "port": ADMIN_PORT}]},
        ],
        "egress": [
            {"ports": [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")]},
            {"ports": [{"protocol": "TCP", "port": port} for port in registry]},
        ],
    }
    return named("networking.k8s.io/v1", "NetworkPolicy", spec)
