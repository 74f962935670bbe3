"""The command that looks at the machine before a server does, and its checks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from monitoring.gpus import Gpu
    from serving.runtime.limits import Limits

State = Literal["ok", "note", "wrong"]
"""note: it works, and something would make it faster or safer. wrong: a server would not work."""
GIB = 2**30
MIN_MEMORY_BYTES = 2 * GIB
"""Below this a server has little room. Untuned: front, manager and engine of a small model take about 1.2 GiB."""
MULTIPLIES_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Processor features with which bfloat16 is faster than float32."""


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    state: State
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
    return Finding("packages", "ok", f"headwaiter {version(name)} and all that it needs")


def check_torch(found: str, gpus: "Sequence[Gpu]") -> Finding:
    """Whether torch's build is that of the machine. found: its version, as `2.13.0+cpu`."""
    is_for_cpu = found.endswith("+cpu")
    if gpus and is_for_cpu:
        advice = "install the build of torch for CUDA, or models run on the processor"
        return Finding("torch", "note", f"torch {found}, and {len(gpus)} GPUs", advice)
    return Finding("torch", "ok", f"torch {found}")


def check_processor(name: str, flags: Sequence[str], limits: "Limits") -> Finding:
    """How many cores there are, and whether they multiply bfloat16."""
    found = f"{name or 'unknown processor'}, {limits.cores} of {limits.machine_cores} cores, {' '.join(flags)}"
    if limits.cores < 2:
        advice = f"one core ({limits.cores_by}) is shared by fronts and engines: allow a second one"
        return Finding("processor", "note", found, advice)
    if not set(flags) & set(MULTIPLIES_BFLOAT16):
        advice = "models run in float32 here; processors with AMX or AVX-512 BF16 are several times as fast in bfloat16"
        return Finding("processor", "note", found, advice)
    return Finding("processor", "ok", found)


def check_memory(limits: "Limits") -> Finding:
    """How much memory a server may use."""
    found = (
        f"{limits.memory_bytes / GIB:.1f} GiB ({limits.memory_by}), {limits.available_bytes / GIB:.1f} GiB of it free"
    )
    if limits.available_bytes < MIN_MEMORY_BYTES:
        return Finding("memory", "note", found, f"have {MIN_MEMORY_BYTES / GIB:.0f} GiB free, more for large models")
    return Finding("memory", "ok", found)


def check_gpus(gpus: "Sequence[Gpu]") -> Finding:
    """The GPUs that answer."""
    found = ", ".join(f"cuda:{gpu.name} with {gpu.total_bytes / GIB:.0f} GiB" for gpu in gpus)
    return Finding("GPU", "ok", found or "none: models run on the processor")


def check_registry() -> Finding:
    """Whether the settings are good and the registry answers."""
    from registry.environment import InvalidSetting
    from registry.errors import RegistryError
    from registry.settings import RegistrySettings
    from registry.tracking import connect, registry_errors

    try:
        settings = RegistrySettings.from_environment()
        with registry_errors("the registry"):
            connect(settings).search_registered_models(max_results=1)
    except (RegistryError, InvalidSetting) as error:
        return Finding("registry", "wrong", str(error), "set MLFLOW_TRACKING_URI, or see that it is up")
    return Finding("registry", "ok", "it answers")


def check_port(port: int) -> Finding:
    """Whether a server can listen at the port of 127.0.0.1."""
    from registry.environment import InvalidSetting
    from serving.runtime.address import check_address

    try:
        check_address("127.0.0.1", port)
    except InvalidSetting as error:
        return Finding("port", "wrong", str(error), "end what listens there, or give serve another --port")
    return Finding("port", "ok", f"{port} is free")


def examine(port: int) -> Iterator[Finding]:
    """All checks. Blocks for some seconds at most, unless the registry is slow."""
    from monitoring.gpus import read_gpus
    from serving.runtime.limits import read_limits
    from serving.runtime.machine import CPUINFO, read_processor

    limits, gpus = read_limits(), read_gpus()
    yield check_packages()
    yield check_torch(version("torch"), gpus)
    yield check_processor(*read_processor(CPUINFO.read_text() if CPUINFO.exists() else ""), limits)
    yield check_memory(limits)
    yield check_gpus(gpus)
    yield check_registry()
    yield check_port(port)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Where to listen later.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(port: int, as_json: bool) -> None:
    """Check this machine: packages, torch's build, processor, memory, GPUs, registry, port; and what would help."""
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
