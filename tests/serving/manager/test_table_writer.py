"""What is written for fronts while something is wrong with one model."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving.manager.table_writer import TableWriter
from serving.wire.routing_table import RolloutEntry, Table


def test_a_rollout_that_cannot_be_published_keeps_no_model_from_the_table(caplog: pytest.LogCaptureFixture) -> None:
    written: list[Table] = []
    described: dict[str, RolloutEntry | None] = {}

    def entry(name: str) -> RolloutEntry | None:
        if name == "damaged":
            raise ValueError("a record that nobody foresaw")
        return None

    def describe(name: str, _view: object, _versions: object, rollout: RolloutEntry | None) -> None:
        described[name] = rollout

    targets = [SimpleNamespace(name=name) for name in ("damaged", "good")]
    parts = {
        "file": SimpleNamespace(write=written.append),
        "versions": {},
        "live_versions": SimpleNamespace(describe=describe, live={}),
        "loader": SimpleNamespace(has_failed=None),
        "startup": SimpleNamespace(look=lambda *_: True),
        "watch": SimpleNamespace(view=SimpleNamespace(targets=targets, refused={}, error="", is_known=True)),
        "rollouts": SimpleNamespace(entry=entry),
    }
    writer = TableWriter(**cast(dict[str, Any], parts))
    with caplog.at_level(logging.ERROR):
        writer.publish()
        writer.publish()
    assert [set(table.models) for table in written] == [{"damaged", "good"}]
    assert described == {"damaged": None, "good": None}
    (record,) = caplog.records
    assert record.message == "could not publish the rollout of damaged; it is tried again"
