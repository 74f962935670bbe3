"""The command that looks at the machine before a server does, and its checks."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from serving.commands import options

if TYPE_CHECKING:
    from monitoring.gpus import Gpu
    from serving.runtime.limits import Limits

Grade = Literal["ok", "note", "wrong"]
"""note: it works, and something would make it faster or safer. wrong: a server would not work."""
GIB = 2**30
MIN_MEMORY_BYTES = 2 * GIB
"""Below this a server has little room. Untuned: front, manager and engine of a small model take about 1.2 GiB."""
MULTIPLIES_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Processor features with which bfloat16 is faster than float32."""
SHOWN_PACKAGES = ("bentoml", "mlflow", "transformers")
"""Those whose versions decide how a server behaves; torch has a line of its own."""
SLOW_SECONDS = 1.0
"""A registry that takes longer delays version changes. Untuned: one nearby answers in some 10 ms."""


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    state: Grade
    found: str
    advice: str = ""


def check_packages(name: str = "headwaiter") -> Finding:
    """Whether the packages that `name` needs are installed in versions that it allows."""
    from packaging.requirements import Requirement

    wrong = []
    for text in distribution(name).requires or []:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is not installed")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{needed.name} {found} is not {needed.specifier}")
    if wrong:
        return Finding("packages", "wrong", "; ".join(wrong), "install headwaiter again, with its constraints.txt")
    shown = ", ".join(f"{package} {version(package)}" for package in (name, *SHOWN_PACKAGES))
    return Finding("packages", "ok", f"{shown}, and all that it needs; Python {platform.python_version()}")


def check_torch(found: str, gpus: "Sequence[Gpu]") -> Finding:
    """Whether torch's build is that of the machine. found: its version, as `2.13.0+cpu`."""
    is_for_cpu = found.endswith("+cpu")
    if gpus and is_for_cpu:
        advice = "install the build of torch for CUDA, or models run on the processor"
        return Finding("torch", "note", f"torch {found}, and {len(gpus)} GPUs", advice)
    return Finding("torch", "ok", f"torch {found}")


def check_processor(
    name: str, flags: Sequence[str], limits: "Limits", environ: Mapping[str, str] = os.environ
) -> Finding:
    """How many cores there are, whether they multiply bfloat16, and what keeps torch from using them."""
    from serving.runtime.machine import INSTRUCTION_VARIABLES

    cores = f"{limits.cores} of {limits.machine_cores} cores ({limits.cores_by})"
    advice = []
    if limits.cores < 2:
        advice.append(f"one core ({limits.cores_by}) is shared by fronts and engines: allow a second one")
    if not set(flags) & set(MULTIPLIES_BFLOAT16):
        advice.append(
            "models run in float32 here; processors with AMX or AVX-512 BF16 are several times as fast in bfloat16"
        )
    if limiting := [f"{variable}={environ[variable]}" for variable in INSTRUCTION_VARIABLES if environ.get(variable)]:
        advice.append(f"{', '.join(limiting)} may keep torch from using all of the processor: unset it")
    found = f"{name or 'unknown processor'}, {cores}, {' '.join(flags)}"
    return Finding("processor", "note" if advice else "ok", found, "; ".join(advice))


def check_memory(limits: "Limits") -> Finding:
    """How much memory a server may use."""
    found = (
        f"{limits.memory_bytes / GIB:.1f} GiB ({limits.memory_by}), {limits.available_bytes / GIB:.1f} GiB of it free"
    )
    if limits.available_bytes < MIN_MEMORY_BYTES:
        return Finding("memory", "note", found, f"have {MIN_MEMORY_BYTES / GIB:.0f} GiB free, more for large models")
    return Finding("memory", "ok", found)


def check_gpus(gpus: "Sequence[Gpu]") -> Finding:
    """The GPUs that answer, and how much of their memory is free."""
    found = ", ".join(
        f"cuda:{gpu.name} with {gpu.total_bytes / GIB:.0f} GiB, {(gpu.total_bytes - gpu.used_bytes) / GIB:.0f} free"
        for gpu in gpus
    )
    return Finding("GPU", "ok", found or "none: models run on the processor")


