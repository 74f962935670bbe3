"""The descriptions in `GET /models`: of each model, and of the server."""

import msgspec

from monitoring.metrics import VERDICTS
from serving.front.asgi import JsonObject
from serving.runtime.limits import read_limits
from serving.settings import ServingSettings
from serving.wire.routing_table import ModelEntry, RolloutEntry, Table

WORDS = {number: word for word, number in VERDICTS.items()}


def outline_model(name: str, entry: ModelEntry) -> JsonObject:
    """What everybody may see who may ask the model: which versions there are, and which of them answers."""
    return {
        "name": name,
        "live": entry.live,
        "aliases": entry.aliases,
        "versions": {version: {"state": found.state} for version, found in entry.versions.items()},
    }


def describe_model(name: str, entry: ModelEntry) -> JsonObject:
    """Versions, states, aliases, swaps and contract of a model, without paths and addresses: for operators."""
    return {
        "name": name,
        "live": entry.live,
        "aliases": entry.aliases,
        "error": entry.error or None,
        "previous": entry.previous,
        "swaps": [msgspec.to_builtins(swap) for swap in entry.swaps],
        "rollout": _describe_rollout(entry.rollout) if entry.rollout else None,
        "versions": {
            version: {
                "state": found.state,
                "error": found.error or None,
                "attempt": found.attempt,
                "memory_bytes": found.memory_bytes,
                "restarts": found.restarts,
                "engines": [
                    {
                        "pid": engine.pid,
                        "device": engine.device,
                        "dtype": engine.dtype,
                        "dtype_note": engine.dtype_note or None,
                        "execution": engine.execution,
                        "batching": engine.batching,
                        "notes": list(engine.notes),
                        "split": engine.split or None,
                        "budget_tokens": engine.budget_tokens,
                        "tokens_per_second": round(engine.tokens_per_second),
                    }
                    for engine in found.engines
                ],
                "contract": found.contract.to_record() if found.contract else None,
            }
            for version, found in entry.versions.items()
        },
    }


def _describe_rollout(rollout: RolloutEntry) -> JsonObject:
    """Where a rollout stands. step: counted from 0. weight: the candidate's share of requests, 0 to 1."""
    return {
        "alias": rollout.alias,
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "phase": rollout.phase,
        "steps": list(rollout.steps),
        "step": rollout.step,
        "weight": rollout.weight,
        "verdicts": {guard: WORDS[verdict] for guard, verdict in rollout.verdicts.items()},
        "waiting_seconds": rollout.waiting_seconds,
    }


def describe_server(settings: ServingSettings, table: Table) -> JsonObject:
    """The fields beside the models: for operators.

    named: what the server was started with. deployments: whether it serves what the registry marks as deployed.
    machine: the cores and the memory that the server may use, see `Limits`. engine_memory: what engines may take
    together, and take.
    """
    limits = read_limits()
    return {
        "registry_error": table.registry_error or None,
        "named": [str(reference) for reference in settings.models],
        "deployments": settings.deployments,
        "machine": msgspec.to_builtins(limits),
        "engine_memory": {
            "limit_bytes": settings.memory_bound(limits),
            "taken_bytes": table.taken_bytes,
        },
    }
