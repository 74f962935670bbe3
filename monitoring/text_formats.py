"""The two formats of `/metrics`: Prometheus' text 0.0.4, and OpenMetrics 1.0.0, which has exemplars, too."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from monitoring.exemplars import Exemplar
from monitoring.merge import SampleValues, Series
from monitoring.metrics import METRICS, Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TRACE_LABEL = "trace_id"
"""Of an exemplar."""
OTHER_PARTS = ("_count", "_sum")


def choose_format(accept: str) -> str:
    """The content type for a client. accept: its header; Prometheus names OpenMetrics first, browsers don't."""
    kinds = {part.partition(";")[0].strip() for part in accept.split(",")}
    return OPEN_METRICS if OPEN_METRICS.partition(";")[0] in kinds else TEXT


def to_text(values: SampleValues) -> str:
    """Prometheus' text."""
    return "".join(_lines(values, {}, TEXT))


def to_open_metrics(values: SampleValues, exemplars: Mapping[Series, Sequence[Exemplar | None]]) -> str:
    """OpenMetrics. exemplars: of each bucket of some histograms."""
    return "".join([*_lines(values, exemplars, OPEN_METRICS), "# EOF\n"])


def _lines(values: SampleValues, exemplars: Mapping[Series, Sequence[Exemplar | None]], form: str) -> list[str]:
    by_name: dict[str, list[Series]] = {}
    for series in values:
        by_name.setdefault(series[0], []).append(series)
    lines: list[str] = []
    for name in sorted(by_name):
        metric = METRICS[name]
        lines.append(_description(metric, form))
        for series in sorted(by_name[name]):
            numbers, heads = values[series], _heads(series)
            if metric.kind == "histogram":
                count = 0.0
                tails = map(_tail, exemplars.get(series) or [None] * len(numbers))
                for head, number, tail in zip(heads, numbers[1:], tails, strict=False):
                    count += number
                    lines.append(f"{head}{count!r}{tail}\n")
                lines.append(f"{heads[-2]}{count!r}\n{heads[-1]}{numbers[0]!r}\n")
            else:
                lines.append(f"{heads[0]}{_number(numbers[0])}\n")
    return lines


def _description(metric: Metric, form: str) -> str:
    """What a metric is. In OpenMetrics a counter's name is without `_total`, and its help may not have a bare quote."""
    kind = "gauge" if metric.kind == "snapshot" else metric.kind
    name, text = metric.full_name, metric.help
    if form == OPEN_METRICS:
        text = text.replace('"', '\\"')
        if kind == "counter":
            name = name.removesuffix("_total")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _tail(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{{TRACE_LABEL}="{exemplar.trace_id}"}} {exemplar.value!r} {exemplar.time:.3f}'


@lru_cache(maxsize=20_000)
def _heads(series: Series) -> tuple[str, ...]:
    """All of a series' lines but their numbers; of a histogram its buckets', its count's and its sum's."""
    metric = METRICS[series[0]]
    pairs = [f'{name}="{_escape(value)}"' for name, value in zip(metric.labels, series[1], strict=True)]
    if metric.kind != "histogram":
        return (f"{metric.full_name}{_braces(pairs)} ",)
    bounds = [_braces([*pairs, f'le="{bound}"']) for bound in metric.bounds]
    buckets = (f"{metric.full_name}_bucket{inside} " for inside in bounds)
    return (*buckets, *(f"{metric.full_name}{part}{_braces(pairs)} " for part in OTHER_PARTS))


def _braces(pairs: Iterable[str]) -> str:
    inside = ",".join(pairs)
    return f"{{{inside}}}" if inside else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return {float("inf"): "+Inf", float("-inf"): "-Inf"}.get(value, repr(value))
