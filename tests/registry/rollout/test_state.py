import json

import msgspec
import pytest

from registry.errors import RolloutError
from registry.history import Move, new_key
from registry.rollout.plan import make_plan
from registry.rollout.state import (
    DONE,
    ORDER,
    PLAN,
    PROGRESS,
    STOP,
    Bounds,
    End,
    Progress,
    RolloutOrder,
    RolloutState,
    encode,
    own_mark,
    read_state,
)

PLANNED = make_plan(alias="champion", stable="1", candidate="2", who="ada", why="better", now=0.0)
ID = PLANNED.id
PAUSE = RolloutOrder(id=ID, action="pause", who="ada", why="lunch", time=1.0)
FAILED = End(id=ID, outcome="failed", who="host", why="errors", time=2.0, guard="errors < stable + 1%")
OVER = End(id=ID, outcome="promoted", who="host", why="all steps passed", time=2.0)
SHADOW, ONE, HALF, LAST = (Progress(id=ID, step=step) for step in (0, 1, 3, 4))


def state(live: str | None = "1", moves: tuple[Move, ...] = (), **tags: msgspec.Struct) -> RolloutState:
    written = {PLAN: encode(PLANNED)} | {f"{PLAN}.{key}": encode(record) for key, record in tags.items()}
    written |= {new_key(float(place)): move.encode() for place, move in enumerate(moves)}
    found = read_state(written, {} if live is None else {"champion": live})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("live", "tags", "phase", "weight", "is_shadowing"),
    [
        ("1", {}, "running", 0.0, True),
        ("1", {"progress": ONE}, "running", 0.01, False),
        ("1", {"progress": HALF}, "running", 0.5, False),
        ("1", {"progress": HALF, "order": PAUSE}, "paused", 0.5, False),
        ("1", {"progress": SHADOW, "order": PAUSE}, "paused", 0.0, True),
        ("1", {"progress": msgspec.structs.replace(SHADOW, has_shadows=True)}, "running", 0.0, False),
        # a stop comes before whatever a second leader wrote meanwhile
        ("1", {"progress": HALF, "stop": FAILED}, "failed", 0.0, False),
        ("2", {"progress": LAST, "stop": FAILED, "done": OVER}, "failed", 0.0, False),
        ("1", {"progress": LAST}, "running", 1.0, False),
        # a hand that moves the alias wins, whichever way
        ("3", {"progress": HALF}, "overruled", 0.0, False),
        ("2", {"progress": HALF}, "promoting", 0.0, False),  # or a promotion's record is about to come
        (None, {"progress": HALF}, "overruled", 0.0, False),
        # what another rollout left counts for nothing
        ("1", {"stop": msgspec.structs.replace(FAILED, id="other")}, "running", 0.0, True),
        ("1", {"progress": msgspec.structs.replace(HALF, id="other")}, "running", 0.0, True),
        ("1", {"progress": msgspec.structs.replace(LAST, step=99)}, "running", 1.0, False),
    ],
)
def test_the_phase_follows_from_the_tags(
    live: str | None, tags: dict[str, msgspec.Struct], phase: str, weight: float, is_shadowing: bool
) -> None:
    found = state(live, **tags)
    assert (found.phase, found.weight, found.is_shadowing) == (phase, weight, is_shadowing)


def move(action: str, before: str, after: str, why: str = "") -> Move:
    return Move(time=0.0, action=action, alias="champion", from_version=before, to_version=after, who="me", why=why)


OWN = move("promote", "1", "2", f"all steps passed {own_mark(PLANNED)}")
BACK = move("rollback", "2", "1")


@pytest.mark.parametrize(
    ("live", "moves", "tags", "phase"),
    [
        ("2", (OWN,), {"progress": LAST}, "baking"),
        ("2", (OWN, move("rollout", "2", "2")), {"progress": LAST}, "baking"),
        ("2", (OWN,), {"progress": LAST, "done": OVER}, "promoted"),
        ("1", (OWN, BACK), {"progress": LAST}, "overruled"),  # and it is not promoted again
        ("1", (OWN,), {"progress": LAST}, "overruled"),  # moved on MLflow's page, without a record
        ("2", (OWN, BACK, move("promote", "1", "2")), {"progress": LAST}, "overruled"),
        ("2", (move("promote", "1", "2"),), {"progress": LAST}, "overruled"),
        ("2", (BACK,), {"progress": LAST}, "promoting"),  # in between the alias and its record
        ("2", (move("promote", "1", "2"), BACK), {"progress": LAST}, "promoting"),
        ("3", (BACK,), {"progress": LAST}, "overruled"),
        ("2", (OWN,), {"progress": LAST, "stop": FAILED}, "failed"),
    ],
)
def test_after_the_promotion_the_history_tells_whose_the_alias_is(
    live: str, moves: tuple[Move, ...], tags: dict[str, msgspec.Struct], phase: str
) -> None:
    assert state(live, moves, **tags).phase == phase


def test_a_model_without_the_tag_has_no_rollout() -> None:
    assert read_state({PROGRESS: encode(ONE)}, {"champion": "1"}) is None


def test_a_plan_of_another_format_or_a_damaged_one_is_refused() -> None:
    other = encode(msgspec.structs.replace(PLANNED, format=2))
    with pytest.raises(RolloutError, match="format 2, this release reads format 1"):
        read_state({PLAN: other}, {})
    for text in ("{", "[]", '{"format": 1}', encode(PLANNED).replace("errors < stable", "errors of stable")):
        with pytest.raises(RolloutError):
            read_state({PLAN: text}, {})


@pytest.mark.parametrize("key", [PROGRESS, ORDER, STOP, DONE])
def test_a_damaged_part_is_refused(key: str) -> None:
    with pytest.raises(RolloutError, match=f"{key} is damaged .* the candidate gets no requests"):
        read_state({PLAN: encode(PLANNED), key: "{"}, {"champion": "1"})


@pytest.mark.parametrize(
    "changed",
    [
        {"checks": [{"guard": "x", "verdict": "pass", "figures": ""}]},
        {"step": 10**24},
        {"step": 2**63 - 1},
        {"step": -3},
        {"beat": 2**64 - 1},
        {"beat": -1},
        {"waited_seconds": 1e308},
        {"elapsed_seconds": -1.0},
    ],
)
def test_a_progress_out_of_its_bounds_is_refused(changed: dict[str, object]) -> None:
    text = json.dumps({"id": ID} | changed)
    with pytest.raises(RolloutError, match=f"{PROGRESS} is damaged .* start another rollout"):
        read_state({PLAN: encode(PLANNED), PROGRESS: text}, {"champion": "1"})


def test_a_record_that_could_not_be_read_again_is_not_written() -> None:
    endless = msgspec.structs.replace(HALF, stable={"p99": Bounds((0.0, float("inf")), (0.0, 1.0))})
    with pytest.raises(RolloutError, match="could not be read again"):
        encode(endless)
