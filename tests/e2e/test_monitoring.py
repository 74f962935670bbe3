"""A real Prometheus watches a real server through a promote and a rollback.

Its configuration is the shipped one but for the intervals, which are shorter: what is waited for here, it waits for.
"""

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitoring.alerts import alerts
from monitoring.dashboards import DASHBOARDS
from monitoring.gpus import read_gpus
from monitoring.grafana_json import ROLLOUT_ENDS, ROLLOUT_STEPS, SWAPS
from monitoring.metrics import HARDWARE, METRICS, PREFIX
from monitoring.objectives import Objectives
from registry.rollout.guards import Guard
from serving.manager.rollout.prometheus import read_guards
from tests.abilities import needs
from tests.e2e.server import Server, invoke, wait_until
from tests.e2e.watcher import Collector, Prometheus, Traffic
from tests.rollout_registry import MemoryVersions
from tests.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a text that only its sender knows"
TEXTS = ("I love this.", "The parcel came two weeks late, and nobody knew where it was.", "Berlin", "what time is it")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"

pytestmark = needs("prometheus")


@dataclass
class Watched:
    """A server after a promote and a rollback, and who watched. asked_until: the time at which requests came last."""

    server: Server
    prometheus: Prometheus
    collector: Collector
    asked_until: float


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory,
    models: dict[str, Path],
    seeds: list[Path],
    family_folders: dict[str, Path],
) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("w")  # sockets need a short path
    sample = tmp_path_factory.mktemp("sample") / "sample.jsonl"
    sample.write_text("".join(json.dumps(text) + "\n" for text in TEXTS * 10))
    for folder in seeds[:2]:
        log(home, folder, "text-classification", "sentiment", "--sample", str(sample))
    log(home, models["tokens"], "token-classification", "names", "--sample", str(sample))
    log(home, models["base"], "feature-extraction", "embedder")
    log(home, family_folders["text-generation"], "text-generation", "writer")
    for name in ("sentiment", "names", "embedder", "writer"):
        invoke(home, "promote", name, "1", "--why", "the first one")
    with Collector() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        environ |= {"HEADWAITER_SLOW_SECONDS": "0.001"}
        with Server(home, ("sentiment", "names", "embedder", "writer"), environ, ("--workers", "2")) as server:
            exported = tmp_path_factory.mktemp("exported")
            invoke(home, "monitoring", "export", str(exported), "--target", f"127.0.0.1:{server.port}")
            config = exported / "prometheus" / "prometheus.yml"
            shorten(config, "5s", "2s")
            shorten(config.with_name("rules.yml"), "30s", "4s")
            with Prometheus(config, tmp_path_factory.mktemp("prometheus")) as prometheus:
                with Traffic(lambda number: send(server, number)), Traffic(lambda number: send(server, number + 1)):
                    wait_until(lambda: prometheus.query("headwaiter_swap_total > 0"), "the first scrape")
                    invoke(home, "promote", "sentiment", "2", "--why", "better")
                    wait_until(lambda: server.live("sentiment") == "2", "version 2 is live")
                    wait_until(lambda: answered(prometheus, "2"), "version 2 is seen to answer")
                    invoke(home, "rollback", "sentiment", "--why", "worse after all")
                    wait_until(lambda: server.live("sentiment") == "1", "version 1 is live again")
                    warm = 'headwaiter_swap_duration_seconds_count{start="warm"} > 0'
                    wait_until(lambda: prometheus.query(warm), "the rollback is seen")
                    wait_until(lambda: prometheus.query("count(headwaiter:drift_psi:1h) > 2"), "drift")
                    wait_until(lambda: prometheus.query('headwaiter:drift_psi:1h{version="1"}'), "of version 1")
                    asked_until = time.time()
                yield Watched(server, prometheus, collector, asked_until)


def shorten(path: Path, before: str, after: str) -> None:
    """Let what is done each `before` be done each `after`."""
    text = path.read_text(encoding="utf-8")
    changed = re.sub(rf"(interval: ){before}$", rf"\g<1>{after}", text, flags=re.MULTILINE)
    assert changed != text
    path.write_text(changed, encoding="utf-8")


def log(home: Path, folder: Path, task: str, name: str, *options: str) -> None:
    invoke(home, "log", str(folder), "--task", task, "--name", name, "--dtype", "float32", *options)


