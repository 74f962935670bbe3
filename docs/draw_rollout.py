"""Draws a rollout that the latency of its clients gave away, from the record of `headwaiter demo rollout --home DIR`.

The slow candidate of the demo comes to clients only if `GUARDS` of `serving.demo.rollout` are without `compute`.

`python docs/draw_rollout.py DIR/rollouts.json` writes docs/images/rollout.json, which has what is drawn, and
docs/images/rollout.svg; without an argument the picture alone, from that file.
"""

import math
import re
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import msgspec

from serving.demo.rollout import Rollout
from serving.demo.traffic import Sent

IMAGES = Path(__file__).parent / "images"
DATA, PICTURE = IMAGES / "rollout.json", IMAGES / "rollout.svg"
GUARD = re.compile(r"p90 < (?P<factor>[\d.]+) × stable")
PARTS = 40
"""The time until the candidate was caught is drawn in as many parts at most, of whole seconds."""
WIDTH, LEFT, RIGHT = 860, 70, 20
SHARES, TIMES = (90, 95), (225, 180)
"""Top and height of the two charts."""
STYLE = """
text { font: 12px sans-serif; fill: #57606a } .title { font-size: 15px; font-weight: bold }
.axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #8c959f; stroke-opacity: .25 }
.stable { fill: none; stroke: #0969da; stroke-width: 2 } .stable-text { fill: #0969da }
.limit { stroke: #bf8700; stroke-width: 2; stroke-dasharray: 6 4; fill: none } .limit-text { fill: #bf8700 }
.candidate { fill: #cf222e; fill-opacity: .75 } .candidate-text, .of-candidate-text { fill: #cf222e }
.of-candidate { fill: none; stroke: #cf222e; stroke-width: 2 }
.caught { stroke: #cf222e; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .stable { stroke: #4493f8 } .stable-text { fill: #4493f8 }
  .limit { stroke: #d29922 } .limit-text { fill: #d29922 }
  .candidate, .candidate-text, .of-candidate-text { fill: #f85149 } .of-candidate, .caught { stroke: #f85149 }
}
"""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Some seconds. end: when they are over. requests: of clients, and of these the candidate's.

    candidate, stable: p90 of the answers of each side since the last step began, in ms; 0 before.
    """

    end: float
    requests: int
    of_candidate: int
    candidate: float
    stable: float


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What the picture shows. Times are in seconds since the candidate was loaded.

    why: the guard that failed, with its figures. caught: when it did. requests, harmed: of clients until then. steps:
    when each began.
    """

    title: str
    why: str
    caught: float
    requests: int
    harmed: int
    steps: list[tuple[float, str]]
    parts: list[Part]

    @property
    def factor(self) -> float:
        """How many times the stable version's p90 the guard allows."""
        found = GUARD.match(self.why)
        assert found is not None, self.why
        return float(found["factor"])


def reduce(rollout: Rollout) -> Drawn:
    """What is drawn of a rollout."""
    caught = rollout.ended - rollout.began
    steps = [(round(max(0.0, at - rollout.began), 2), step) for at, step in rollout.steps]
    wide = max(1, math.ceil(caught / PARTS))
    sent = [(each.at - rollout.began, each) for each in rollout.sent]
    parts = []
    for end in range(wide, math.ceil(caught / wide) * wide + 1, wide):
        own = [each for at, each in sent if end - wide <= at < end]
        judged = [each for at, each in sent if steps[-1][0] <= at < end]
        of_candidate = sum(each.version == rollout.candidate.version for each in own)
        times = (p90_ms(judged, version) for version in (rollout.candidate.version, rollout.stable))
        parts.append(Part(end, len(own), of_candidate, *times))
    return Drawn(
        title=rollout.candidate.title,
        why=rollout.why,
        caught=round(caught, 2),
        requests=rollout.requests,
        harmed=rollout.harmed,
        steps=steps,
        parts=parts,
    )


def p90_ms(sent: Sequence[Sent], version: str) -> float:
    """Of the answers of a version, 0 without any."""
    times = sorted(each.seconds for each in sent if each.version == version)
    return round(1000 * times[math.ceil(0.9 * len(times)) - 1], 2) if times else 0.0


def draw(data: Drawn) -> str:
    """The picture, as SVG."""
    end = data.parts[-1].end
    scale = (WIDTH - LEFT - RIGHT) / end
    step = math.ceil(end / 7)
    ticks = (_text(LEFT + at * scale, sum(TIMES) + 18, f"{at} s", "middle") for at in range(0, int(end) + 1, step))
    caught = LEFT + data.caught * scale
    told = f"caught after {data.caught:.1f} s and {data.requests:,} requests: {data.harmed} harmed"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 440" role="img">',
        f"<title>{escape(f'{data.title}: {told}')}</title><style>{STYLE}</style>",
        _text(LEFT, 24, f"Candidate: {data.title}", kind="title"),
        _text(LEFT, 43, told, kind="candidate-text"),
        _text(LEFT, 59, f"by the server’s times {data.why}", kind="candidate-text"),
        *_shares(data, scale),
        *_times(data, scale),
        *ticks,
        f'<line class="caught" x1="{caught:.1f}" x2="{caught:.1f}" y1="{SHARES[0]}" y2="{sum(TIMES)}"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _shares(data: Drawn, scale: float) -> Iterable[str]:
    """The candidate's share of the requests, and the steps."""
    top, height = SHARES
    shares = [part.of_candidate / max(1, part.requests) for part in data.parts]
    most = max(0.02, *shares)
    marks = [(1.0, f"{most:.1%}"), (0.5, f"{most / 2:.1%}"), (0.0, "0 %")]
    yield from _axis(
        top, height, "share of requests that the candidate answers; the others are the stable version’s", marks
    )
    begin = 0.0
    for part, share in zip(data.parts, shares, strict=True):
        tall = height * share / most
        yield (
            f'<rect class="candidate" x="{LEFT + begin * scale + 1:.1f}" y="{top + height - tall:.1f}" '
            f'width="{(part.end - begin) * scale - 2:.1f}" height="{tall:.1f}"/>'
        )
        begin = part.end
    for number, (at, step) in enumerate(data.steps):
        x = LEFT + at * scale
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height}"/>'
        yield _text(x + 4, top + 12 + 14 * (number % 2), step)


def _times(data: Drawn, scale: float) -> Iterable[str]:
    """p90 of both sides, and the guard's limit."""
    top, height = TIMES
    shown = [part for part in data.parts if part.candidate and part.stable]
    most = 1.15 * max(max(part.candidate, data.factor * part.stable) for part in shown)
    marks = [(share, f"{share * most:.0f} ms") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    yield from _axis(top, height, "p90 of the answers since the step began, as clients measured them", marks)
    lines = {
        "stable": ("stable version", [part.stable for part in shown]),
        "limit": (f"limit: {data.factor:g} × that", [data.factor * part.stable for part in shown]),
        "of-candidate": ("candidate", [part.candidate for part in shown]),
    }
    for row, (kind, (name, values)) in enumerate(lines.items()):
        points = " ".join(
            f"{LEFT + part.end * scale:.1f},{top + height * (1 - value / most):.1f}"
            for part, value in zip(shown, values, strict=True)
        )
        yield f'<polyline class="{kind}" points="{points}"/>'
        yield _text(LEFT + 8, top + 16 + 16 * (2 - row), name, kind=f"{kind}-text")


def _axis(top: float, height: float, title: str, marks: Sequence[tuple[float, str]]) -> Iterable[str]:
    """marks: (share of the height, label)."""
    yield f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{top}" y2="{top + height}"/>'
    yield _text(LEFT, top - 8, title, "start")
    for share, label in marks:
        y = top + height * (1 - share)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(LEFT - 6, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def main() -> None:
    """Reduce the record that the command line names, if there is one, and draw."""
    if len(sys.argv) > 1:
        rollouts = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=list[Rollout])
        slow = next((each for each in rollouts if each.phase == "failed" and GUARD.match(each.why)), None)
        if slow is None:
            sys.exit(f"no rollout of {sys.argv[1]} failed by p90: the guard compute catches the slow one before")
        DATA.write_bytes(msgspec.json.format(msgspec.json.encode(reduce(slow)), indent=1) + b"\n")
    data = msgspec.json.decode(DATA.read_bytes(), type=Drawn)
    PICTURE.write_text(draw(data), encoding="utf-8")


if __name__ == "__main__":
    main()
