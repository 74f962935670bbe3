import gc
import subprocess
import sys
from pathlib import Path

import pytest

from registry.imports import without_collector

CLIENT = """
import sys
from pathlib import Path
from registry.imports import NOT_OF_A_CLIENT, NOT_OF_A_STORE, import_client
from registry.settings import RegistrySettings
from registry.tracking import connect
import_client()
client = connect(RegistrySettings.from_environment({"HEADWAITER_HOME": sys.argv[1]}))
client.create_registered_model("m")
version = client.create_model_version("m", source=Path(sys.argv[1]).as_uri())
client.set_registered_model_alias("m", "champion", version.version)
found = client.get_model_version_by_alias("m", "champion").version
print(found, [name for name in NOT_OF_A_CLIENT + NOT_OF_A_STORE if name in sys.modules])
import mako.ext.pygmentplugin, pandas
"""


@pytest.fixture(autouse=True)
def enabled() -> None:
    gc.enable()


def test_the_collector_does_not_run_meanwhile() -> None:
    with without_collector():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_runs_again_where_an_import_fails() -> None:
    with pytest.raises(ModuleNotFoundError), without_collector():
        raise ModuleNotFoundError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with without_collector():
        pass
    assert not gc.isenabled()
    gc.enable()


@pytest.mark.server
def test_a_client_of_a_registry_works_without_pandas_and_what_imports_it_later_has_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLIENT, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "1 []"
