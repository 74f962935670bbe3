"""When a server has started: a table of what each reference that was wanted at the start has come to."""

import pytest

from registry.references import Reference, ResolvedVersion
from serving.manager.registry_poll import RegistrySnapshot
from serving.manager.startup import Startup

M, N = Reference("m", alias="champion"), Reference("n", alias="champion")
FOUND = {key: ResolvedVersion(key.name, "1", "models:/m-1", None) for key in (M, N)}
NOW = 1000.0
NAMELESS = RegistrySnapshot({M: FOUND[M], N: None}, {N: "the registry has no n@champion"}, is_known=True)
WELL = RegistrySnapshot(FOUND, is_known=True)
UNREAD = RegistrySnapshot({M: FOUND[M], N: None}, error="it is down", is_known=True)


def unanswered_since(time: float) -> RegistrySnapshot:
    """The registry answers for `m` only."""
    targets = {M: FOUND[M], N: None}
    return RegistrySnapshot(targets, {N: "no answer"}, moved={M: 0.0, N: time}, is_known=True, unanswered=[N])


def make(*, needs_live: bool) -> Startup:
    return Startup(needs_live=needs_live, patience_seconds=30.0)


@pytest.mark.parametrize(
    ("view", "live", "failed", "has_started"),
    [
        (RegistrySnapshot({M: None, N: None}), {}, (), False),  # the registry was not asked yet
        (WELL, {}, (), False),
        (WELL, {M: "1"}, (), False),
        (WELL, {M: "1", N: "1"}, (), True),
        (WELL, {M: "1"}, (N,), True),
        (WELL, {M: None, N: None}, (M, N), False),  # nothing at all is served
        (NAMELESS, {M: "1"}, (), True),
        (NAMELESS, {}, (), False),
        (unanswered_since(NOW - 29), {M: "1"}, (), False),
        (unanswered_since(NOW - 31), {M: "1"}, (), True),
        (UNREAD, {M: "1"}, (), False),  # nobody knows whether there is an `n`
        (UNREAD, {M: "1", N: "7"}, (), True),  # that was live here before
    ],
)
def test_it_has_when_each_is_live_or_has_failed_for_good(
    view: RegistrySnapshot, live: dict[Reference, str | None], failed: tuple[Reference, ...], has_started: bool
) -> None:
    assert make(needs_live=True).look(view, live, lambda key: key in failed, NOW) is has_started


def test_once_it_has_it_has_whatever_comes_later() -> None:
    startup = make(needs_live=True)
    alone = RegistrySnapshot({M: FOUND[M]}, is_known=True)
    assert not startup.look(alone, {}, lambda _: False, NOW)
    assert startup.look(WELL, {M: "1"}, lambda _: False, NOW), "what is deployed later is not waited for"
    assert startup.look(WELL, {}, lambda _: False, NOW)


def test_what_is_wanted_no_more_is_not_waited_for() -> None:
    startup = make(needs_live=True)
    assert not startup.look(WELL, {M: "1"}, lambda _: False, NOW)
    assert startup.look(RegistrySnapshot({M: FOUND[M]}, is_known=True), {M: "1"}, lambda _: False, NOW)


def test_a_server_that_is_deployed_to_needs_nothing_but_what_is_deployed_already() -> None:
    empty, unread = RegistrySnapshot({}, is_known=True), RegistrySnapshot({}, error="it is down", is_known=True)
    assert make(needs_live=False).look(empty, {}, lambda _: False, NOW)
    assert not make(needs_live=False).look(unread, {}, lambda _: False, NOW)
    assert not make(needs_live=False).look(WELL, {}, lambda _: False, NOW)
    assert make(needs_live=False).look(WELL, {}, lambda _: True, NOW)