def send(server: Server, number: int) -> None:
    """One of several kinds of request, some of which are refused."""
    text = TEXTS[number % len(TEXTS)]
    model = ("sentiment", "names", "sentiment", "embedder")[number % 4]
    server.post(model, {"inputs": [TEXTS[(number + more) % len(TEXTS)] for more in range(1 + number % 3)]})
    if number % 5 == 0:
        server.post("writer", {"inputs": text, "parameters": {"max_new_tokens": 8}})
    if number % 10 == 0:
        server.post("sentiment", {"inputs": ""})
        server.post("nobody", {"inputs": text})


def answered(prometheus: Prometheus, version: str) -> bool:
    query = f'sum(rate(headwaiter_request_duration_seconds_count{{model="sentiment",version="{version}"}}[20s])) > 0'
    return bool(prometheus.query(query))


def as_grafana_asks(query: str) -> str:
    """A panel's query with every variable set to all, and the interval that Grafana derives from a scrape each 5 s."""
    return re.sub(r"\$(model|version|task)", ".*", query).replace("$__rate_interval", "20s")


def unfed(query: str) -> bool:
    """Whether there is nothing to show, because this machine has no GPU, or because no rollout is under way."""
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(rf"\b{PREFIX}(\w+)", query)}
    missing = {name for name in METRICS if name.startswith("rollout_")}
    if not read_gpus():
        missing |= {name for name in HARDWARE if name.startswith("gpu")}
    return bool(names & missing)


def test_every_panels_query_returns_data(watched: Watched) -> None:
    for dashboard in DASHBOARDS:
        for title, panels in dashboard.rows:
            for panel in panels:
                for query, _ in panel.queries:
                    told = has_number(watched, query) or unfed(query)
                    assert told, f"{dashboard.name} / {title} / {panel.title}: {query}"


def has_number(watched: Watched, query: str) -> bool:
    """Whether a panel has one while requests came: a share of the last ones is none once there are no more.

    A scrape that takes a busy machine too long leaves a gap, so the time before is looked at, too.
    """
    for seconds in range(0, 16, 4):
        found = watched.prometheus.query(as_grafana_asks(query), watched.asked_until - seconds)
        if any(math.isfinite(float(sample["value"][1])) for sample in found):
            return True
    return False


