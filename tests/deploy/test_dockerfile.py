"""The Dockerfile: linted, and at one with the server, the cluster's files and the pinned packages."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from registry.settings import RegistrySettings
from serving.kubernetes import pod
from serving.kubernetes.installation import ADMIN_PORT, HTTP_PORT
from serving.settings import ServingSettings
from tests.abilities import needs
from tests.deploy.dockerfile import DOCKERFILE, ROOT, arguments, command, environment
from tests.waiting import WAIT_SECONDS

BENTO = yaml.safe_load((ROOT / "bentofile.yaml").read_text(encoding="utf-8"))
LOCKS = sorted((ROOT / "deploy").glob("requirements*.txt"))
HASHED = [path for path in LOCKS if path.stem != "requirements-cpu"]


def pins(path: Path) -> dict[str, str]:
    """Package, in lower case → version."""
    found = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower().replace("_", "-").replace(".", "-"): version for name, version in found}


def test_a_bento_asks_for_what_the_project_asks_for_and_pins_what_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {Requirement(each).name: each for each in project["dependencies"]}
    asked = {Requirement(each).name: each for each in BENTO["python"]["packages"]}
    tested = pins(ROOT / "constraints.txt")
    assert asked.keys() == wanted.keys()
    assert {each for name, each in asked.items() if each != wanted[name]} == {
        f"{name}=={tested[name]}" for name in ("bentoml", "mlflow", "torch", "transformers", "uvicorn")
    }


@needs("hadolint")
def test_the_linter_finds_nothing() -> None:
    hadolint = str(Path(sys.executable).with_name("hadolint"))
    ignored = ["--ignore", "DL3059"]  # a RUN each is a layer each, of a stage that is thrown away
    done = subprocess.run([hadolint, *ignored, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_as_the_clusters_files_take_it() -> None:
    environ = environment()
    settings = ServingSettings.from_environment(environ, run=Path())
    assert arguments("USER") == f"{pod.USER}:{pod.USER}"
    assert arguments("VOLUME") == arguments("WORKDIR") == environ["HOME"] == environ["TMPDIR"] == pod.DATA
    assert settings.admin_port == ADMIN_PORT
    assert RegistrySettings.from_environment(environ).home == Path(pod.DATA, "headwaiter")
    assert arguments("EXPOSE").split() == [str(HTTP_PORT), str(ADMIN_PORT)]
    assert f"http://127.0.0.1:{ADMIN_PORT}/livez" in command("HEALTHCHECK")[-1]
    assert command("ENTRYPOINT") == ["tini", "--", "headwaiter"]
    assert command("CMD") == ["serve", "--host", "0.0.0.0"]


def test_what_is_copied_is_there_and_in_both_contexts() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    text = DOCKERFILE.read_text(encoding="utf-8")
    copied = [
        word.removeprefix("${SOURCE}/")
        for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert {"serving", "pyproject.toml", "deploy/requirements.txt"} <= set(copied)
    for word in copied:
        assert list(ROOT.glob(word)), word
        assert word in allowed or word.startswith("deploy/requirements"), word
    assert {word.rstrip("/") for word in BENTO["include"]} >= {word for word in copied if "*" not in word}
    assert ROOT / BENTO["docker"]["dockerfile_template"] == DOCKERFILE
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    needed = {pattern.rstrip("*") for pattern in packages["packages"]["find"]["include"]}
    assert needed | {
        module.partition(".")[0] + ("" if "." in module else ".py") for module in packages["py-modules"]
    } <= set(copied)


@pytest.mark.server
def test_a_bento_is_containerized_by_the_same_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for word in [*BENTO["include"], BENTO["docker"]["dockerfile_template"], "bentofile.yaml"]:
        target = source / word
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / word).is_dir():
            shutil.copytree(ROOT / word, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / word, target)
    environ = {
        **os.environ,
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": "",
    }
    build = [sys.executable, "-m", "bentoml", "build"]
    subprocess.run(build, cwd=source, env=environ, check=True, timeout=WAIT_SECONDS, capture_output=True)
    (made,) = (tmp_path / "bentoml/bentos/headwaiter").glob("*/env/docker/Dockerfile")
    assert made.read_text(encoding="utf-8").rstrip("\n") == DOCKERFILE.read_text(encoding="utf-8").rstrip("\n")
    assert (made.parents[2] / "src/deploy/requirements.txt").is_file(), "what it copies with SOURCE=src"


@pytest.mark.parametrize("lock", HASHED, ids=lambda path: path.name)
def test_every_package_is_pinned_by_hash(lock: Path) -> None:
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    starts = [index for index, line in enumerate(lines) if not line.startswith(" ")]
    assert len(starts) >= 20
    for index in starts:
        assert re.fullmatch(r"[\w.-]+==\S+ \\", lines[index]), lines[index]
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", lines[index + 1])


def test_the_locks_have_the_versions_that_are_tested() -> None:
    tested = pins(ROOT / "constraints.txt")
    for lock in (path for path in LOCKS if path.stem != "requirements-sbom"):
        own = {name: version.partition("+")[0] for name, version in pins(lock).items()}
        assert {name: tested[name] for name in own if name in tested} == {
            name: version for name, version in own.items() if name in tested
        }, f"{lock.name} is old: python -m scripts.lock"


def test_the_locks_have_all_that_the_server_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w.-]", each)[0].lower().replace("_", "-") for each in project["dependencies"]}
    base = set(pins(ROOT / "deploy/requirements.txt"))
    assert needed - base == {"torch"}
    assert "setuptools" in base, "it builds the project"
    assert set(pins(ROOT / "deploy/requirements-cpu.txt")) == {"torch"}
    cuda = set(pins(ROOT / "deploy/requirements-cuda.txt"))
    assert "torch" in cuda
    assert not cuda & base
