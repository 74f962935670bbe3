from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from registry.environment import Setting, settings_of
from registry.references import Reference
from registry.settings import InvalidSetting, RegistrySettings
from serving.commands.main import main
from serving.runtime.limits import read_limits
from serving.settings import ServingSettings

RUN = Path("/tmp/h/run/abc")


def read(**environ: str) -> ServingSettings:
    return ServingSettings.from_environment({"HEADWAITER_HOME": "/tmp/h", **environ}, run=RUN)


def test_defaults_need_nothing() -> None:
    settings = ServingSettings.from_environment({}, run=RUN)
    assert settings.registry.home == Path("~/.headwaiter").expanduser()
    assert settings.registry.tracking_uri == f"sqlite:///{settings.registry.home}/mlflow.db"
    assert (settings.models, settings.devices, settings.dtype) == ((), ("auto",), "auto")


def test_variables_are_read_once_and_checked() -> None:
    settings = read(
        HEADWAITER_MODELS="a b@canary a c/3",
        HEADWAITER_DEVICE="cuda:0, cuda:1",
        HEADWAITER_POLL_SECONDS="0.5",
        MLFLOW_TRACKING_URI="http://localhost:5000",
    )
    assert settings.models == (Reference("a", "champion"), Reference("b", "canary"), Reference("c", version="3"))
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.poll_seconds == 0.5
    assert settings.registry.tracking_uri == "http://localhost:5000"
    assert settings.run == RUN


def test_models_with_an_exclamation_mark_are_pinned() -> None:
    settings = read(HEADWAITER_MODELS="a !b/2 b/2 !a@canary")
    a, canary, b = Reference("a", "champion"), Reference("a", "canary"), Reference("b", version="2")
    assert settings.models == (a, b, canary)
    assert settings.pinned == {b, canary}


@pytest.mark.parametrize(("given", "expected"), [("", 800), ("300", 300), ("5000", 5000)])
def test_engines_may_take_a_share_of_the_memory_unless_it_is_set(given: str, expected: int) -> None:
    limits = msgspec.structs.replace(read_limits(), memory_bytes=1000)
    assert read(HEADWAITER_MEMORY_BYTES=given).memory_bound(limits) == expected


def test_the_fast_path_can_be_switched_off() -> None:
    assert read().fast_path
    assert not read(HEADWAITER_FAST_PATH="0").fast_path


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("WORKERS", "0", "a whole number from 1 to 256"),
        ("WORKERS", "two", "a whole number from 1 to 256"),
        ("POLL_SECONDS", "nan", "a number from 0.05 to 3600"),
        ("DTYPE", "int4", "choose one of auto, float32"),
        ("LOG_INPUTS", "yes", "choose one of 0, 1"),
        ("MODELS", "a//3", "NAME/VERSION"),
    ],
)
def test_a_bad_value_is_refused_loudly(key: str, value: str, rule: str) -> None:
    with pytest.raises(InvalidSetting, match=rule):
        read(**{f"HEADWAITER_{key}": value})


def test_a_home_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="at most 50"):
        read(HEADWAITER_HOME="/tmp/" + "x" * 70)


SETTINGS = settings_of(ServingSettings)
NUMBERS = [setting for setting in SETTINGS.values() if "number" in setting.kind]


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.field)
def test_both_bounds_of_a_number_are_allowed_and_nothing_beyond(setting: Setting) -> None:
    step = 1 if setting.kind == "whole number" else setting.minimum / 2
    for bound, beyond in ((setting.minimum, setting.minimum - step), (setting.maximum, setting.maximum + step)):
        assert getattr(read(**{setting.variable: str(bound)}), setting.field) == bound
        with pytest.raises(InvalidSetting, match=f"{setting.variable}='{beyond}' is not allowed: give a "):
            read(**{setting.variable: str(beyond)})


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.field)
def test_an_empty_value_counts_as_unset(setting: Setting) -> None:
    empty = "" if setting.field == "webhook_secret" else " "
    found = getattr(read(**{setting.variable: empty}), setting.field)
    assert found == (() if setting.field == "models" else setting.read({}))


def test_each_field_is_declared_with_a_meaning_and_a_default_within_its_bounds() -> None:
    undeclared = set(ServingSettings.__struct_fields__) - SETTINGS.keys()
    assert undeclared == {"registry", "run", "pinned"}
    assert len({setting.variable for setting in SETTINGS.values()}) == len(SETTINGS)
    for setting in SETTINGS.values():
        assert setting.meaning.endswith(".")
    for setting in NUMBERS:
        assert setting.minimum <= setting.default <= setting.maximum, setting.field


def test_the_registrys_settings_are_declared_in_the_same_way() -> None:
    declared = settings_of(RegistrySettings)
    variables = [setting.variable for setting in declared.values()]
    assert variables == [
        *("HEADWAITER_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"),
        *("HEADWAITER_ARTIFACT_CACHE_BYTES", "HEADWAITER_ARTIFACT_HOSTS", "HEADWAITER_VERIFY_KEYS"),
    ]
    assert declared["home"].shown_default == "~/.headwaiter"


def test_flags_take_their_help_from_the_settings() -> None:
    shown = " ".join(CliRunner().invoke(main, ["serve", "--help"]).stdout.split())
    for field in ("workers", "devices", "dtype", "poll_seconds", "keep_previous", "replicas", "idle_unload_seconds"):
        assert f"{SETTINGS[field].meaning} [default: {SETTINGS[field].shown_default}]" in shown