def test_the_dashboards_data_can_be_drawn(watched: Watched, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "overview.png"
    command = [sys.executable, str(ROOT / "docs/draw_dashboard.py"), watched.prometheus.url, str(picture)]
    subprocess.run([*command, "--minutes", "5"], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_guard_of_a_rollout_may_be_a_query(watched: Watched) -> None:
    state = MemoryVersions().rollouts().start("m", "2", why="x")
    query = (
        'sum by (version) (headwaiter_request_duration_seconds_count{model="sentiment",version=~"$stable|$candidate"})'
    )
    guards = [Guard.parse(f"promql({text}) > 0") for text in (query, "scalar(count(up))", "no_such_metric", "count(")]

    def read() -> Any:
        found = tuple(read_guards(watched.prometheus.url, guards, "sentiment", state).values())
        return found if len(found[0].values) == 2 else None

    _, scalar, missing, refused = wait_until(read, "both versions have a number")
    assert scalar.values == (1.0,)
    assert missing.trouble == "the query has no value"
    assert "does not answer the query" in refused.trouble


def test_every_rule_is_evaluated_without_error_and_alerts_have_something_to_look_at(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) > 50
    wait_until(lambda: all(rule["health"] == "ok" for rule in watched.prometheus.rules()), "every rule has run")
    looked_at = {rule["name"] for rule in rules if rule["type"] == "recording"}
    for rule in rules:
        looked_at |= set(re.findall(r"\b(?:headwaiter[\w:]+|up)\b(?=[{\[) ])", rule["query"]))
    for name in (name for name in looked_at if not unfed(name)):  # a rule's first run may come before its second scrape
        wait_until(lambda name=name: bool(watched.prometheus.query(name)), f"{name} has samples")
    firing = [rule["name"] for rule in rules if rule["type"] == "alerting" and rule["state"] == "firing"]
    objective = {alert.name for alert in alerts(Objectives()) if "BudgetBurn" in alert.name or "Drift" in alert.name}
    assert set(firing) <= objective, "of the rest nothing is wrong here"


def test_a_swap_is_marked(watched: Watched) -> None:
    for annotation in (ROLLOUT_STEPS, ROLLOUT_ENDS):
        assert watched.prometheus.query(as_grafana_asks(annotation["expr"])) == [], "no rollout was under way"
    expr = as_grafana_asks(SWAPS["expr"]).replace("[1m]", "[10m]")
    found = watched.prometheus.query(expr)
    assert {(sample["metric"]["model"], sample["metric"]["outcome"]) for sample in found} == {("sentiment", "success")}


def test_the_baseline_is_that_of_the_sample(watched: Watched) -> None:
    shares = 'headwaiter_baseline_label_share{model="sentiment",version="1"}'
    found = wait_until(lambda: watched.prometheus.query(shares), "the last scrape was in time")
    assert sum(float(sample["value"][1]) for sample in found) == pytest.approx(1)
    expected: dict[str, float] = {}
    for text in TEXTS:
        label = watched.server.ask("sentiment", text, version="1")[0][0]["label"]
        expected[label] = expected.get(label, 0) + 0.25
    assert {sample["metric"]["label"]: float(sample["value"][1]) for sample in found} == expected
    drift = 'headwaiter:drift_psi:1h{model="sentiment",version="1"}'

    def compared() -> set[str]:
        return {sample["metric"]["of"] for sample in watched.prometheus.query(drift)}

    wait_until(lambda: compared() == {"label", "confidence", "row_tokens"}, "so was the one that the rule looked at")


def test_the_stages_add_up_to_the_request(watched: Watched) -> None:
    server = watched.server
    before = totals(server)
    for number in range(300):
        server.ask("sentiment", TEXTS[number % 4])
    request, stages = (after - then for after, then in zip(totals(server), before, strict=True))
    assert stages == pytest.approx(request, rel=1e-6), "both are taken from the same readings of the clock"
    assert request > 0


def totals(server: Server) -> tuple[float, float]:
    request = server.sample("request_duration_seconds_sum", model="sentiment", status="200")
    return request, server.sample("stage_duration_seconds_sum", model="sentiment")


def test_counters_outlive_engines_and_fronts_and_gauges_do_not(watched: Watched) -> None:
    server = watched.server
    counted = [name for name, metric in METRICS.items() if metric.kind in ("counter", "histogram")]

    def counts() -> dict[str, float]:
        text = server.http.get("/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {
            series: float(value)
            for series, _, value in lines
            if any(re.match(rf"{PREFIX}{name}(_sum|_count|_bucket)?{{", series) for name in counted)
        }

    def memory_series() -> int:
        return server.http.get("/metrics").text.count("headwaiter_engine_memory_bytes{")

    series = memory_series()
    before = counts()
    engines = server.processes("serving.engine")
    engines[0].kill()
    engines[0].wait(WAIT_SECONDS)
    assert_only_grew(before, counts())
    wait_until(lambda: len(server.processes("serving.engine")) == len(engines), "the engine is started again")
    wait_until(lambda: memory_series() == series, "its memory is shown again")
    wait_until(lambda: server.post("sentiment", {"inputs": "x"}).status_code == 200, "it answers")
    server.http.post("/models/sentiment", json={"inputs": "x"}, headers={"x-request-id": "the-last-one"})
    wait_until(lambda: is_traced(watched, "the-last-one"), "the front that is killed has sent its traces")
    before = counts()
    front = next(process for process in server.processes("--worker-id") if is_front(process))
    front.kill()
    front.wait(WAIT_SECONDS)
    wait_until(lambda: server.http.get("/metrics").status_code == 200, "another front answers")
    assert_only_grew(before, counts())
    wait_until(lambda: server.sample("requests_in_progress") == 0, "the killed front's gauge has left")
    wait_until(server.is_ready, "ready again")


def is_traced(watched: Watched, request_id: str) -> bool:
    """Whether the collector has a span of this request."""
    found = (each for span in watched.collector.spans for each in span.attributes)
    return any(each.key == "headwaiter.request_id" and each.value.string_value == request_id for each in found)


def is_front(process: Any) -> bool:
    return "serving.service:Headwaiter" in process.cmdline() and "headwaiter_manager" not in " ".join(process.cmdline())


def assert_only_grew(before: dict[str, float], after: dict[str, float]) -> None:
    assert before
    for series, value in before.items():
        assert after.get(series, -1) >= value, series


@pytest.mark.long
def test_series_are_bounded_whatever_clients_send(watched: Watched) -> None:
    server = watched.server

    def count() -> int:
        return sum(not line.startswith("#") for line in server.http.get("/metrics").text.splitlines())

    async def flood(first: int, last: int) -> set[int]:
        numbers, seen = iter(range(first, last)), set()
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_SECONDS) as client:

            async def ask_on() -> None:
                for number in numbers:
                    paths = (f"/{number}/any", f"/models/m{number}", f"/models/sentiment/versions/{number + 3}")
                    body = {"inputs": f"text {number}", f"label{number}": number}
                    seen.add((await client.post(paths[number % 3], json=body)).status_code)

            await asyncio.gather(*(ask_on() for _ in range(8)))
        return seen

    asyncio.run(flood(0, 30))
    before = count()
    assert asyncio.run(flood(30, 3_030)) <= {404, 405}
    assert count() == before
    assert server.sample("rejected_total", reason="unknown_model") > 1_000


def test_logs_are_json_and_hold_ids_and_stages_but_no_input(watched: Watched) -> None:
    server = watched.server
    answer = server.http.post("/models/sentiment", json={"inputs": SECRET}, headers={"x-request-id": "from-a-client"})
    assert answer.headers["x-request-id"] == "from-a-client"
    (line,) = wait_until(lambda: lines(server, "from-a-client"), "the slow request is logged")
    assert (line["level"], line["message"], line["logger"]) == ("warning", "a slow request", "headwaiter.request")
    assert (line["model"], line["version"], line["status"]) == ("sentiment", "1", 200)
    assert sum(line["stages"].values()) == pytest.approx(line["seconds"], abs=1e-4)
    assert SECRET not in server.log.read_text()
    odd = server.http.post("/models/sentiment", json={"inputs": "x"}, headers={"x-request-id": 'no "quotes"'})
    assert re.fullmatch("[0-9a-f]{32}", odd.headers["x-request-id"])
    refused = server.http.post("/models/nobody", json={"inputs": "x"}, headers={"x-request-id": "refused"})
    assert refused.headers["x-request-id"] == "refused"
    typed = server.http.post("/predict", json={"model": "sentiment", "inputs": "x"}, headers={"x-request-id": "typed"})
    assert typed.headers["x-request-id"] == "typed"


def lines(server: Server, request_id: str) -> list[dict[str, Any]]:
    whole = [line for line in server.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in map(json.loads, whole) if line.get("request_id") == request_id]


def test_a_latency_bucket_leads_to_the_trace_of_a_request(watched: Watched) -> None:
    series = 'headwaiter_request_duration_seconds_bucket{model="sentiment"}'
    found = wait_until(lambda: watched.prometheus.exemplars(series), "Prometheus keeps exemplars")
    asked = {exemplar["labels"]["trace_id"]: float(exemplar["value"]) for exemplar in found}

    def traced() -> dict[str, float]:
        spans = [span for span in watched.collector.spans if span.name == "predict sentiment"]
        return {span.trace_id.hex(): (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for span in spans}

    wait_until(lambda: asked.keys() <= traced().keys(), "the collector has these traces")
    for trace_id, seconds in asked.items():
        assert traced()[trace_id] == pytest.approx(seconds, abs=1e-4)


def test_spans_of_the_stages_stand_below_the_callers(watched: Watched) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    watched.server.http.post("/models/sentiment", json={"inputs": "x"}, headers=headers)

    def mine() -> list[Any]:
        found = [span for span in watched.collector.spans if span.trace_id.hex() == TRACE]
        return found if len(found) == 5 else []

    spans = {span.name: span for span in wait_until(mine, "the spans arrive")}
    assert set(spans) == {"predict sentiment", "encode", "queue", "forward", "decode"}
    request = spans.pop("predict sentiment")
    assert request.parent_span_id.hex() == PARENT
    at = request.start_time_unix_nano
    for name in ("encode", "queue", "forward", "decode"):
        assert spans[name].parent_span_id == request.span_id
        assert spans[name].start_time_unix_nano == at
        at = spans[name].end_time_unix_nano
    assert at == request.end_time_unix_nano
