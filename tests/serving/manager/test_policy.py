from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.references import Reference
from serving.manager.policy import CRASH_LIMIT, Action, GiveUp, Load, Publish, Snapshot, Unload, decide
from serving.wire.version_state import State

M = Reference("m", alias="champion")
CANARY = Reference("m", alias="canary")


def snapshot(
    target: str | None,
    live: str | None,
    states: dict[str, State],
    previous: tuple[str, ...] = (),
    keep: int = 1,
    *,
    crashes: dict[str, int] | None = None,
    memory: dict[str, int] | None = None,
    keep_bytes: int = 0,
    asked: str = "",
) -> Snapshot:
    return Snapshot(
        targets={M: target},
        live={M: live},
        previous={M: previous},
        states={("m", version): state for version, state in states.items()},
        keep_previous=keep,
        keep_bytes=keep_bytes,
        memory={("m", version): size for version, size in (memory or {}).items()},
        crashes={("m", version): count for version, count in (crashes or {}).items()},
        asked={("m", version) for version in asked},
    )


READY_TWO: dict[str, State] = {"1": "ready", "2": "ready"}
READY_THREE: dict[str, State] = {"1": "ready", "2": "ready", "3": "ready"}
OFTEN = {"2": CRASH_LIMIT}


@pytest.mark.parametrize(
    ("situation", "now", "expected"),
    [
        ("nothing known yet", snapshot(None, None, {}), []),
        ("first version", snapshot("1", None, {}), [Load("m", "1")]),
        ("still loading", snapshot("1", None, {"1": "loading"}), []),
        ("ready", snapshot("1", None, {"1": "ready"}), [Publish(M, "1")]),
        ("settled", snapshot("1", "1", {"1": "ready"}), []),
        ("alias moved", snapshot("2", "1", {"1": "ready"}), [Load("m", "2")]),
        ("new one loads", snapshot("2", "1", {"1": "ready", "2": "loading"}), []),
        ("new one is ready", snapshot("2", "1", {"1": "ready", "2": "ready"}), [Publish(M, "2")]),
        ("new one failed: the old one stays", snapshot("2", "1", {"1": "ready", "2": "failed"}), []),
        ("the old one left for it, it loads", snapshot("2", "1", {"2": "loading"}), []),
        ("the old one left for it, it failed: back", snapshot("2", "1", {"2": "failed"}), [Load("m", "1")]),
        ("the old one left for it, the alias moved back", snapshot("1", "1", {}), [Load("m", "1")]),
        ("the old one left for it, the alias is gone", snapshot(None, "1", {}), [Load("m", "1")]),
        ("the old one comes back", snapshot("2", "1", {"1": "loading", "2": "failed"}), []),
        ("previous stays warm", snapshot("2", "2", {"1": "ready", "2": "ready"}, ("1",)), []),
        ("moving back loads nothing", snapshot("1", "2", {"1": "ready", "2": "ready"}, ("1",)), [Publish(M, "1")]),
        ("none is kept", snapshot("2", "2", {"1": "ready", "2": "ready"}, ("1",), keep=0), [Unload("m", "1")]),
        (
            "only the latest previous is kept",
            snapshot("3", "3", {"1": "ready", "2": "ready", "3": "ready"}, ("2", "1")),
            [Unload("m", "1")],
        ),
        ("alias gone: what is live goes on", snapshot(None, "1", {"1": "ready"}), []),
        (
            "moved on while loading",
            snapshot("3", "1", {"1": "ready", "2": "loading"}),
            [Load("m", "3"), Unload("m", "2")],
        ),
        ("moved back from a failed one", snapshot("1", "1", {"1": "ready", "2": "failed"}), [Unload("m", "2")]),
        ("two are kept", snapshot("3", "3", READY_THREE, ("2", "1"), keep=2), []),
        (
            "memory bounds what is kept",
            snapshot("3", "3", READY_THREE, ("2", "1"), keep=2, memory={"1": 60, "2": 60}, keep_bytes=100),
            [Unload("m", "1")],
        ),
        (
            "the live version's memory does not count",
            snapshot("3", "3", READY_THREE, ("2", "1"), keep=2, memory={"1": 40, "2": 40, "3": 999}, keep_bytes=100),
            [],
        ),
        (
            "an earlier one that failed is not kept",
            snapshot("2", "2", {"1": "failed", "2": "ready"}, ("1",)),
            [Unload("m", "1")],
        ),
        ("crashed twice: restarts go on", snapshot("2", "2", READY_TWO, ("1",), crashes={"2": CRASH_LIMIT - 1}), []),
        (
            "crashed too often: back to the previous one",
            snapshot("2", "2", READY_TWO, ("1",), crashes=OFTEN),
            [Publish(M, "1"), GiveUp("m", "2")],
        ),
        (
            "crashed too often, the previous one was not kept: load it first",
            snapshot("2", "2", {"2": "ready"}, ("1",), keep=0, crashes=OFTEN),
            [Load("m", "1")],
        ),
        ("crashed too often, nothing before it", snapshot("2", "2", {"2": "ready"}, (), crashes=OFTEN), []),
        (
            "crashed too often, the one before it failed: further back",
            snapshot("2", "2", {"1": "failed", "2": "ready", "0": "ready"}, ("1", "0"), keep=2, crashes=OFTEN),
            [Publish(M, "0"), GiveUp("m", "2"), Unload("m", "1")],
        ),
        (
            "crashed too often, the one before it could not be loaded: its failure is remembered while it crashes",
            snapshot("2", "2", {"1": "failed", "2": "ready"}, ("1",), keep=0, crashes=OFTEN),
            [],
        ),
        (
            "it crashes no more: what could not be loaded in its place is forgotten",
            snapshot("2", "2", {"1": "failed", "2": "ready"}, ("1",), keep=0),
            [Unload("m", "1")],
        ),
        (
            "crashed too often, but the alias has moved on: that one is loaded",
            snapshot("3", "2", READY_TWO, ("1",), crashes=OFTEN),
            [Load("m", "3")],
        ),
        (
            "crashed too often, the alias has moved on to one that is ready",
            snapshot("3", "2", READY_THREE, ("1",), crashes=OFTEN),
            [Publish(M, "3"), GiveUp("m", "2")],
        ),
        (
            "crashed too often, alias gone: back all the same",
            snapshot(None, "2", READY_TWO, ("1",), crashes=OFTEN),
            [Publish(M, "1"), GiveUp("m", "2")],
        ),
        ("alias gone while the new one loads", snapshot(None, "1", {"1": "ready", "2": "loading"}), [Unload("m", "2")]),
        ("alias gone before the first was ready", snapshot(None, None, {"1": "loading"}), [Unload("m", "1")]),
        ("the first one failed", snapshot("1", None, {"1": "failed"}), []),
        (
            "the first one failed, another is named",
            snapshot("2", None, {"1": "failed"}),
            [Load("m", "2"), Unload("m", "1")],
        ),
        (
            "moving back to one that was not kept loads it",
            snapshot("1", "2", {"2": "ready"}, ("1",), keep=0),
            [Load("m", "1")],
        ),
        (
            "the first kept one takes all the room",
            snapshot("3", "3", READY_THREE, ("2", "1"), keep=2, memory={"1": 1, "2": 100}, keep_bytes=100),
            [Unload("m", "1")],
        ),
        (
            "a kept one that is too large makes no room for the one before it",
            snapshot("3", "3", READY_THREE, ("2", "1"), keep=2, memory={"1": 1, "2": 101}, keep_bytes=100),
            [Unload("m", "1"), Unload("m", "2")],
        ),
        ("no room at the start: it is served all the same", snapshot("1", None, {"1": "unloaded"}), [Publish(M, "1")]),
        ("nobody asks for it: it stays unloaded", snapshot("1", "1", {"1": "unloaded"}), []),
        ("somebody asks for it", snapshot("1", "1", {"1": "unloaded"}, asked="1"), [Load("m", "1")]),
        ("it is being loaded", snapshot("1", "1", {"1": "loading"}, asked="1"), []),
        ("alias gone, and asked for", snapshot(None, "1", {"1": "unloaded"}, asked="1"), [Load("m", "1")]),
        ("alias moved from one that is unloaded", snapshot("2", "1", {"1": "unloaded"}), [Load("m", "2")]),
        (
            "the new one failed: the unloaded one waits for requests",
            snapshot("2", "1", {"1": "unloaded", "2": "failed"}),
            [],
        ),
        ("alias moved to one that is unloaded: load it first", snapshot("2", "1", {"2": "unloaded"}), [Load("m", "2")]),
        (
            "an unloaded one that is live no more is forgotten",
            snapshot("2", "2", {"1": "unloaded", "2": "ready"}, ("1",)),
            [Unload("m", "1")],
        ),
        ("gave way: not published again", snapshot("2", "1", {"1": "ready", "2": "failed"}, ("2",)), []),
        (
            "gave way, then the alias moved on",
            snapshot("3", "1", {"1": "ready", "2": "failed"}, ("2",)),
            [Load("m", "3"), Unload("m", "2")],
        ),
    ],
)
def test_policy(situation: str, now: Snapshot, expected: list[Action]) -> None:
    assert decide(now) == expected, situation


