import gc

import pytest

from registry.imports import without_collector


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
