"""An artifact that an earlier release logged is served as it is; `tests/fixtures` keeps one of each contract format."""

import shutil
from pathlib import Path

import pytest

from registry.artifact import read_contract
from registry.settings import RegistrySettings
from registry.tracking import connect
from registry.versions import Versions
from tests.alike import assert_alike
from tests.e2e.server import Server

pytestmark = pytest.mark.processor

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.long
@pytest.mark.parametrize("name", [path.name for path in FIXTURES.glob("artifact-of-format-*")])
def test_an_artifact_of_an_earlier_release_is_served(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("h")
    artifact = shutil.copytree(FIXTURES / name, home / "artifact")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    client = connect(settings)
    client.create_registered_model("old")
    client.create_model_version("old", source=artifact.as_uri())
    Versions(settings).promote("old", "1", why="it was logged by an earlier release")
    example = read_contract(artifact).example
    assert example is not None
    with Server(home, ("old",), {"HEADWAITER_DTYPE": "float32"}) as server:
        assert_alike(server.ask("old", example.inputs), example.output)
        assert server.live("old") == "1"
    (weights,) = home.glob("cache/*/model/model.safetensors")
    shutil.rmtree(weights.parents[1] / "graphs", ignore_errors=True)  # who has the graph opens no weights
    weights.chmod(0o600)
    with weights.open("r+b") as file:  # somebody changed them while no server ran
        file.seek(-1, 2)
        file.write(b"\xff")
    with Server(home, ("old",), {"HEADWAITER_DTYPE": "float32"}) as server:
        assert_alike(server.ask("old", example.inputs), example.output)
    (mended,) = home.glob("cache/*/model/model.safetensors")
    assert mended.read_bytes() == (artifact / "model" / "model.safetensors").read_bytes()