PINNED = Reference("m", version="1")


def several(
    targets: dict[Reference, str | None],
    live: dict[Reference, str | None],
    states: dict[str, State],
    previous: dict[Reference, tuple[str, ...]] | None = None,
    **fields: Any,
) -> Snapshot:
    return Snapshot(targets, live, previous or {}, {("m", key): state for key, state in states.items()}, 1, **fields)


CRASHING = {"crashes": {("m", "2"): CRASH_LIMIT}}


@pytest.mark.parametrize(
    ("situation", "now", "expected"),
    [
        ("one version for both is loaded once", several({M: "1", CANARY: "1"}, {}, {}), [Load("m", "1")]),
        (
            "and published for both",
            several({M: "1", CANARY: "1"}, {}, {"1": "ready"}),
            [Publish(M, "1"), Publish(CANARY, "1")],
        ),
        (
            "each loads its own",
            several({M: "1", CANARY: "2"}, {M: "1"}, {"1": "ready"}),
            [Load("m", "2")],
        ),
        (
            "the canary's version is promoted without being loaded",
            several({M: "2", CANARY: "2"}, {M: "1", CANARY: "2"}, READY_TWO),
            [Publish(M, "2")],
        ),
        (
            "what one of them has left goes on for the other",
            several({M: "3", CANARY: "1"}, {M: "3", CANARY: "1"}, READY_THREE, {M: ("2", "1")}),
            [],
        ),
        (
            "a pinned version stays while the alias goes on",
            several({M: "3", PINNED: "1"}, {M: "3", PINNED: "1"}, READY_THREE, {M: ("2",)}),
            [],
        ),
        (
            "a reference that is not served any more keeps nothing",
            several({M: "2"}, {M: "2", CANARY: "1"}, READY_TWO, {CANARY: ("1",)}),
            [Unload("m", "1")],
        ),
        (
            "a crashing version is given up once nobody serves it",
            several({M: "2", CANARY: "2"}, {M: "2", CANARY: "2"}, READY_TWO, {M: ("1",), CANARY: ("1",)}, **CRASHING),
            [Publish(M, "1"), Publish(CANARY, "1"), GiveUp("m", "2")],
        ),
        (
            "a crashing version that one alias leaves is not taken from the other, which has nothing to fall back to",
            several({M: "1", CANARY: "2"}, {M: "2", CANARY: "2"}, READY_TWO, {M: ("1",)}, **CRASHING),
            [Publish(M, "1")],
        ),
    ],
)
def test_policy_for_several_references(situation: str, now: Snapshot, expected: list[Action]) -> None:
    assert decide(now) == expected, situation


