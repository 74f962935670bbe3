"""Markdown tables."""

from collections.abc import Sequence

from bench.results import LoadResult
from bench.texts import SHORT, describe_lengths


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; the first column is aligned left, the others right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        _line(header, widths),
        _line([":" + "-" * (widths[0] - 1), *("-" * (w - 1) + ":" for w in widths[1:])], widths),
    ]
    return "\n".join(lines + [_line(row, widths) for row in rows])


def by_turns(title: str, connections: int, rounds: int, seconds: float, results: str) -> str:
    """The section of a benchmark whose servers are loaded by turns with short texts.

    seconds: measured time of each server, all rounds together. results: its table.
    """
    return "\n".join(
        [
            f"## {title}",
            "",
            f"{connections} keep-alive connections, one short text per request ({describe_lengths(SHORT)}), "
            f"{rounds} rounds of {seconds / rounds:.1f} s by turns: mean rate, median of the rounds' percentiles.",
            "",
            results,
        ]
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]) + " |"


def rate(value: float) -> str:
    """Requests or sequences per second, with as many digits as mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def errors(results: Sequence[LoadResult]) -> str:
    """Every status but 200 with its count, "0" where there was none."""
    counts: dict[str, int] = {}
    for result in results:
        for status, count in result.errors.items():
            counts[status] = counts.get(status, 0) + count
    return ", ".join(f"{count} × {status}" for status, count in sorted(counts.items())) or "0"
