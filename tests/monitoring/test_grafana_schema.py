"""The dashboards against Grafana's own published model of them: its Foundation SDK, which is made from its schemas.

A field that the schemas do not have is lost on the way through the SDK, an unknown choice raises, and each value is
compared with the type that they give it.
"""

import json
import typing
from copy import deepcopy
from enum import EnumType
from functools import cache
from typing import Any

import pytest
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models import dashboard as model
from pydantic import ConfigDict, TypeAdapter, ValidationError

from monitoring.dashboards import DASHBOARDS
from monitoring.grafana_json import build

BUILT = {dashboard.name: build(dashboard) for dashboard in DASHBOARDS}
OF_PROMETHEUS = {"step", "titleFormat", "tagKeys"}
"""Fields of an annotation that are its data source's, and not in the schema of dashboards."""
UNCHECKED = ConfigDict(arbitrary_types_allowed=True, strict=True)


def parse(built: dict[str, Any]) -> model.Dashboard:
    """The dashboard as Grafana's model; raises where a value is none of its choices or has another type."""
    plugins.register_default_plugins()  # the models of the panels and of Prometheus' queries
    parsed = model.Dashboard.from_json(built)
    check_types(parsed)
    return parsed


def check_types(value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            check_types(each)
    elif isinstance(value, dict):
        check_types([*value.values()])
    elif hasattr(value, "to_json"):
        found = {name: as_typed(getattr(value, name), hint) for name, hint in hints(type(value)).items()}
        for name, own in found.items():
            adapter(type(value), name).validate_python(own)
        check_types(found)


def as_typed(value: Any, hint: Any) -> Any:
    """What the SDK leaves as it is written: a choice, and the items of a list, as what the schema has for it."""
    inner = [part for each in (hint, *typing.get_args(hint)) for part in (each, *typing.get_args(each))]
    for kind in inner:
        if isinstance(kind, EnumType) and isinstance(value, str | int):
            return kind(value)
        if hasattr(kind, "from_json") and isinstance(value, list):
            return [kind.from_json(each) if isinstance(each, dict) else each for each in value]
    return value


hints = cache(typing.get_type_hints)


@cache
def adapter(kind: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(hints(kind)[name], config=UNCHECKED)


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """The paths in our JSON that Grafana's model does not have, or has otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [at for key, value in ours.items() for at in lost(value, theirs.get(key), f"{path}/{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [at for number, (one, other) in pairs for at in lost(one, other, f"{path}/{number}")]
    return [] if ours == theirs else [path]


def find_lost(built: dict[str, Any]) -> list[str]:
    return lost(built, json.loads(encoder.JSONEncoder().encode(parse(built))))


@pytest.mark.parametrize("name", BUILT)
def test_grafanas_schemas_know_every_field(name: str) -> None:
    assert [path for path in find_lost(BUILT[name]) if path.rpartition("/")[2] not in OF_PROMETHEUS] == []
    annotations = [path for path in find_lost(BUILT[name]) if not path.startswith("/annotations/")]
    assert annotations == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schemaVersion",), "41"),
        (("editabel",), True),
        (("templating", "list", 1, "multi"), "yes"),
        (("panels", 1, "gridPos", "w"), "6"),
        (("panels", 1, "options", "colorMode"), "backgroud"),
        (("panels", 1, "options", "sparkline"), True),
        (("panels", 1, "targets", 0, "exemplars"), True),
        (("panels", 1, "targets", 0, "legendFormat"), 7),
        (("panels", 1, "fieldConfig", "defaults", "thresholds", "mode"), "relative"),
        (("panels", 7, "fieldConfig", "defaults", "custom", "stacked"), "normal"),
    ],
)
def test_a_field_that_they_do_not_know_is_found(path: tuple[Any, ...], value: object) -> None:
    broken: Any = deepcopy(BUILT["overview"])
    *way, last = path
    at = broken
    for step in way:
        at = at[step]
    at[last] = value
    try:
        assert "/" + "/".join(map(str, path)) in find_lost(broken)
    except (ValidationError, ValueError) as error:
        assert not isinstance(error, AssertionError)
