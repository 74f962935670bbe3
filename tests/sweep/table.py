"""The cells as a table in Markdown: families in rows, heads in columns, the reasons below."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.sweep.cell import Cell

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
BEGIN, END = "<!-- made by `make test-families` -->", "<!-- end of the table -->"
COLUMNS = {
    "feature-extraction": "vec",
    "text-classification": "txt",
    "token-classification": "tok",
    "question-answering": "QA",
    "fill-mask": "mask",
    "text-generation": "gen",
    "text2text-generation": "t2t",
    "multiple-choice": "MC",
    "next-sentence-prediction": "NSP",
    "image-classification": "img",
}
SYMBOLS = {
    "any lengths": "=",
    "any lengths, padded on the left": "=L",
    "equal lengths": "=E",
    "one row": "=1",
    "refused": "no",
    "not built": "?",
    "differs": "≠",
    "fault": "!",
}
SERVED = ("=", "=L", "=E", "=1")
"""The signs of cells whose answers are those of transformers."""
LEGEND = """\
| sign | meaning |
|---|---|
| = | answers alone and in a batch with rows of other lengths are those of transformers, one text at a time |
| =L, =E, =1 | so, where rows are padded on the left; only rows of equal length share a batch; none do |
| no | refused when it is logged; the reason is below |
| ? | not tried yet: not reached, or no small model of the architecture is known that transformers itself runs |
| | transformers has no such head |
"""


def render(cells: Iterable[Cell]) -> str:
    """The text between the markers: legend, table, families that have no head but are feature extractors, reasons."""
    rows: dict[str, dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        rows[cell.family][cell.task] = cell
    reasons: dict[str, int] = {}
    several = {family: found for family, found in rows.items() if len(found) > 1 or "feature-extraction" not in found}
    lines = [f"| family | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for family in sorted(several):
        signs = [_sign(several[family].get(task), reasons) for task in COLUMNS]
        lines.append(f"| {family} | {' | '.join(signs)} |")
    single = {family: found["feature-extraction"] for family, found in rows.items() if family not in several}
    return "\n".join([LEGEND, *lines, "", *_singles(single, reasons), *_notes(reasons)]) + "\n"


def _sign(cell: Cell | None, reasons: dict[str, int]) -> str:
    if cell is None:
        return ""
    if cell.is_served or cell.found == "not built":
        return SYMBOLS[cell.found]
    number = reasons.setdefault(f"{SYMBOLS[cell.found]} {shorten(cell)}", len(reasons) + 1)
    return f"{SYMBOLS[cell.found]} {number}"


def _singles(single: Mapping[str, Cell], reasons: dict[str, int]) -> Sequence[str]:
    """Families by sign, a line each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for family in sorted(single):
        groups[_sign(single[family], reasons)].append(family)
    if not groups:
        return []
    lines = ["Architectures that have no head, as feature-extraction:", "", "| sign | families |", "|---|---|"]
    return [*lines, *(f"| {sign} | {', '.join(names)} |" for sign, names in sorted(groups.items())), ""]


def _notes(reasons: Mapping[str, int]) -> Sequence[str]:
    lines = [
        f"| {reason.split(' ', 1)[0]} {number} | {reason.split(' ', 1)[1]} |" for reason, number in reasons.items()
    ]
    return ["| sign | reason |", "|---|---|", *lines] if lines else []


def shorten(cell: Cell) -> str:
    """The reason without what differs from one family to the next: class, numbers, place in a file."""
    text = re.sub(r" \([\w.]+:\d+\)$", "", cell.detail.partition("\n")[0])
    text = re.sub(r"\b\w+(Model|For\w+|LMHeadModel)\b", "its class", text)
    text = re.sub(r"[;:] .*(?:`headwaiter heads.*|only a decoder.*)$", "", text)
    return re.sub(r"\d[\d.,]*", "n", text).replace("|", "\\|").replace(cell.family, "it")[:160]


def read_page(page: Path = PAGE) -> str:
    """The text between the markers; raises ValueError without them."""
    text = page.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) + 1 : text.index(END)]


def write_page(table: str, page: Path = PAGE) -> None:
    """Replace the text between the markers."""
    text = page.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN) + 1], text[text.index(END) :]
    page.write_text(before + table + after, encoding="utf-8")


def parse(table: str) -> dict[tuple[str, str], str]:
    """(family, task) → sign without its reason's number; "" where there is no such head."""
    signs: dict[tuple[str, str], str] = {}
    for line in table.splitlines():
        parts = [part.strip() for part in line.split("|")[1:-1]]
        if len(parts) == len(COLUMNS) + 1 and parts[0] not in ("family", "---"):
            signs |= {(parts[0], task): sign.partition(" ")[0] for task, sign in zip(COLUMNS, parts[1:], strict=True)}
        if (
            len(parts) == 2
            and (", " in parts[1] or re.fullmatch(r"[\w.-]+", parts[1]))
            and parts[0] not in ("sign", "---")
        ):
            names = parts[1].split(", ")
            if all(re.fullmatch(r"[\w.-]+", name) for name in names):
                signs |= {(name, "feature-extraction"): parts[0].partition(" ")[0] for name in names}
    return signs


def find_differences(found: str, page: str) -> list[str]:
    """Cells of the page that a sweep found otherwise, in words; what it did not try is none."""
    signs = parse(page)
    return [
        f"{family}, {task}: {sign or 'no head'}, the page has {signs.get((family, task)) or 'none'}"
        for (family, task), sign in parse(found).items()
        if signs.get((family, task), "") not in (sign, SYMBOLS["not built"])
    ]
