"""The container of a server with its probes, and the volumes of its pod. Next: base, kserve."""

from math import ceil

from registry.environment import settings_of
from registry.settings import RegistrySettings
from serving.kubernetes.installation import (
    ADMIN_PORT,
    GIB,
    GRPC_PORT,
    HTTP_PORT,
    LABELS,
    REGISTRY_SECRET,
    Installation,
    Manifest,
)
from serving.runtime.supervisor import LEAVE_SECONDS, SHUT_DOWN_SECONDS
from serving.settings import ServingSettings

USER = 10001
"""Of the image."""
DATA = "/data"
"""Where the one writable volume is mounted."""
KEYS = "/run/headwaiter-keys"
KEYS_FILE = "keys.json"
KEYS_SECRET = "headwaiter-keys"  # noqa: S105  # the name of a secret, not a secret
ARTIFACT_SHARE = 0.8
"""Of the disk, for the cache of artifacts. The rest is for run state and temporary files. Untuned."""
DRAIN_SECONDS = 10
"""Between a pod's removal from its services and SIGTERM, in which proxies learn of it. Untuned."""
START_SECONDS = 300
"""How long the processes may take to listen, on a busy node with a cold disk. Untuned."""

_SERVING = settings_of(ServingSettings)
_REGISTRY = settings_of(RegistrySettings)


def seconds(field: str) -> int:
    """A setting's default, in whole seconds."""
    return int(_SERVING[field].default)


def container(installation: Installation, models: str, name: str = "headwaiter") -> Manifest:
    """The server's container. models: the value of HEADWAITER_MODELS.

    Startup and liveness ask /livez, which does not wait for models: a registry that is away restarts nothing. Readiness
    asks /readyz, which waits for the models that were live when the server started.
    """
    ports = {"http": HTTP_PORT, "admin": ADMIN_PORT} | ({"grpc": GRPC_PORT} if installation.grpc else {})
    return {
        "name": name,
        "image": installation.image,
        "args": ["serve", "--host", "0.0.0.0", "--port", str(HTTP_PORT)],  # noqa: S104  # a pod has an address of its own
        "env": [{"name": name, "value": value} for name, value in environment(installation, models).items()],
        "envFrom": [{"secretRef": {"name": REGISTRY_SECRET, "optional": True}}],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "startupProbe": _probe("/livez", every=5, failures=START_SECONDS // 5),
        "livenessProbe": _probe("/livez", every=10, failures=3),
        "readinessProbe": _probe("/readyz", every=5, failures=2),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        "resources": resources(installation),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": DATA},
            {"name": "keys", "mountPath": KEYS, "readOnly": True},
        ],
    }


def environment(installation: Installation, models: str) -> dict[str, str]:
    """The settings of the server: variable → value."""
    found = {
        _REGISTRY["home"].variable: f"{DATA}/headwaiter",
        _REGISTRY["artifact_cache_bytes"].variable: str(int(installation.disk_gib * GIB * ARTIFACT_SHARE)),
        _REGISTRY["tracking_uri"].variable: installation.mlflow_uri,
        _SERVING["models"].variable: models,
        _SERVING["poll_seconds"].variable: f"{installation.poll_seconds:g}",
        _SERVING["keys_file"].variable: f"{KEYS}/{KEYS_FILE}",
        _SERVING["admin_port"].variable: str(ADMIN_PORT),
        "HOME": DATA,
        "TMPDIR": DATA,
    }
    if installation.grpc:
        found[_SERVING["grpc_port"].variable] = str(GRPC_PORT)
    if installation.gpus:
        devices = ",".join(f"cuda:{index}" for index in range(installation.gpus))
        found[_SERVING["devices"].variable] = devices
    return found


def resources(installation: Installation) -> Manifest:
    """Requests and limits of the container.

    Those of CPU and memory are the same: a server has as many threads as its CPU quota has cores, and can rank its
    processes for the kernel's killer only in a pod of the class "Guaranteed".
    """
    bounds: Manifest = {"cpu": str(installation.cpu), "memory": f"{installation.memory_gib}Gi"}
    if installation.gpus:
        bounds["nvidia.com/gpu"] = str(installation.gpus)
    disk = {} if installation.disk_class else {"ephemeral-storage": f"{installation.disk_gib}Gi"}
    return {"requests": bounds | disk, "limits": dict(bounds)}


def volumes(installation: Installation) -> list[Manifest]:
    """The writable volume and the keys.

    Each pod has a disk of its own, because the sockets of a server are on it.
    """
    size = f"{installation.disk_gib}Gi"
    claim = {
        "metadata": {"labels": LABELS},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": installation.disk_class,
            "resources": {"requests": {"storage": size}},
        },
    }
    data = (
        {"ephemeral": {"volumeClaimTemplate": claim}} if installation.disk_class else {"emptyDir": {"sizeLimit": size}}
    )
    return [
        {"name": "data"} | data,
        {"name": "keys", "secret": {"secretName": KEYS_SECRET, "defaultMode": 0o440}},
    ]


def pod_security() -> Manifest:
    """The pod's part of Kubernetes' "restricted" standard; the container has the rest."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def termination_seconds() -> int:
    """How long a pod may take to end: until proxies know, accepted requests are answered and engines have ended."""
    return DRAIN_SECONDS + seconds("grace_seconds") + ceil(SHUT_DOWN_SECONDS + LEAVE_SECONDS)


def tolerations(installation: Installation) -> Manifest:
    """The field by which pods may run on nodes that are kept for GPUs; empty without any."""
    if not installation.gpus:
        return {}
    return {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}


def _probe(path: str, every: int, failures: int) -> Manifest:
    """By number and not by name of the port: KServe's containers declare only one."""
    return {
        "httpGet": {"path": path, "port": ADMIN_PORT},
        "periodSeconds": every,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
