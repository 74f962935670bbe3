"""headwaiter keys: what is refused leaves the file as it was."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from serving.commands.main import main


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HEADWAITER_KEYS_FILE", str(tmp_path / "keys.json"))
    with TemporaryDirectory() as home:  # sockets' paths are short
        monkeypatch.setenv("HEADWAITER_HOME", home)
        yield tmp_path / "keys.json"


@pytest.mark.parametrize("rate", ["nan", "-nan", "inf", "-1", "1e-309", "1e-300", "1e-6", "1000001", "x"])
def test_a_rate_that_is_no_rate_leaves_the_file_as_it_was(rate: str, path: Path) -> None:
    added = CliRunner().invoke(main, ["keys", "add", "first", "--rate", "0.5"])
    assert added.exit_code == 0, added.output
    before = path.read_bytes()
    refused = CliRunner().invoke(main, ["keys", "add", "second", f"--rate={rate}"])
    assert refused.exit_code != 0
    assert "rate" in refused.output
    assert path.read_bytes() == before
    assert CliRunner().invoke(main, ["keys", "list"]).exit_code == 0


@pytest.mark.parametrize(
    "arguments", [("demo", "rollout", "--rate=nan"), ("monitoring", "export", "x", "--availability=nan")]
)
def test_no_option_takes_what_is_no_number(arguments: tuple[str, ...], path: Path) -> None:
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "nan" in refused.output
