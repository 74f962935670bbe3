"""`headwaiter deploy export`: what it writes, and what it refuses."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from serving.commands.main import main

pytestmark = pytest.mark.slow


def test_it_writes_what_the_options_say_and_prints_the_paths(tmp_path: Path) -> None:
    options = ["--models", "reviews", "--namespace", "shop", "--gpu", "1", "--memory", "3", "--with", "cpu-scaling"]
    done = CliRunner().invoke(main, ["deploy", "export", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    printed = {Path(line) for line in done.stdout.splitlines()}
    assert printed == {path for path in tmp_path.rglob("*") if path.is_file()}
    top = yaml.safe_load((tmp_path / "kustomization.yaml").read_text(encoding="utf-8"))
    assert (top["namespace"], top["components"]) == ("shop", ["cpu-scaling"])
    deployment = yaml.safe_load((tmp_path / "base/deployment.yaml").read_text(encoding="utf-8"))
    limits = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "4", "memory": "3Gi", "nvidia.com/gpu": "1"}


def test_what_cannot_be_is_said_in_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    options = ["--models", "reviews", "--mlflow-uri", "sqlite:///mlflow.db"]
    done = CliRunner().invoke(main, ["deploy", "export", str(tmp_path / "out"), *options])
    assert done.exit_code == 1
    assert done.output.startswith("Error: MLflow's address 'sqlite:///mlflow.db' is not allowed")
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "out").exists()
