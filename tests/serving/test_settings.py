from pathlib import Path

import pytest

from registry.references import Reference
from registry.settings import InvalidSetting
from serving.settings import ServingSettings


def read(tmp_path: Path, **environ: str) -> ServingSettings:
    return ServingSettings.from_environment({"HEADWAITER_HOME": str(tmp_path), **environ}, instance=7)


def test_defaults_need_nothing() -> None:
    settings = ServingSettings.from_environment({}, instance=7)
    assert settings.registry.home == Path("~/.headwaiter").expanduser()
    assert settings.registry.tracking_uri == f"sqlite:///{settings.registry.home}/mlflow.db"
    assert (settings.models, settings.devices, settings.dtype) == ((), ("auto",), "auto")


def test_variables_are_read_once_and_checked() -> None:
    settings = read(
        Path("/tmp/h"),
        HEADWAITER_MODELS="a b@canary a c/3",
        HEADWAITER_DEVICE="cuda:0, cuda:1",
        HEADWAITER_POLL_SECONDS="0.5",
        MLFLOW_TRACKING_URI="http://localhost:5000",
    )
    assert settings.models == (Reference("a", "champion"), Reference("b", "canary"), Reference("c", version="3"))
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.poll_seconds == 0.5
    assert settings.registry.tracking_uri == "http://localhost:5000"
    assert settings.run == Path("/tmp/h/run/7").resolve()


def test_the_fast_path_can_be_switched_off() -> None:
    assert read(Path("/tmp/h")).fast_path
    assert not read(Path("/tmp/h"), HEADWAITER_FAST_PATH="0").fast_path


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("WORKERS", "0", "a whole number from 1 to 256"),
        ("WORKERS", "two", "a whole number from 1 to 256"),
        ("POLL_SECONDS", "nan", "a number from 0.05 to 3600"),
        ("DTYPE", "int8", "choose one of auto, float32"),
        ("MODELS", "a//3", "NAME/VERSION"),
    ],
)
def test_a_bad_value_is_refused_loudly(key: str, value: str, rule: str) -> None:
    with pytest.raises(InvalidSetting, match=rule):
        read(Path("/tmp/h"), **{f"HEADWAITER_{key}": value})


def test_a_home_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="at most 50"):
        read(Path("/tmp") / ("x" * 70))
