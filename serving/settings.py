"""The server's settings, declared once: flags become `HEADWAITER_*` variables, read once in each process."""

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from registry.contract import Dtype
from registry.environment import read_settings
from registry.extras import how_to_install
from registry.references import Reference
from registry.settings import InvalidSetting, RegistrySettings
from serving.runtime.limits import Limits
from serving.runtime.run_folder import RUN_VARIABLE, check_home
from serving.setting_values import (
    default_hosts,
    default_workers,
    read_address,
    read_devices,
    read_hosts,
    read_origins,
    read_path,
)

MEMORY_SHARE = 0.8
"""Of the memory that may be used: what engines may take together. The rest is for fronts, manager and system."""
DEFAULT_BODY_BYTES = 8 * 2**20
FILES = ("keys_file", "audit_file", "tls_cert", "tls_key", "tls_client_ca")
"""Settings that name a file."""
ADDRESSES = ("prometheus_url", "grafana_url")
"""Settings that are addresses of other servers."""
UNSHOWN = ("webhook_secret", "prometheus_url", "grafana_url", "grafana_token")
"""Settings that are secret, or may have a password in them."""


class ServingSettings(msgspec.Struct, frozen=True):
    """Everything that can be set about a server. Times are in seconds, sizes in bytes or tokens.

    run: folder of sockets and the routing table, see `serving.runtime.run_folder`. pinned: those of `models` whose
    live versions always stay loaded.
    """

    registry: RegistrySettings
    models: Annotated[
        tuple[Reference, ...],
        Meta(
            description="What to serve, separated by spaces: NAME, NAME@ALIAS or NAME/VERSION, and ! before one that "
            "always stays loaded."
        ),
    ]
    run: Path
    pinned: frozenset[Reference] = frozenset()
    deployments: Annotated[bool, Meta(description="1: also serve what the registry marks as deployed.")] = False
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Front processes.",
            extra={"default": "one for each four cores, at most 8", "derive": default_workers},
        ),
    ] = 1
    devices: Annotated[
        tuple[str, ...],
        Meta(
            description="auto (a GPU where there is one), cpu, cuda, or several as cuda:0,cuda:1, with one engine "
            "each.",
            extra={"variable": "HEADWAITER_DEVICE", "default": "auto"},
        ),
    ] = ("auto",)
    replicas: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Engines of each version on each device.",
        ),
    ] = 1
    dtype: Annotated[
        Dtype,
        Meta(
            description="The dtype to serve in; auto: int8 where the contract allows it and it is faster, "
            "bfloat16 where the hardware has it and the contract's example agrees, else float32."
        ),
    ] = "auto"
    poll_seconds: Annotated[float, Meta(ge=0.05, le=3600, description="How often the aliases are read.")] = 2.0
    keep_previous: Annotated[
        int, Meta(ge=0, le=100, description="Previous versions that stay loaded behind an alias' live version.")
    ] = 1
    keep_bytes: Annotated[
        int, Meta(ge=0, le=2**50, description="Memory that previous versions may take together; 0: no bound.")
    ] = 0
    replace_live: Annotated[
        bool,
        Meta(
            description="1: where there is no memory for a new version beside the live one, the live one stops first; "
            "nothing of that model answers meanwhile."
        ),
    ] = False
    memory_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="Memory that all engines may take together; versions for which there is none are loaded once "
            "they are asked for; 0: 80 % of the memory that may be used.",
        ),
    ] = 0
    gpu_memory_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="Memory of one GPU that engines may take together, once one engine there has been measured; "
            "0: 80 % of it.",
        ),
    ] = 0
    idle_unload_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=2**30,
            description="How long a version that nobody asks for stays loaded; 0: for good, where there is memory.",
        ),
    ] = 0
    retry_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86400,
            description="Pause before a version that failed to load is first tried again; later pauses are longer.",
        ),
    ] = 30.0
    webhook_secret: Annotated[
        str, Meta(description="Secret of MLflow's webhook; without it /hooks/mlflow is closed.")
    ] = ""
    prometheus_url: Annotated[
        str, Meta(description="Address of a Prometheus, as http://localhost:9090, for guards that are queries.")
    ] = ""
    grafana_url: Annotated[
        str, Meta(description="Address of a Grafana, in which steps and ends of rollouts are annotated.")
    ] = ""
    grafana_token: Annotated[
        str, Meta(description="Token of a service account of Grafana that may write annotations.")
    ] = ""
    timeout_seconds: Annotated[
        float,
        Meta(ge=0.001, le=3600, description="A request's deadline; of a stream, the longest time between two tokens."),
    ] = 30.0
    grace_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="How long the manager, or the engines of all live versions, may be gone before liveness fails, "
            "and how long shutdown waits for accepted requests.",
        ),
    ] = 30.0
    hang_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=86400,
            description="How long an engine may stand still, without using a processor, before it is replaced; fronts "
            "and the manager may for HEADWAITER_GRACE_SECONDS, if that is longer.",
        ),
    ] = 5.0
    load_seconds: Annotated[float, Meta(ge=1, le=86400, description="How long a version may take to load.")] = 600.0
    queue_tokens: Annotated[
        int,
        Meta(
            ge=0,
            le=10**9,
            description="Tokens that an engine's queue holds; a generated text counts with its prompt and "
            "max_new_tokens; 0: by HEADWAITER_QUEUE_SECONDS.",
        ),
    ] = 0
    queue_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="The most bytes of the rows in an engine's queue, of which each front process has an equal "
            "share.",
        ),
    ] = 0
    queue_seconds: Annotated[
        float, Meta(ge=0.01, le=3600, description="An engine's queue holds what the engine computes in this time.")
    ] = 10.0
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**31, description="Size of a request's body.")] = (
        DEFAULT_BODY_BYTES
    )
    max_answer_bytes: Annotated[
        int, Meta(ge=2**20, le=2**40, description="Memory that one answer may take in a front while it is written.")
    ] = 128 * 2**20
    max_connections: Annotated[int, Meta(ge=1, le=10**6, description="Requests in progress on one front process.")] = (
        2048
    )
    client_seconds: Annotated[
        float,
        Meta(
            ge=0.05,
            le=3600,
            description="How long a client may take for a request's headers; in each such time it must also send "
            "1 KiB/s of a body, and read as much of an answer.",
        ),
    ] = 10.0
    buffer_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="Bytes of bodies and unread answers that one front process holds; 0: 16 times "
            "HEADWAITER_MAX_BODY_BYTES.",
        ),
    ] = 0
    max_rows: Annotated[int, Meta(ge=1, le=10**6, description="Inputs of a request.")] = 1024
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads of an engine on a CPU; 0: the cores that may be used.")
    ] = 0
    cache_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="Key-value cache of a generating engine, a quarter of it for shared prefixes; 0: on a CPU "
            "1 GiB, or a tenth of the free memory if that is less; on a GPU half of its free memory.",
        ),
    ] = 0
    slow_seconds: Annotated[
        float, Meta(ge=0.001, le=3600, description="Requests that take longer are logged with their stages.")
    ] = 1.0
    log_inputs: Annotated[bool, Meta(description="1: the log lines of slow and failed requests show the inputs.")] = (
        False
    )

    keys_file: Annotated[
        Path | None,
        Meta(
            description="The file of keys that headwaiter keys writes; with it every request needs a key, without it "
            "none does.",
            extra={"default": ""},
        ),
    ] = None
    insecure: Annotated[
        bool, Meta(description="1: a server without keys may listen where other machines reach it.")
    ] = False
    audit_file: Annotated[
        Path | None,
        Meta(
            description="The audit log: who asked what, a JSON object a line.",
            extra={"default": ""},
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        Meta(description="The certificate of a server with TLS, in PEM with its chain.", extra={"default": ""}),
    ] = None
    tls_key: Annotated[
        Path | None, Meta(description="The certificate's key in PEM, not encrypted.", extra={"default": ""})
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Meta(
            description="Authorities in PEM: only clients with a certificate of one of them connect.",
            extra={"default": ""},
        ),
    ] = None
    admin_port: Annotated[
        int,
        Meta(ge=0, le=65535, description="A port for /metrics, /livez and /readyz, which need no key there; 0: none."),
    ] = 0
    grpc_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="A port for the Open Inference Protocol over gRPC; needs pip install '.[grpc]'; 0: none.",
        ),
    ] = 0
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Host names that requests may be sent to, separated by spaces; *: all.",
            extra={"default": "this machine's own; with keys or HEADWAITER_INSECURE=1 all", "derive": default_hosts},
        ),
    ] = ("*",)
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins whose pages may read answers, as https://app.example.com, separated by spaces; *: "
            "all.",
            extra={"default": ""},
        ),
    ] = ()
    fast_path: Annotated[
        bool,
        Meta(
            description="0: every request takes ASGI; 1: a plain POST /models/… goes from uvicorn's parser to the "
            "protocol without ASGI."
        ),
    ] = True

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in UNSHOWN)
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def worker_hang_seconds(self) -> float:
        """How long a front or the manager may stand still before it is killed."""
        return max(self.grace_seconds, self.hang_seconds)

    @property
    def engine_devices(self) -> tuple[str, ...]:
        """The devices of a version's engines, one entry an engine."""
        return self.devices * self.replicas

    def memory_bound(self, limits: Limits) -> int:
        """What engines may take together, in bytes."""
        return self.memory_bytes or int(MEMORY_SHARE * limits.memory_bytes)

    @property
    def drain_seconds(self) -> float:
        """How long a version that leaves may take for the requests that it has."""
        return self.timeout_seconds + 5

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, run: Path | None = None) -> "ServingSettings":
        """Read and check the settings; raises InvalidSetting, which names variable, value and rule.

        run: the server's run folder; by default the one that the server process has told this one.
        """
        registry = RegistrySettings.from_environment(environ)
        if run is None and not environ.get(RUN_VARIABLE):
            raise InvalidSetting("this process belongs to no server: use `headwaiter serve` or `bentoml serve`")
        check_home(registry.home)
        read = read_settings(cls, environ)
        if read["grpc_port"] and find_spec("hpack") is None:
            raise InvalidSetting(f"HEADWAITER_GRPC_PORT needs hpack and protobuf: {how_to_install('grpc')}")
        models, pinned = read_models((read.pop("models") or "").split())
        devices = read_devices(read.pop("devices"))
        origins = read_origins(read.pop("cors_origins") or "")
        hosts = read_hosts(read.pop("allowed_hosts")) or default_hosts(environ)
        read |= {name: read_path(read[name]) for name in FILES}
        read["grafana_token"] = (read["grafana_token"] or "").strip()
        for name in ADDRESSES:
            read[name] = read_address(f"HEADWAITER_{name.upper()}", read[name])
        return cls(
            registry=registry,
            run=Path(environ[RUN_VARIABLE]) if run is None else run,
            models=models,
            pinned=pinned,
            devices=devices,
            allowed_hosts=hosts,
            cors_origins=origins,
            **read,
        )


def read_models(words: Iterable[str]) -> tuple[tuple[Reference, ...], frozenset[Reference]]:
    """The references that are named, and those with a "!" before them. Raises InvalidSetting."""
    named = [(Reference.parse(word.removeprefix("!")), word.startswith("!")) for word in words]
    return tuple(dict.fromkeys(reference for reference, _ in named)), frozenset(found for found, pin in named if pin)
