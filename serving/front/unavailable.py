"""The errors of requests for a model or a version that does not answer here, from the routing table."""

from collections.abc import Iterable

from serving.errors import NotReady, ServingError, UnknownModel
from serving.wire.routing_table import ModelEntry, Table
from serving.wire.version_state import State

UNANSWERED: dict[State, str] = {
    "loading": "is loading",
    "ready": "has no engine at the moment, it ended and is being restarted",
    "draining": "is leaving and takes no new requests",
    "unloaded": "is not loaded",
}
"""Why a version in the table has no engine that answers, by the version's state."""


def no_model(name: str, table: Table, shown: Iterable[str]) -> ServingError:
    """The error of a model that takes no requests. shown: the models that it may name."""
    entry = table.models.get(name)
    if not table.models and not table.is_known:
        return NotReady("the server is starting and serves nothing yet: try again", retry_seconds=1.0)
    if entry is not None and entry.error:
        return UnknownModel(f"{name} is not served: see GET /models/{name}")
    return UnknownModel(f"there is no model {name!r} here; served: {', '.join(shown) or 'none'}")


def no_version(name: str, version: str, entry: ModelEntry, *, is_named: bool) -> ServingError:
    """The error of a version that the front has not read. is_named: whether the request names it, not an alias."""
    known = entry.versions.get(version)
    if known is None and not is_named:
        why = "has left so that another version has memory"
        return NotReady(f"{name}/{version} {why}: try again", retry_seconds=1.0)
    if known is None:
        return UnknownModel(f"{name} has no version {version!r} here; loaded: {', '.join(entry.versions) or 'none'}")
    if known.state == "failed":
        return NotReady(f"{name}/{version} could not be loaded: see GET /models/{name}", retry_seconds=10.0)
    why = UNANSWERED[known.state]
    if known.engines:
        why = "cannot be read by this front now" if known.error else "is being read by this front"
    hint = f"see GET /models/{name}" if known.engines and known.error else "try again"
    return NotReady(f"{name}/{version} {why}: {hint}", retry_seconds=1.0)


def no_live_version(name: str, entry: ModelEntry) -> NotReady:
    """The error of a model none of whose versions is live."""
    if entry.versions and all(found.state == "failed" for found in entry.versions.values()):
        return NotReady(f"no version of {name} could be loaded: see GET /models/{name}", retry_seconds=10.0)
    hint = f"see GET /models/{name}" if entry.error else "try again"
    return NotReady(f"no version of {name} is loaded yet: {hint}", retry_seconds=1.0)
