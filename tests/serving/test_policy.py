from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.references import Reference
from serving.policy import Action, Load, Publish, Snapshot, Unload, decide

M = Reference("m", alias="champion")
CANARY = Reference("m", alias="canary")


def snapshot(
    target: str | None, live: str | None, states: dict[str, str], previous: tuple[str, ...] = (), keep: int = 1
) -> Snapshot:
    return Snapshot(
        targets={M: target},
        live={M: live},
        previous={M: previous},
        states={("m", version): state for version, state in states.items()},
        keep_previous=keep,
    )


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
        (
            "moved back from a failed one",
            snapshot("1", "1", {"1": "ready", "2": "failed"}),
            [Unload("m", "2")],
        ),
    ],
)
def test_policy(situation: str, now: Snapshot, expected: list[Action]) -> None:
    assert decide(now) == expected, situation


def test_two_aliases_of_one_version_load_it_once() -> None:
    now = Snapshot({M: "1", CANARY: "1"}, {M: None, CANARY: None}, {}, {}, 1)
    assert decide(now) == [Load("m", "1")]
    ready = replace(now, states={("m", "1"): "ready"})
    assert decide(ready) == [Publish(M, "1"), Publish(CANARY, "1")]


versions = st.sampled_from("1234")


@given(
    st.none() | versions,
    st.none() | versions,
    st.dictionaries(versions, st.sampled_from(["loading", "ready", "failed"])),
    st.lists(versions, max_size=3),
    st.integers(0, 3),
)
def test_what_is_live_is_never_unloaded_and_only_ready_versions_go_live(
    target: str | None, live: str | None, states: dict[str, str], previous: list[str], keep: int
) -> None:
    for action in decide(snapshot(target, live, states, tuple(previous), keep)):
        if isinstance(action, Unload):
            assert action.version not in (live, target)
        elif isinstance(action, Publish):
            assert states[action.version] == "ready"
            assert action.version == target != live
        else:
            assert action.version == target
            assert action.version not in states
