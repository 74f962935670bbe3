import inspect

from serving.wire.engine_orders import EngineProperties, EngineReport
from serving.wire.routing_table import EngineEntry


def test_the_routing_table_shows_every_property_that_an_engine_reports() -> None:
    report = EngineReport(pid=1, state="ready", device="cpu", dtype="float32", notes=("no graph",), budget_tokens=512)
    entry = EngineEntry(address="ipc://e", pid=2, accepting=True, **report.properties())
    assert entry.properties() == report.properties()
    assert (entry.device, entry.notes, entry.budget_tokens, entry.pid) == ("cpu", ("no graph",), 512, 2)


def test_properties_are_declared_once() -> None:
    for record in (EngineEntry, EngineReport):
        own = inspect.get_annotations(record)
        assert own
        assert not set(EngineProperties.__struct_fields__) & set(own)
