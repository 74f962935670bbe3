"""PromQL, made from the metric declarations, so that no query can name a metric that is not there. Next: panels, rules.

`by`: the labels that stay apart; the series are summed over all others. `filters`: label matchers, without braces.
"""

from monitoring.metrics import METRICS

MODEL_VERSION = ("model", "version")
"""The labels by which panels tell versions apart: a version has one task."""
FILTER = 'model=~"$model",version=~"$version",task=~"$task"'
OF_MODEL = 'model=~"$model"'
"""For metrics that have no version."""
WINDOW = "$__rate_interval"


def rate(name: str, *by: str, filters: str = FILTER, suffix: str = "", window: str = WINDOW) -> str:
    """The per-second rate of a counter, or of a histogram's `suffix` series."""
    return f"sum by ({', '.join(by)}) (rate({series(name, filters, suffix)}[{window}]))"


def quantile(level: float, name: str, *by: str, filters: str = FILTER) -> str:
    """A quantile of a histogram; level in 0..1."""
    return f"histogram_quantile({level}, {rate(name, 'le', *by, filters=filters, suffix='_bucket')})"


def quantile_so_far(level: float, name: str, *by: str, filters: str = FILTER) -> str:
    """A quantile of all that a histogram observed since the server started: for rare events."""
    return f"histogram_quantile({level}, {total(name, 'le', *by, filters=filters, suffix='_bucket')})"


def mean(name: str, *by: str) -> str:
    """The mean of what a histogram observed."""
    return f"{rate(name, *by, suffix='_sum')} / {rate(name, *by, suffix='_count')}"


def share(name: str, *by: str, part: str, suffix: str = "") -> str:
    """The part of a rate that the matcher `part` selects, 0..1; 0 where the rate has no such part yet."""
    whole = rate(name, *by, suffix=suffix)
    return f"({rate(name, *by, filters=f'{FILTER},{part}', suffix=suffix)} or 0 * {whole}) / {whole}"


def share_of_all(name: str, *by: str, within: tuple[str, ...], suffix: str = "") -> str:
    """The share of each `by` among all series with the same labels `within`, 0..1."""
    whole = rate(name, *within, suffix=suffix)
    return f"{rate(name, *by, suffix=suffix)} / on ({', '.join(within)}) group_left {whole}"


def total(name: str, *by: str, filters: str = FILTER, suffix: str = "") -> str:
    """The sum of a gauge, or of a counter since the server started."""
    return f"sum by ({', '.join(by)}) ({series(name, filters, suffix)})"


def each(name: str, filters: str = FILTER) -> str:
    """Each combination of a metric's labels once, without what the scrape added (job, instance)."""
    return f"max by ({', '.join(METRICS[name].labels)}) ({series(name, filters)})"


def series(name: str, filters: str = "", suffix: str = "") -> str:
    """A declared metric's series."""
    return f"{METRICS[name].full_name}{suffix}{{{filters}}}" if filters else f"{METRICS[name].full_name}{suffix}"
