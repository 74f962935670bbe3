"""The parts of docs/reliability.md that benchmarks write, each between two comments that name the benchmark."""

from pathlib import Path

from bench.processes import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def written() -> list[str]:
    """The benchmarks that have a part."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines if line.startswith("<!-- ") and line.endswith(" begin -->")]


def write_part(name: str, machine: str, section: str, page: Path = PAGE) -> None:
    """Replace the part of a benchmark. section: its report, whose heading becomes a line. machine: where it ran.

    Raises ValueError where the page has no such part.
    """
    begin, end = f"<!-- {name} begin -->\n", f"<!-- {name} end -->\n"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no part of {name!r}")
    heading, _, body = section.strip().partition("\n")
    title = heading.removeprefix("## ")
    text = f"{title[0].upper()}{title[1:]}. Measured on {machine}.\n{body}\n"
    page.write_text(before + begin + text + end + after, encoding="utf-8")
