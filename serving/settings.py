"""The server's settings: flags become `HEADWAITER_*` variables, read once in each process and refused loudly."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.references import Reference
from registry.settings import InvalidSetting, RegistrySettings
from serving.runtime.limits import own_groups, usable_cores

CORES_OF_A_FRONT = 4
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ServingSettings:
    """Everything that can be set about a server. Times are in seconds, sizes in bytes or tokens.

    models: what to serve. deployments: whether to serve what the registry marks as deployed, too. workers: front
    processes, one for each four cores if not set. devices: "auto" or torch device names; one engine each. dtype:
    "auto" or the one to serve in. poll_seconds: how often aliases are read. keep_previous: versions that stay
    loaded behind an alias' live one; keep_bytes: what those may take together, 0 for no bound. replace_live:
    whether the live version stops before one loads for which there is no memory beside it; nothing of that model
    answers meanwhile. retry_seconds: after which a version that failed to load is first tried again.
    webhook_secret: of MLflow's webhook, empty for none. timeout_seconds: a request's deadline. grace_seconds: how
    long the manager or all engines of a live model may be gone before liveness fails, and how long shutdown waits
    for accepted requests. load_seconds: how long a version may take to load. queue_tokens: bound of an engine's
    queue, 0 for what the engine computes in `queue_seconds`. max_body_bytes, max_rows: bounds of one request.
    threads: of an engine on a CPU, 0 for all cores. cache_bytes: of the keys and values of texts that one engine
    writes, 0 for a share of what is free. slow_seconds: requests that take longer are logged. log_inputs: whether
    logged requests show what was asked. fast_path: whether plain requests may pass ASGI by. run: folder of sockets and
    the routing table. server: id of the process that all others end with.
    """

    registry: RegistrySettings
    models: tuple[Reference, ...]
    run: Path
    server: int
    deployments: bool = False
    workers: int = 1
    devices: tuple[str, ...] = ("auto",)
    dtype: str = "auto"
    poll_seconds: float = 2.0
    keep_previous: int = 1
    keep_bytes: int = 0
    replace_live: bool = False
    retry_seconds: float = 30.0
    webhook_secret: str = field(default="", repr=False)
    timeout_seconds: float = 30.0
    grace_seconds: float = 30.0
    load_seconds: float = 600.0
    queue_tokens: int = 0
    queue_seconds: float = 10.0
    max_body_bytes: int = 8 * 1024 * 1024
    max_rows: int = 1024
    threads: int = 0
    cache_bytes: int = 0
    slow_seconds: float = 1.0
    log_inputs: bool = False
    fast_path: bool = True

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, instance: int | None = None
    ) -> "ServingSettings":
        """Read and check the settings; raises InvalidSetting, which names variable, value and rule.

        instance: what the processes of one server share, their common parent's id by default; names the run folder.
        """
        registry = RegistrySettings.from_environment(environ)
        read = _Reader(environ)
        server = os.getppid() if instance is None else instance
        run = registry.home / "run" / str(server)
        if len(str(run)) > 70:
            raise InvalidSetting(
                f"HEADWAITER_HOME={registry.home} is too long: a socket's path may have 107 bytes, so choose a folder "
                "whose path has at most 50"
            )
        devices = tuple(part.strip() for part in environ.get("HEADWAITER_DEVICE", "auto").split(",") if part.strip())
        models = environ.get("HEADWAITER_MODELS", "").split()
        return cls(
            registry=registry,
            run=run,
            server=server,
            deployments=read.choice("DEPLOYMENTS", ("0", "1")) == "1",
            models=tuple(dict.fromkeys(Reference.parse(model) for model in models)),
            devices=devices or ("auto",),
            dtype=read.choice("DTYPE", DTYPES),
            workers=read.number("WORKERS", int, default_workers(environ), 1, 256),
            poll_seconds=read.number("POLL_SECONDS", float, cls.poll_seconds, 0.05, 3600),
            keep_previous=read.number("KEEP_PREVIOUS", int, cls.keep_previous, 0, 100),
            keep_bytes=read.number("KEEP_BYTES", int, cls.keep_bytes, 0, 2**50),
            replace_live=read.choice("REPLACE_LIVE", ("0", "1")) == "1",
            retry_seconds=read.number("RETRY_SECONDS", float, cls.retry_seconds, 0.1, 86400),
            webhook_secret=environ.get("HEADWAITER_WEBHOOK_SECRET", ""),
            timeout_seconds=read.number("TIMEOUT_SECONDS", float, cls.timeout_seconds, 0.001, 3600),
            grace_seconds=read.number("GRACE_SECONDS", float, cls.grace_seconds, 0.1, 3600),
            load_seconds=read.number("LOAD_SECONDS", float, cls.load_seconds, 1, 86400),
            queue_tokens=read.number("QUEUE_TOKENS", int, cls.queue_tokens, 0, 10**9),
            queue_seconds=read.number("QUEUE_SECONDS", float, cls.queue_seconds, 0.01, 3600),
            max_body_bytes=read.number("MAX_BODY_BYTES", int, cls.max_body_bytes, 1024, 2**31),
            max_rows=read.number("MAX_ROWS", int, cls.max_rows, 1, 10**6),
            threads=read.number("THREADS", int, cls.threads, 0, 1024),
            cache_bytes=read.number("CACHE_BYTES", int, cls.cache_bytes, 0, 2**50),
            slow_seconds=read.number("SLOW_SECONDS", float, cls.slow_seconds, 0.001, 3600),
            log_inputs=read.choice("LOG_INPUTS", ("0", "1")) == "1",
            fast_path=read.choice("FAST_PATH", ("1", "0")) == "1",
        )


def default_workers(environ: Mapping[str, str] = os.environ) -> int:
    """One front process for each four cores that may be used, as an engine takes several times as much; at most 8."""
    cores, _ = usable_cores(own_groups(), environ)
    return max(1, min(8, cores // CORES_OF_A_FRONT))


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ

    def number(self, key: str, kind: Callable[[str], Any], default: Any, low: float, high: float) -> Any:
        text = self.environ.get(f"HEADWAITER_{key}", "").strip()
        if not text:
            return default
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            noun = "a whole number" if kind is int else "a number"
            raise InvalidSetting(f"HEADWAITER_{key}={text!r} is not allowed: give {noun} from {low} to {high}")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.environ.get(f"HEADWAITER_{key}", "").strip() or choices[0]
        if value not in choices:
            raise InvalidSetting(f"HEADWAITER_{key}={value!r} is not allowed: choose one of {', '.join(choices)}")
        return value
