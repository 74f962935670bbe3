"""What benchmarks write into the page on reliability."""

from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS
from bench.page import write_part, written
from bench.soak import Curve

PAGE = """# Page

<!-- one begin -->
old
<!-- one end -->

between

<!-- two begin -->
<!-- two end -->
after
"""


def test_a_report_replaces_its_part_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_part("two", "2 cores", "## The title\n\nthe table\n", page)
    write_part("one", "2 cores", "## a title\n\na table", page)
    whole = PAGE.replace("old\n", "A title. Measured on 2 cores.\n\na table\n")
    whole = whole.replace("two begin -->\n", "two begin -->\nThe title. Measured on 2 cores.\n\nthe table\n")
    assert page.read_text() == whole
    with pytest.raises(ValueError, match="no part of 'three'"):
        write_part("three", "2 cores", "## a title\n\na table", page)


def test_the_page_has_parts_of_benchmarks_that_there_are() -> None:
    assert written() == ["chaos", "soak"]
    assert set(written()) <= set(BENCHMARKS)


def test_growth_leaves_the_start_out() -> None:
    curve = Curve([float(second) for second in range(100)], [50.0] * 10 + [100.0] * 80 + [104.0] * 10, [7] * 100)
    assert curve.growth(curve.mebibytes) == 1.04
    assert curve.growth(curve.descriptors) == 1
    assert "line [50, 50, 100, 100," in curve.draw()
