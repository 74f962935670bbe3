"""What the Open Inference Protocol v2 and Triton's extensions of it tell of a model, beside its answers.

Metadata, Triton's model configuration, its statistics and its index of the repository. Sources:
kserve/open-inference-protocol, and the extensions model_configuration, statistics and model_repository of
triton-inference-server/server (2.60).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from monitoring.exposition import Exposition, Total
from serving.front.asgi import JsonObject
from serving.front.loaded_version import LoadedVersion, UnloadedVersion
from serving.front.protocols.kserve_tensors import output_form
from serving.runtime.instruments import instruments
from serving.tasks.base.columns import parts_of, takes_text
from serving.wire.routing_table import EngineEntry, ModelEntry
from serving.wire.version_state import State

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
STATES: dict[State, str] = {
    "loading": "LOADING",
    "ready": "READY",
    "unloaded": "READY",
    "failed": "UNAVAILABLE",
    "draining": "UNLOADING",
}
"""A version's state → its name in Triton's index."""
STAGES = {"queue": "queue", "compute_input": "encode", "compute_infer": "forward", "compute_output": "decode"}
"""A duration in Triton's statistics → the stage that it is measured in."""


def metadata(known: LoadedVersion | UnloadedVersion, versions: list[str]) -> JsonObject:
    """The inputs, with those for parameters that a request needs, and the output. versions: all of the model.

    Notes that only the version's tokenizer knows are left out while it is not loaded.
    """
    notes = known.task.input_notes(known.version_context) if known.version_context is not None else {}
    example = known.contract.example
    if known.contract.processor.image is not None:
        parts = {"image": False}
    else:
        parts = {"text": False} if takes_text(known.task) else dict(parts_of(known.task))
    shapes = {name: [-1, -1] if is_list else [-1] for name, is_list in parts.items()}
    shapes |= {name: [-1] for name in known.task.needed_parameters(known.contract)}
    return {
        "name": known.model,
        "versions": versions,
        "platform": f"headwaiter_{known.contract.task}",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": shape} for name, shape in shapes.items()],
        "outputs": [output_form(example.output if example else None)],
        "parameters": dict(notes),
    }


def configuration(known: LoadedVersion | UnloadedVersion, engines: Sequence[EngineEntry] | None) -> JsonObject:
    """Triton's model configuration, with the tensors of `metadata`; their first dimension is the rows.

    engines: None where the caller is no operator, who is told neither of devices nor of the model's class.
    """
    described = metadata(known, [])
    parameters = {"task": known.contract.task, "max_tokens": str(known.contract.max_tokens)}
    told: JsonObject = {
        "name": known.model,
        "platform": described["platform"],
        "backend": "headwaiter",
        "version_policy": {"specific": {"versions": [int(known.version)]}},
        "max_batch_size": 0,
        "input": _tensors(described["inputs"]),
        "output": _tensors(described["outputs"]),
        "dynamic_batching": {},
    }
    if engines is not None:
        told["instance_group"] = _instance_groups([engine.device for engine in engines])
        parameters["model_class"] = known.contract.model_class
    return told | {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}


def _instance_groups(devices: Sequence[str]) -> list[JsonObject]:
    """One group for each device. devices: one entry for each engine."""
    return [
        {
            "name": device,
            "kind": "KIND_GPU" if device.startswith("cuda") else "KIND_CPU",
            "count": devices.count(device),
            "gpus": [int(device.partition(":")[2] or 0)] if device.startswith("cuda") else [],
        }
        for device in dict.fromkeys(devices)
    ]


def repository_index(
    models: Mapping[str, ModelEntry], answers: Callable[[str, str], bool], *, ready_only: bool, gives_reasons: bool
) -> list[JsonObject]:
    """Every version with its state, and, for operators, why it cannot be loaded.

    answers: whether a version of a model does.
    """
    found: list[JsonObject] = [
        {
            "name": name,
            "version": version,
            "state": STATES["failed" if each.state == "ready" and not answers(name, version) else each.state],
            "reason": each.error if gives_reasons else "",
        }
        for name, entry in models.items()
        for version, each in entry.versions.items()
    ]
    return [each for each in found if each["state"] == STATES["ready"] or not ready_only]


class Statistics:
    """Triton's statistics, from the counts of all processes of the server: those of `/metrics`."""

    def __init__(self) -> None:
        self._exposition: Exposition | None = None
        self._turn = asyncio.Lock()

    async def read(self, versions: list[tuple[str, str]]) -> JsonObject:
        """Of these models' versions. Reading every process' file takes milliseconds, so a thread does it."""
        async with self._turn:
            self._exposition = self._exposition or Exposition(instruments().store.folder)
            totals = await asyncio.to_thread(self._exposition.totals)
        return {"model_stats": [_statistics(totals, *version) for version in versions]}


def _statistics(totals: list[Total], model: str, version: str) -> JsonObject:
    """last_inference is 0, Triton's value for none: the time of a request is not kept."""
    own = [each for each in totals if (each.labels.get("model"), each.labels.get("version")) == (model, version)]

    def duration(metric: str, **labels: str) -> dict[str, int]:
        found = [each for each in own if each.name == metric and labels.items() <= each.labels.items()]
        return {"count": sum(each.count for each in found), "ns": int(1e9 * sum(each.sum for each in found))}

    rows = [each for each in own if each.name == "batch_rows"]
    every, answered = duration("request_duration_seconds"), duration("request_duration_seconds", status="200")
    nothing = {"count": 0, "ns": 0}
    return {
        "name": model,
        "version": version,
        "last_inference": 0,
        "inference_count": int(sum(each.sum for each in rows)),
        "execution_count": sum(each.count for each in rows),
        "inference_stats": {
            "success": answered,
            "fail": {name: every[name] - answered[name] for name in every},
            **{name: duration("stage_duration_seconds", stage=stage) for name, stage in STAGES.items()},
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
    }


def _tensors(described: object) -> list[JsonObject]:
    assert isinstance(described, list)
    types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
    return [{"name": each["name"], "data_type": types[each["datatype"]], "dims": each["shape"]} for each in described]
