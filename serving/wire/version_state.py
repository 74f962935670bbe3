"""A version's states on this server, and which may follow which.

loading   its files are fetched and verified, its engines start, warm up and answer the contract's example
ready     its engines answer; it may be the live one, kept warm, or asked for by its number
unloaded  ready, not loaded: it is served and has no engine now; it is loaded once it is asked for
failed    it could not be loaded, or crashed again and again; no engine is left, the cause is kept
draining  it takes no new requests and leaves once what it has is answered

A version that has left is forgotten, or unloaded if it is still served; a new attempt begins at loading.
"""

from typing import Literal

from serving.errors import EngineError

VersionKey = tuple[str, str]
"""(model, version)"""
State = Literal["loading", "ready", "unloaded", "failed", "draining"]

FOLLOWERS: dict[State, frozenset[State]] = {
    "loading": frozenset({"ready", "failed", "draining", "unloaded"}),
    "ready": frozenset({"failed", "draining"}),
    "unloaded": frozenset({"draining"}),
    "failed": frozenset({"draining", "unloaded"}),
    "draining": frozenset({"unloaded"}),
}


def check_transition(before: State, after: State) -> State:
    """`after`, if it may follow `before`; else raises EngineError."""
    if after not in FOLLOWERS[before]:
        raise EngineError(f"a version went from {before} to {after}; the rule is {sorted(FOLLOWERS[before])}")
    return after
