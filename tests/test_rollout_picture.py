"""The picture of a rollout in docs/rollouts.md shows what its data say, and these are what the demo recorded."""

import importlib.util
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from serving.demo.rollout import DemoCandidate, Rollout
from serving.demo.traffic import Sent

DOCS = Path(__file__).resolve().parent.parent / "docs"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawing() -> Any:
    """docs/draw_rollout.py, as a module."""
    spec = importlib.util.spec_from_file_location("draw_rollout", DOCS / "draw_rollout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(drawing: Any) -> Any:
    return msgspec.json.decode(drawing.DATA.read_bytes(), type=drawing.Drawn)


def test_the_picture_is_drawn_from_the_data_beside_it(drawing: Any, data: Any) -> None:
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.draw(data), "run python docs/draw_rollout.py"
    page = (DOCS / "rollouts.md").read_text(encoding="utf-8")
    assert "](images/rollout.svg)" in page
    assert f"{data.requests:,} requests" in page


def test_what_is_drawn_can_be_read_off_its_axes(drawing: Any, data: Any) -> None:
    picture = ElementTree.fromstring(drawing.draw(data))
    texts = [
        (each.text or "", float(each.get("x", "")), float(each.get("y", "")) - 4) for each in picture.iter(f"{SVG}text")
    ]
    times = {int(text.removesuffix(" s")): x for text, x, _ in texts if re.fullmatch(r"\d+ s", text)}
    per_second = (times[max(times)] - times[0]) / max(times)
    shares = {float(text.rstrip(" %")) / 100: y for text, _, y in texts if re.fullmatch(r"[\d.]+ ?%", text) and y < 200}
    (caught,) = (each for each in picture.iter(f"{SVG}line") if each.get("class") == "caught")
    assert float(caught.get("x1", "")) == pytest.approx(times[0] + data.caught * per_second, abs=0.2)
    bars = [each for each in picture.iter(f"{SVG}rect") if each.get("class") == "candidate"]
    for bar, part in zip(bars, data.parts, strict=True):
        tall = shares[0.0] - shares[max(shares)]
        share = part.of_candidate / part.requests
        assert float(bar.get("height", "")) == pytest.approx(tall * share / max(shares), abs=3)
    lines = {each.get("class"): each.get("points", "").split() for each in picture.iter(f"{SVG}polyline")}
    shown = [part for part in data.parts if part.candidate]
    zero = next(y for text, _, y in texts if text == "0 ms")
    for kind, values in (
        ("stable", [part.stable for part in shown]),
        ("limit", [data.factor * part.stable for part in shown]),
        ("of-candidate", [part.candidate for part in shown]),
    ):
        heights = [zero - float(point.partition(",")[2]) for point in lines[kind]]
        per_ms = heights[-1] / values[-1]
        assert heights == pytest.approx([per_ms * value for value in values], abs=0.2)
        assert per_ms == pytest.approx(
            (zero - 225) / (1.15 * max(data.factor * max(p.stable for p in shown), *[p.candidate for p in shown])),
            rel=0.01,
        )


def test_the_data_are_what_became_of_the_requests(drawing: Any) -> None:
    rollout = Rollout(
        candidate=DemoCandidate(version="2", title="slow"),
        stable="1",
        began=100.0,
        ended=101.5,
        phase="failed",
        step="1%",
        why="p90 < 1.5 × stable: 50 ms",
        steps=[(99.9, "shadow:200"), (100.5, "1%")],
        sent=[
            *(Sent(100.05 + number / 10, 0.001 * (1 + number), 200, "1") for number in range(10)),
            Sent(101.4, 0.05, 200, "2"),
            Sent(101.6, 0.002, 500, ""),
        ],
    )
    found = drawing.reduce(rollout)
    assert (found.caught, found.requests, found.harmed, found.factor) == (1.5, 11, 2, 1.5)
    assert found.steps == [(0.0, "shadow:200"), (0.5, "1%")]
    assert found.parts == [drawing.Part(1, 10, 0, 0.0, 10.0), drawing.Part(2, 2, 1, 50.0, 10.0)]
