import json
import re
from typing import Any

from monitoring.dashboard import COLUMNS, TARGET, build, dump
from monitoring.metrics import METRICS, PREFIX


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in build()["panels"] if panel["type"] != "row"]


def named(query: str) -> set[str]:
    names = re.findall(rf"{PREFIX}(\w+)", query)
    return {name if name in METRICS else re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_the_committed_json_is_what_the_declarations_make() -> None:
    assert TARGET.read_text(encoding="utf-8") == dump(), "run python -m monitoring.dashboard"
    assert json.loads(dump())["uid"] == "headwaiter-overview"


def test_every_declared_metric_is_on_a_panel_and_every_named_one_is_declared() -> None:
    assert set().union(*(named(query) for query in queries())) == set(METRICS)


def test_labels_in_queries_are_declared() -> None:
    for query in queries():
        declared = set().union(*(METRICS[name].labels for name in named(query))) | {"le"}
        grouped = {label for part in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in part.split(", ") if label}
        matched = set(re.findall(r'(\w+)=~?"', query))
        assert grouped | matched <= declared, query


def test_series_names_fit_the_kind() -> None:
    for query in queries():
        for name, suffix in re.findall(rf"{PREFIX}(\w+?)(_bucket|_sum|_count)?\{{", query):
            assert bool(suffix) == (METRICS[name].kind == "histogram"), query


def test_rare_events_are_shown_from_their_first() -> None:
    for query in queries():
        if named(query) & {"swap_total", "swap_duration_seconds", "engine_restarts_total"}:
            assert "[" not in query, "a series starts with its first event, which no range function sees"


def test_shares_are_zero_and_not_missing_where_nothing_went_wrong() -> None:
    shares = [panel for panel in panels() if panel["title"] in ("Share of server errors", "Padding")]
    assert len(shares) == 2
    assert all(" or 0 * " in target["expr"] for panel in shares for target in panel["targets"])


def test_the_heat_map_uses_the_histograms_own_buckets_and_unit() -> None:
    (heat_map,) = (panel for panel in panels() if panel["type"] == "heatmap")
    assert heat_map["options"]["calculate"] is False
    assert heat_map["options"]["yAxis"]["unit"] == "s"
    assert [target["format"] for target in heat_map["targets"]] == ["heatmap"]


def test_panels_have_units_and_descriptions_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells
        taken |= cells


def test_the_data_source_is_a_variable() -> None:
    variables = [variable["name"] for variable in build()["templating"]["list"]]
    assert variables == ["datasource", "model", "version", "task"]
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