def check_settings(environ: Mapping[str, str] = os.environ) -> Finding:
    """Whether a server takes the variables that are set."""
    from registry.environment import PREFIX, InvalidSetting
    from serving.settings import ServingSettings

    try:
        ServingSettings.from_environment(environ, run=Path())
    except InvalidSetting as error:
        return Finding("settings", "wrong", str(error), "correct the variable, or unset it")
    names = sorted(name for name in environ if name.startswith(PREFIX))  # no values: some are secret
    return Finding("settings", "ok", ", ".join(names) or f"no {PREFIX} variable is set")


def check_registry(slow_seconds: float = SLOW_SECONDS) -> Finding:
    """Whether the registry answers, and how fast."""
    from registry.environment import InvalidSetting
    from registry.errors import RegistryError
    from registry.redaction import redact
    from registry.settings import RegistrySettings
    from registry.tracking import connect, registry_errors

    try:
        settings = RegistrySettings.from_environment()
        with registry_errors("the registry"):
            client = connect(settings)
            began = time.monotonic()
            client.search_registered_models(max_results=1)
    except (RegistryError, InvalidSetting) as error:
        return Finding("registry", "wrong", str(error), "set MLFLOW_TRACKING_URI, or see that it is up")
    seconds = time.monotonic() - began
    found = f"{redact(settings.registry_address)} answers in {seconds * 1000:.0f} ms"
    if seconds > slow_seconds:
        return Finding("registry", "note", found, "version changes wait for it: run it nearer, or on a faster database")
    return Finding("registry", "ok", found)


def check_ports(port: int, further: Mapping[str, int]) -> Finding:
    """Whether a server can listen at the ports of 127.0.0.1. further: variable → port, 0 for none."""
    from registry.environment import InvalidSetting
    from serving.runtime.address import check_address, check_further_ports

    try:
        check_address("127.0.0.1", port)
        check_further_ports("127.0.0.1", port, further)
    except InvalidSetting as error:
        return Finding("port", "wrong", str(error), "end what listens there, or give serve another --port")
    ports = [str(each) for each in (port, *further.values()) if each]
    return Finding("port", "ok", f"{' and '.join(ports)} {'are' if len(ports) > 1 else 'is'} free")


def examine(port: int) -> Iterator[Finding]:
    """All checks. Blocks for some seconds at most, unless the registry is slow."""
    from monitoring.gpus import read_gpus
    from registry.environment import InvalidSetting, settings_of
    from serving.runtime.limits import read_limits
    from serving.runtime.machine import CPUINFO, read_processor
    from serving.settings import ServingSettings

    limits, gpus = read_limits(), read_gpus()
    yield check_packages()
    yield check_torch(version("torch"), gpus)
    yield check_processor(*read_processor(CPUINFO.read_text() if CPUINFO.exists() else ""), limits)
    yield check_memory(limits)
    yield check_gpus(gpus)
    yield check_settings()
    yield check_registry()
    with suppress(InvalidSetting):  # which the settings' own check tells
        known = [settings_of(ServingSettings)[name] for name in ("admin_port", "grpc_port")]
        yield check_ports(port, {each.variable: each.read(os.environ) for each in known})


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Where to listen later.")
@options.as_json
def doctor(port: int, as_json: bool) -> None:
    """Check this machine: packages, torch's build, processor, memory, GPUs, settings, registry and ports.

    Says what would help. Exits with status 1 if a server would not work.
    """
    found = list(examine(port))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    else:
        for finding in found:
            click.echo(f"{finding.state:5}  {finding.check:9}  {finding.found}")
            if finding.advice:
                click.echo(f"{'':18}→ {finding.advice}")
    if any(finding.state == "wrong" for finding in found):
        raise SystemExit(1)
