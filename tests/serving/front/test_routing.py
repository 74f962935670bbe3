"""What a front says of a version that does not answer."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from registry.references import Reference
from registry.settings import RegistrySettings
from serving.errors import NotReady, ServingError
from serving.front.routing import Routing
from serving.settings import ServingSettings
from serving.wire.routing_table import ModelEntry, Table, TableFile, VersionEntry
from serving.wire.version_state import State
from tests.serving.front.local_front import engines, make_front


@pytest.fixture
def routes(tmp_path: Path) -> Iterator[Routing]:
    settings = ServingSettings(RegistrySettings(tmp_path, ""), (Reference("m", alias="champion"),), tmp_path)
    made = Routing(settings, TableFile(tmp_path))
    yield made
    made.close()


def table(live: str | None, states: dict[str, State]) -> Table:
    """One model, none of whose versions has an engine."""
    versions = {version: VersionEntry(state=state) for version, state in states.items()}
    entry = ModelEntry(live=live, aliases={"champion": live}, versions=versions, serves={"m@champion": live})
    return Table(models={"m": entry}, is_known=True)


@pytest.mark.parametrize(
    ("live", "states", "message", "retry_seconds"),
    [
        (None, {}, "no version of m is loaded yet: try again", 1.0),
        (None, {"2": "loading"}, "no version of m is loaded yet: try again", 1.0),
        (None, {"2": "failed"}, "no version of m could be loaded: see GET /models/m", 10.0),
        ("1", {"1": "loading"}, "m/1 is loading: try again", 1.0),
        ("1", {"1": "ready"}, "m/1 has no engine at the moment, it ended and is being restarted: try again", 1.0),
        ("1", {"1": "draining", "2": "loading"}, "m/1 is leaving and takes no new requests: try again", 1.0),
        ("1", {"1": "failed"}, "m/1 could not be loaded: see GET /models/m", 10.0),
        ("1", {"2": "loading"}, "m/1 has left so that another version has memory: try again", 1.0),
        ("1", {}, "m/1 has left so that another version has memory: try again", 1.0),
    ],
)
@pytest.mark.parametrize("name", ["m", "m@champion"])
def test_a_live_version_that_does_not_answer_is_not_there_yet(
    routes: Routing, name: str, live: str | None, states: dict[str, State], message: str, retry_seconds: float
) -> None:
    routes.table = table(live, states)
    with pytest.raises(ServingError) as raised:
        routes.find(name, None)
    assert type(raised.value) is NotReady
    assert (raised.value.message, raised.value.retry_seconds) == (message, retry_seconds)


@pytest.mark.parametrize(
    ("live", "states", "is_unserved"),
    [
        (None, {"1": "loading"}, False),
        ("1", {"1": "ready"}, True),
        ("1", {"1": "failed"}, True),
        ("1", {"1": "ready", "2": "loading"}, True),
        ("1", {"1": "draining", "2": "loading"}, False),
        ("1", {"2": "loading"}, False),
        ("1", {"1": "loading", "2": "failed"}, False),
        ("1", {"2": "failed"}, True),
    ],
)
def test_a_model_whose_live_version_gives_its_place_is_not_dead(
    routes: Routing, live: str | None, states: dict[str, State], is_unserved: bool
) -> None:
    """A restart of the container would only let what loads begin anew."""
    routes.table = table(live, states)
    routes.note_unserved(10.0)
    assert routes.unserved_seconds(15.0) == (5.0 if is_unserved else 0.0)


def test_a_model_without_engines_does_not_end_a_front_that_answers_for_another(tmp_path: Path) -> None:
    front = make_front(tmp_path, versions=("1",))
    try:
        engines(front, "1")
        other = table("1", {"1": "failed"}).models["m"]
        front.routing.table = msgspec.structs.replace(
            front.routing.table, models={**front.routing.table.models, "other": other}
        )
        front.routing.note_unserved(10.0)
        assert front.routing.unserved_seconds(100.0) == 0.0
        assert (front.routing.answers("m"), front.routing.answers("other")) == (True, False)
        front.routing._loaded["m", "1"].accepting = []
        front.routing.note_unserved(20.0)
        assert front.routing.unserved_seconds(100.0) == 80.0
    finally:
        front.routing.close()


@pytest.mark.parametrize(
    ("queue_bytes", "workers", "share"),
    [(0, 1, 64 * 2**24), (0, 4, 16 * 2**24), (0, 64, 5 * 2**24), (4096, 1, 4096), (4096, 4, 1024), (3, 4, 1)],
)
def test_each_front_has_its_share_of_a_queues_bytes(tmp_path: Path, queue_bytes: int, workers: int, share: int) -> None:
    front = make_front(tmp_path, queue_bytes=queue_bytes, workers=workers, max_body_bytes=2**24)
    assert front.routing.bounds.bytes() == share
    front.routing.close()
