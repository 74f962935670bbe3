import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.dashboards import DASHBOARDS
from monitoring.export import export, files
from monitoring.grafana_json import COLUMNS, build
from monitoring.metrics import METRICS, PREFIX
from monitoring.objectives import Objectives
from monitoring.panels import BAD, GOOD, NEAR
from monitoring.recordings import BUDGET_LEFT, LATENCY_OF_OBJECTIVE, records

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
BUILT = {dashboard.name: build(dashboard) for dashboard in DASHBOARDS}
RECORDED = {record.name for record in records(Objectives())}


def panels() -> list[dict[str, Any]]:
    return [panel for built in BUILT.values() for panel in built["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def named(query: str) -> set[str]:
    found = re.findall(rf"{PREFIX}(\w+)", query)
    return {name if name in METRICS else re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_the_committed_files_are_what_the_declarations_make() -> None:
    made = files()
    for name, content in made.items():
        assert (MONITORING / name).read_text(encoding="utf-8") == content, "run python -m monitoring.export"
    committed = [path for part in ("prometheus", "alertmanager", "grafana") for path in (MONITORING / part).rglob("*")]
    assert {str(path.relative_to(MONITORING)) for path in committed if path.is_file()} == set(made)


def test_every_declared_metric_is_on_a_panel_and_every_named_one_is_declared() -> None:
    recorded = {name for query in queries() for name in re.findall(r"headwaiter:[\w:]+", query)}
    assert recorded
    assert recorded <= RECORDED
    assert set().union(*(named(query) for query in queries())) == set(METRICS)


def test_labels_in_queries_are_declared() -> None:
    for query in queries():
        if "headwaiter:" in query:
            continue
        declared = set().union(*(METRICS[name].labels for name in named(query))) | {"le"}
        grouped = {label for part in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in part.split(", ") if label}
        matched = set(re.findall(r'(\w+)=~?"', query))
        assert grouped | matched <= declared, query


def test_series_names_fit_the_kind() -> None:
    for query in queries():
        for name, suffix in re.findall(rf"{PREFIX}([a-z_]+?)(_bucket|_sum|_count)?[{{)\[]", query):
            assert bool(suffix) == (METRICS[name].kind == "histogram"), query


def test_shares_are_zero_and_not_missing_where_nothing_went_wrong() -> None:
    shares = [panel for panel in panels() if panel["title"] in ("Share of server errors", "Padding")]
    assert len(shares) == 2
    assert all(" or 0 * " in target["expr"] for panel in shares for target in panel["targets"])


def test_the_first_row_is_for_a_glance() -> None:
    for built in BUILT.values():
        (title, *glance), *others = rows(built)
        assert title["title"] == "At a glance"
        assert {panel["type"] for panel in glance} == {"stat"}
        assert len({panel["gridPos"]["y"] for panel in glance}) == 1, "in one line"
        assert sum(panel["gridPos"]["w"] for panel in glance) == COLUMNS
        assert all(panel["type"] != "stat" for row in others for panel in row)
    overview = rows(BUILT["overview"])
    assert [panel["title"] for panel in overview[0][1:]] == [
        "Live version",
        "Requests per second",
        "Error budget left",
        "p99, of its objective",
        "Queue, of its bound",
    ]
    assert [title["title"] for title, *_ in overview[1:3]] == ["Rates", "Latency and stages"]


def rows(built: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Each row's title and panels."""
    found: list[list[dict[str, Any]]] = []
    for panel in built["panels"]:
        if panel["type"] == "row":
            found.append([])
        found[-1].append(panel)
    return found


VARIABLES = {"model", "version", "task"}


def test_every_variable_selects_in_every_metric_that_has_its_label() -> None:
    recorded = {record.name: METRIC_OF_RECORD.get(record.name, set(VARIABLES)) for record in records(Objectives())}
    for query in queries():
        for name, matchers in re.findall(r"(headwaiter[\w:]+)(?:{([^}]*)})?", query):
            short = name.removeprefix(PREFIX)
            metric = METRICS.get(short) or METRICS.get(re.sub(r"_(bucket|sum|count)$", "", short))
            labels = set(metric.labels) if metric else recorded[name]
            if short in REFUSED:
                labels -= {"version", "task"}
            asked = dict(re.findall(r'(\w+)=~"(\$\w+)"', matchers))
            assert asked == {label: f"${label}" for label in VARIABLES & labels}, query


REFUSED = {"rejected_total"}
"""Most of these requests have reached no version, so that a chosen version would hide them."""
METRIC_OF_RECORD = {BUDGET_LEFT: {"model"}, LATENCY_OF_OBJECTIVE: {"model"}}
"""The labels of recorded series that have fewer than the variables."""


def test_all_means_every_value() -> None:
    for built in BUILT.values():
        for variable in built["templating"]["list"][1:]:
            assert (variable["includeAll"], variable["multi"], variable["allValue"]) == (True, True, ".*")
            assert variable["current"]["value"] == "$__all"


def test_a_unit_has_one_meaning() -> None:
    """The unit of a panel follows from its query: the metric's own, a share of 1, or a number per second."""
    seen: dict[str, str] = {}
    for panel in panels():
        if panel["type"] in ("table", "heatmap") or panel["options"].get("textMode") == "name":
            continue
        for query in (target["expr"] for target in panel["targets"]):
            if (unit := unit_of(query)) is not None:
                assert panel["fieldConfig"]["defaults"]["unit"] == unit, (panel["title"], query)
                seen[unit] = query
    assert seen.keys() == {"s", "short", "bytes", "percentunit", "reqps", "bool"}


def unit_of(query: str) -> str | None:
    """The unit that follows from a query; None of recorded series, whose names say theirs."""
    if "headwaiter:" in query:
        return "percentunit" if "ratio" in query else None
    (first, *_) = named(query)
    metric = METRICS[first]
    if "histogram_quantile" in query or "_sum{" in query:
        return metric.unit
    if " / " in query:
        return "percentunit"
    if "rate(" in query:
        of_requests = (
            "request_duration_seconds",
            "rejected_total",
            "rollout_shadow_total",
            "rollout_shadow_dropped_total",
        )
        return "reqps" if first in of_requests else "short"
    return metric.unit if len(named(query)) == 1 else None


def test_a_colour_has_one_meaning() -> None:
    meanings: dict[str, set[str]] = {}
    for panel in panels():
        defaults = panel["fieldConfig"]["defaults"]
        for step in defaults.get("thresholds", {"steps": []})["steps"]:
            assert step["color"] in (GOOD, NEAR, BAD)
        for override in panel["fieldConfig"]["overrides"]:
            (color,) = (each["value"]["fixedColor"] for each in override["properties"])
            meanings.setdefault(color, set()).add(override["matcher"]["options"])
        if panel["type"] == "timeseries":
            assert defaults["color"]["mode"] == "palette-classic-by-name", "of a version everywhere the same"
    assert all(len(found) == 1 for found in meanings.values())
    assert set().union(*meanings.values()) >= {"/^p99$/", "/^queue$/", "/^5..$/"}
    assert {color for color, found in meanings.items() if color in (GOOD, NEAR, BAD)} == {GOOD, NEAR, BAD}


def test_values_below_zero_are_within_the_axis() -> None:
    verdicts = next(panel for panel in panels() if panel["title"] == "Verdicts")
    assert verdicts["fieldConfig"]["defaults"]["min"] == -1


def test_latency_panels_show_exemplars() -> None:
    shown = {panel["title"] for panel in panels() if any(target["exemplar"] for target in panel["targets"])}
    assert shown >= {"Latency of requests", "Latency heat map"}
    for panel in panels():
        for target in panel["targets"]:
            assert not target["exemplar"] or "request_duration_seconds_bucket" in target["expr"]


def test_exemplars_lead_to_traces_where_there_is_a_store_of_them() -> None:
    def sources(**given: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = yaml.safe_load(files(**given)[SOURCES])["datasources"]
        return found

    (prometheus,) = sources()
    assert "exemplarTraceIdDestinations" not in prometheus["jsonData"]
    prometheus, tempo = sources(tempo="http://tempo:3200")
    (link,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert link == {"name": "trace_id", "datasourceUid": tempo["uid"]}
    assert (tempo["type"], tempo["url"]) == ("tempo", "http://tempo:3200")


SOURCES = "grafana/provisioning/datasources/headwaiter.yml"


def test_the_heat_map_uses_the_histograms_own_buckets_and_unit() -> None:
    (heat_map,) = (panel for panel in panels() if panel["type"] == "heatmap")
    assert heat_map["options"]["calculate"] is False
    assert heat_map["options"]["yAxis"]["unit"] == "s"
    assert [target["format"] for target in heat_map["targets"]] == ["heatmap"]


@pytest.mark.parametrize("name", BUILT)
def test_panels_have_units_and_descriptions_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BUILT[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in BUILT[name]["panels"]}) == len(BUILT[name]["panels"])


@pytest.mark.parametrize("name", BUILT)
def test_a_dashboard_imports_without_edits_and_leads_to_the_others(name: str) -> None:
    built = BUILT[name]
    variables = [variable["name"] for variable in built["templating"]["list"]]
    assert variables == ["datasource", "model", "version", "task"]
    assert {panel["datasource"]["uid"] for panel in built["panels"] if panel["type"] != "row"} == {"${datasource}"}
    assert [link["tags"] for link in built["links"]] == [built["tags"]]
    assert "swap_total" in built["annotations"]["list"][0]["expr"]
    assert all("rollout_step" in each["expr"] for each in built["annotations"]["list"][1:3])
    assert built["annotations"]["list"][3]["target"]["tags"] == ["headwaiter", "rollout"]
    assert built["uid"] == f"headwaiter-{name}"


def test_there_are_the_five_dashboards() -> None:
    assert list(BUILT) == ["overview", "rollout", "quality", "generation", "hardware"]


def test_an_export_names_the_servers_it_was_given(tmp_path: Path) -> None:
    written = export(tmp_path, files(("a:1", "b:2"), "http://prometheus:9090", Objectives(0.99, 0.9, 0.25)))
    assert all(path.is_file() for path in written)
    scraped = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": ["a:1", "b:2"]}]
    source = yaml.safe_load((tmp_path / "grafana/provisioning/datasources/headwaiter.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    rules = (tmp_path / "prometheus/rules.yml").read_text()
    assert 'le="0.25"' in rules
    assert "0.144" in rules


@pytest.mark.parametrize(("field", "value"), [("latency_seconds", 0.3), ("availability", 1.0), ("latency_share", 0.0)])
def test_objectives_that_cannot_be_measured_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match="no bucket|between 0 and 1"):
        Objectives(**{field: value})
