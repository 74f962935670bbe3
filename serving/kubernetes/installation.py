"""What is wanted of a cluster, and the names and sizes that follow from it. Next: pod."""

import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from headwaiter import __version__
from registry.environment import InvalidSetting, settings_of
from registry.references import Reference
from serving.settings import ServingSettings, read_models

NAME = "headwaiter"
"""Of the objects, and the value of the label that selects the pods."""
LABELS = {"app.kubernetes.io/name": NAME}
HTTP_PORT = 3000
ADMIN_PORT = 9000
GRPC_PORT = 8001
"""As Triton has it."""
REGISTRY_SECRET = "headwaiter-registry"  # noqa: S105  # the name of a secret, not a secret
"""Variables of MLflow and of its artifact store, if they need any."""
PARTS = ("prometheus", "cpu-scaling", "queue-scaling")
"""The optional parts: Kustomize components, each in a folder of its name."""
GIB = 2**30
FLEET_REQUESTS = 80
"""Requests/s of all replicas together that the registry has to bear, if no pause were shortened (they are by a tenth on
average): half of what one process of MLflow answers, at 6 ms each."""
POLL_REQUESTS = 1.2
"""Of a poll: for the aliases, and each fifth time for a rollout. With several models one of them is asked for again."""
_DEFAULT_POLL_SECONDS: float = settings_of(ServingSettings)["poll_seconds"].default
Manifest = dict[str, Any]
"""An object of Kubernetes, or a part of one, as its YAML has it."""
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123, as Kubernetes demands of namespaces."""


def poll_seconds(replicas: int, models: int) -> float:
    """Seconds between two reads of the aliases, so that all replicas together keep to FLEET_REQUESTS.

    At least the setting's default. models: how many the installation serves.
    """
    least = replicas * (POLL_REQUESTS + (models > 1)) / FLEET_REQUESTS
    return float(max(_DEFAULT_POLL_SECONDS, math.ceil(least)))


@dataclass(frozen=True)
class Installation:
    """One installation. Raises InvalidSetting for what cannot be.

    models: as `headwaiter serve` takes them. cpu: cores of a pod. memory_gib, disk_gib: of a pod. disk_class: the
    storage class of its disk, empty for the node's own disk. gpus: of a pod. replicas, max_replicas: pods, without and
    with scaling. grpc: whether a pod listens for gRPC, too. mlflow_uri: address of the registry. monitoring_namespace:
    where Prometheus runs. parts: of `PARTS`.
    """

    models: tuple[str, ...]
    namespace: str = NAME
    image: str = f"{NAME}:{__version__}"
    replicas: int = 2
    max_replicas: int = 10
    cpu: int = 4
    memory_gib: int = 8
    gpus: int = 0
    disk_gib: int = 20
    disk_class: str = ""
    grpc: bool = False
    mlflow_uri: str = "http://mlflow.mlflow.svc:5000"
    monitoring_namespace: str = "monitoring"
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.namespace, self.monitoring_namespace):
            if not _DNS_LABEL.fullmatch(name):
                raise InvalidSetting(
                    f"namespace {name!r} is not allowed: use 1 to 63 of a-z 0-9 - and neither start nor end with -"
                )
        if not self.models:
            raise InvalidSetting("nothing to serve: name models with --models NAME[@ALIAS|/VERSION]")
        read_models(self.models)
        if self.max_replicas < self.replicas:
            raise InvalidSetting(
                f"--max-replicas {self.max_replicas} is below --replicas {self.replicas}: raise it, or lower the other"
            )
        if {"cpu-scaling", "queue-scaling"} <= set(self.parts):
            raise InvalidSetting("cpu-scaling and queue-scaling both set the number of replicas: choose one")
        if self.registry_port is None:
            raise InvalidSetting(
                f"MLflow's address {self.mlflow_uri!r} is not allowed: pods share no file, so give http:// or https:// "
                "of a tracking server"
            )
        if "@" in urlsplit(self.mlflow_uri).netloc:
            raise InvalidSetting(
                "MLflow's address has a user or a password, which manifests would show to whoever reads them: put them "
                f"into the secret {REGISTRY_SECRET} as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )

    @property
    def references(self) -> tuple[Reference, ...]:
        """The models, each once."""
        return read_models(self.models)[0]

    @property
    def served(self) -> str:
        """The value of HEADWAITER_MODELS: the models, with a "!" before those that always stay loaded."""
        references, pinned = read_models(self.models)
        return " ".join(f"{'!' * (each in pinned)}{each}" for each in references)

    @property
    def poll_seconds(self) -> float:
        """How often a pod reads the aliases, so that MLflow bears as many pods as there may be."""
        most = self.max_replicas if {"cpu-scaling", "queue-scaling"} & set(self.parts) else self.replicas
        return poll_seconds(most, len(self.references))

    @property
    def registry_port(self) -> int | None:
        """The port of MLflow's address, None if that is no address of HTTP."""
        try:
            parts = urlsplit(self.mlflow_uri)
            default = {"http": 80, "https": 443}.get(parts.scheme)
            return (parts.port or default) if default and parts.hostname else None
        except ValueError:  # a port that is no number
            return None
