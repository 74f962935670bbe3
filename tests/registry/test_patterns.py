"""Patterns match whole texts, wherever a record has one."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

import registry
import serving
from registry.environment import InvalidSetting, settings_of
from registry.patterns import ALIAS, VERSION, is_version, whole
from registry.references import Reference
from registry.rollout.plan import VersionNumber, parse_duration
from registry.settings import RegistrySettings
from serving.settings import ServingSettings
from serving.wire.registry_orders import Alias, Promote, StartRollout

WRONG_VERSIONS = ("3\n", "\n3", "٣", "3٣", "²", "03", "0", "+3", " 3", "1_000", "", "9" * 19)


@pytest.mark.parametrize("version", WRONG_VERSIONS)
def test_a_version_has_one_text(version: str) -> None:
    assert not is_version(version)
    with pytest.raises(InvalidSetting):
        Reference.parse(f"m/{version}")
    for kind in (VersionNumber, Promote, StartRollout):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(version if kind is VersionNumber else {"version": version, "why": "a test"}, kind)


@pytest.mark.parametrize("version", ["1", "3", "10", "9" * 18])
def test_versions_as_mlflow_writes_them(version: str) -> None:
    assert is_version(version)
    assert msgspec.convert(version, VersionNumber) == version


def test_an_alias_is_a_whole_text() -> None:
    assert msgspec.convert("champion", Alias) == "champion"
    for wrong in ("champion\n", "\nchampion", "a b", "", "a" * 256):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Alias)


def test_times_are_in_ascii() -> None:
    with pytest.raises(Exception, match="is no time"):
        parse_duration("٣m")


@pytest.mark.parametrize(
    "text", ["1_000", "٣", "²", "nan", "inf", "-inf", "1e999", "0x10", "1 0", "1e", ".", "9" * 5000]
)
def test_no_setting_takes_what_is_no_plain_number(text: str) -> None:
    for record in (RegistrySettings, ServingSettings):
        for setting in settings_of(record).values():
            if setting.kind in ("whole number", "number"):
                with pytest.raises(InvalidSetting, match=setting.variable):
                    setting.read({setting.variable: text})


def records() -> Iterator[type[msgspec.Struct]]:
    """Every record of the packages that can be imported here."""
    for package in (registry, serving):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.rpartition(".")[2] not in ("__main__", "service"):
                try:
                    importlib.import_module(module.name)
                except ImportError:  # of an extra that is not installed
                    continue
    waiting: list[type[msgspec.Struct]] = [msgspec.Struct]
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if found.__module__.partition(".")[0] in ("registry", "serving"):
            yield found


def patterns(hint: Any) -> Iterator[str]:
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern is not None:
            yield meta.pattern
    for part in get_args(hint):
        yield from patterns(part)
    if (origin := get_origin(hint)) is not None and not isinstance(origin, type):
        yield from patterns(origin)


@pytest.mark.slow
def test_the_patterns_of_all_records_match_whole_texts() -> None:
    found = set()
    for record in records():
        try:
            hints = get_type_hints(record, include_extras=True)
        except NameError:  # names that only type checkers import
            continue
        found |= {pattern for hint in hints.values() for pattern in patterns(hint)}
    assert {whole(VERSION), whole(ALIAS), whole("[0-9a-f]{64}")} <= found
    assert all(re.fullmatch(r"\^\(\?:.*\)\$\(\?!\\n\)", pattern) for pattern in found), "made by `whole`"
    assert not any(r"\d" in pattern for pattern in found)
