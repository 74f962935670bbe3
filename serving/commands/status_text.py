"""The text of `headwaiter status`, made from the JSON of `GET /models`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Described = Mapping[str, Any]
"""A part of what a server tells of itself."""
STATES = {"unloaded": "ready, not loaded"}
"""What a state is called, unless by its own name."""
SHOWN_SWAPS = 5
"""The latest ones of each model; the JSON has more."""


def render_status(found: Described, now: float) -> str:
    """The text, without a line break at its end. found: `GET /models`. now: seconds since the epoch."""
    parts = [_machine(found["machine"])] if "machine" in found else []
    if "engine_memory" in found:  # a server may be older than this command
        limit, taken = (_mebibytes(found["engine_memory"][name]) for name in ("limit_bytes", "taken_bytes"))
        parts[0] += f"\nengines: {taken} of at most {limit}"
    if found["registry_error"]:
        parts.append(f"THE REGISTRY CANNOT BE READ, serving goes on: {found['registry_error']}")
    parts += ["\n".join(_model(model, now)) for model in found["models"]]
    if not found["models"]:
        parts.append("no model is served yet")
    return "\n\n".join(parts)


def _machine(machine: Described) -> str:
    """The cores and memory that the server may use, and what sets the bound."""
    cores = f"cores: {machine['cores']} of {machine['machine_cores']} ({machine['cores_by']})"
    sizes = [_mebibytes(machine[name]) for name in ("memory_bytes", "machine_memory_bytes", "available_bytes")]
    memory = f"memory: {sizes[0]} of {sizes[1]} ({machine['memory_by']}), {sizes[2]} free"
    kills = f"  oom kills: {machine['oom_kills']}" if machine["oom_kills"] else ""
    return f"{cores}  {memory}{kills}"


def _model(model: Described, now: float) -> list[str]:
    lines = [f"{model['name']}  live: {model['live'] or 'none'}"]
    lines[0] += "".join(f"  {alias} → {version or 'none'}" for alias, version in model["aliases"].items())
    if model["error"]:
        lines.append(f"  trouble: {model['error']}")
    if model.get("rollout"):  # a server may be older than this command
        lines.append(_rollout(model["rollout"]))
    lines += _versions(model)
    lines += _swaps(model["swaps"], now)
    return lines


def _rollout(rollout: Described) -> str:
    """Both versions, the current step in brackets, and what each guard says."""
    steps = [f"[{step}]" if at == rollout["step"] else step for at, step in enumerate(rollout["steps"])]
    guards = [f"{guard}: {verdict}" for guard, verdict in rollout["verdicts"].items()]
    sides = f"{rollout['stable']} → {rollout['candidate']}"
    return "  ".join([f"  rollout of {rollout['alias']}", sides, rollout["phase"], *steps, ", ".join(guards)]).rstrip()


def _versions(model: Described) -> list[str]:
    """One row an engine; what went wrong stands under its version."""
    head = ("version", "state", "role", "memory", "restarts", "pid", "device", "dtype", "task")
    rows: list[Sequence[str]] = [head]
    notes: dict[int, list[str]] = {}
    for version, entry in sorted(model["versions"].items(), key=lambda item: int(item[0])):
        own = [
            version,
            STATES.get(entry["state"], entry["state"]),
            _role(model, version),
            _mebibytes(entry["memory_bytes"]),
            str(entry["restarts"]),
        ]
        task = entry["contract"]["task"] if entry["contract"] else "-"
        for engine in entry["engines"] or [{"pid": "-", "device": "-", "dtype": "-"}]:
            rows.append((*own, str(engine["pid"]), engine["device"], engine["dtype"], task))
            own, task = [""] * len(own), ""
        notes[len(rows) - 1] = _notes(entry)
    if len(rows) == 1:
        return ["  no version is loaded"]
    lines = []
    for index, line in enumerate(format_columns(rows, right=(3, 4, 5))):
        lines.append(f"  {line}")
        lines += [f"    {note}" for note in notes.get(index, ())]
    return lines


def _role(model: Described, version: str) -> str:
    """The version's role: the aliases that it serves, "pinned", "previous" for a rollback, or "-"."""
    aliases = [alias for alias, served in model["aliases"].items() if served == version]
    if aliases:
        return ", ".join(aliases)
    if model["live"] == version:
        return "pinned"
    return "previous" if any(version in earlier for earlier in model["previous"].values()) else "-"


def _notes(entry: Described) -> list[str]:
    notes = []
    for engine in entry["engines"]:
        told = [engine["dtype_note"] or "", *engine.get("notes", ())]  # a server may be older than this command
        notes += [f"{engine['device']}: {note}" for note in told if note]
    if entry["error"]:
        notes.append(f"attempt {entry['attempt']}: {entry['error']}")
    return notes


def _swaps(swaps: Sequence[Described], now: float) -> list[str]:
    if not swaps:
        return []
    rows: list[Sequence[str]] = []
    latest = sorted(swaps, key=lambda swap: -swap["time"])[:SHOWN_SWAPS]
    for swap in latest:
        at = datetime.fromtimestamp(swap["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        change = f"{swap['from_version'] or 'none'} → {swap['to_version']}"
        rows.append(
            (at, _ago(now - swap["time"]), swap["reference"], change, swap["outcome"], f"{swap['seconds']:.1f} s")
        )
    lines = ["  recent swaps"]
    for swap, line in zip(latest, format_columns(rows, right=(1, 5)), strict=True):
        lines.append(f"  {line}")
        if swap["error"]:
            lines.append(f"    {swap['error']}")
    return lines


def format_columns(rows: Sequence[Sequence[str]], right: Iterable[int]) -> list[str]:
    """The rows with cells as wide as their column's widest; those of `right` end flush."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    flush = set(right)
    return [
        "  ".join(
            cell.rjust(width) if index in flush else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB" if size_bytes else "-"


def _ago(seconds: float) -> str:
    """The time in its largest unit; a time in the future, of a clock that is ahead, reads as now."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "now"