def test_a_crashing_version_stays_where_another_reference_has_nothing_to_fall_back_to() -> None:
    pinned = Reference("m", version="2")
    states: dict[tuple[str, str], State] = {("m", "1"): "ready", ("m", "2"): "ready"}
    now = Snapshot({M: "2", pinned: "2"}, {M: "2", pinned: "2"}, {M: ["1"]}, states, 1, crashes={("m", "2"): 9})
    assert decide(now) == []


versions = st.sampled_from("1234")
states_of_versions = st.dictionaries(versions, st.sampled_from(["loading", "ready", "unloaded", "failed"]))


@pytest.mark.slow
@given(
    st.none() | versions,
    st.none() | versions,
    states_of_versions,
    st.lists(versions, max_size=3),
    st.integers(0, 3),
    st.dictionaries(versions, st.integers(0, 5)),
)
def test_what_is_live_is_never_unloaded_and_only_ready_versions_go_live(
    target: str | None,
    live: str | None,
    states: dict[str, State],
    previous: list[str],
    keep: int,
    crashes: dict[str, int],
) -> None:
    for action in decide(snapshot(target, live, states, tuple(previous), keep, crashes=crashes)):
        if isinstance(action, Unload):
            assert action.version not in (live, target)
        elif isinstance(action, Publish):
            assert states[action.version] == "ready" or (states[action.version] == "unloaded" and live is None)
            assert action.version != live
            assert action.version == target or action.version in previous
        elif isinstance(action, GiveUp):
            assert action.version == live
        else:
            is_back = action.version == live and (target in (None, live) or states.get(str(target)) == "failed")
            assert action.version == target or action.version in previous or is_back
            assert states.get(action.version, "unloaded") == "unloaded"
