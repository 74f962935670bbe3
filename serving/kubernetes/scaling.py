"""Two ways to choose the number of pods: by CPU, with Kubernetes alone, or by queued work, with KEDA and Prometheus.

Either one leaves `replicas` of the deployment to itself.
"""

from monitoring.objectives import Objectives
from monitoring.queries import series
from serving.kubernetes.base import named
from serving.kubernetes.installation import NAME, Installation, Manifest
from serving.kubernetes.pod import seconds

CPU_PERCENT = 70
"""Of the requested CPU, on average over the pods. Untuned."""
WAIT_SECONDS = Objectives().latency_seconds
"""Queued work for each pod, in seconds: what an answer may take, by the objective."""
QUIET_SECONDS = 300
"""How long fewer pods must have been enough before one is taken away."""


def by_cpu(installation: Installation) -> Manifest:
    """A HorizontalPodAutoscaler on CPU."""
    metric = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
        "minReplicas": installation.replicas,
        "maxReplicas": installation.max_replicas,
        "metrics": [{"type": "Resource", "resource": metric}],
        "behavior": _behavior(),
    }
    return named("autoscaling/v2", "HorizontalPodAutoscaler", spec)


def by_queue(installation: Installation) -> Manifest:
    """KEDA's ScaledObject on queued work. Where Prometheus does not answer, the number of pods stays."""
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": f"http://prometheus-operated.{installation.monitoring_namespace}.svc:9090",
            "query": queued_seconds(installation.namespace),
            "threshold": f"{WAIT_SECONDS:g}",
            "ignoreNullValues": "false",
        },
    }
    spec = {
        "scaleTargetRef": {"name": NAME},
        "minReplicaCount": installation.replicas,
        "maxReplicaCount": installation.max_replicas,
        "pollingInterval": 15,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
        "triggers": [trigger],
    }
    return named("keda.sh/v1alpha1", "ScaledObject", spec)


def queued_seconds(namespace: str) -> str:
    """PromQL: how long one pod would need for all that is queued in all pods, in seconds.

    A version's queue holds what its engines compute in HEADWAITER_QUEUE_SECONDS, by the tokens/s that they measured. So
    the share of it that is filled, times these seconds, is work in seconds, whatever model and hardware.
    """
    of = f'job="{NAME}",namespace="{namespace}"'
    queued = f"sum by (model, version) ({series('queue_tokens', of)})"
    limit = f"avg by (model, version) ({series('queue_limit_tokens', of)} > 0)"
    return f"sum({queued} / {limit}) * {seconds('queue_seconds')}"


def _behavior() -> Manifest:
    """At most twice as many pods, or two more, each minute; one pod less each minute after a quiet time."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 60},
                {"type": "Pods", "value": 2, "periodSeconds": 60},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": QUIET_SECONDS,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }
