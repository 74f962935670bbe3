"""Patterns of what becomes a key, a path or a comparison hold for a whole text, of ASCII digits."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from registry.errors import RolloutError
from registry.rollout.plan import VersionNumber, parse_duration, parse_steps
from serving.runtime.key_file import AccessKey
from serving.wire.registry_orders import Alias, Promote

ROOT = Path(__file__).resolve().parents[1]


def _patterns() -> Iterator[str]:
    """All patterns of msgspec in the packages' sources."""
    for package in ("registry", "serving"):
        for path in (ROOT / package).rglob("*.py"):
            yield from re.findall(r"Meta\([^()]*?pattern=r?\"(.*?)\"", path.read_text(encoding="utf-8"))


def test_no_pattern_lets_a_line_feed_at_the_end_pass() -> None:
    """In Python `$` matches before one, too. `\\Z` is unknown to JSON Schema, which shows the patterns to clients."""
    found = list(_patterns())
    assert len(found) >= 4
    assert [each for each in found if not each.startswith("^") or not each.endswith(r"$(?!\n)")] == []


@pytest.mark.parametrize("text", ["3\n", "٣", "²", " 3", "", "3" * 19])
def test_a_version_is_ascii_digits(text: str) -> None:
    assert msgspec.convert("3", VersionNumber) == "3"
    for kind, given in ((VersionNumber, text), (Promote, {"version": text, "why": "new labels"})):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(given, kind)


def test_an_alias_and_a_digest_end_where_their_text_does() -> None:
    assert msgspec.convert("champion", Alias) == "champion"
    for given, kind in (("champion\n", Alias), ({"name": "a", "sha256": "0" * 64 + "\n"}, AccessKey)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(given, kind)


@pytest.mark.parametrize("steps", ["shadow:٣", "٣%", "10%\n٢%"])
def test_steps_and_durations_are_of_ascii_digits(steps: str) -> None:
    with pytest.raises(RolloutError):
        parse_steps([steps, "50%", "100%"])
    with pytest.raises(RolloutError):
        parse_duration("٣m")
