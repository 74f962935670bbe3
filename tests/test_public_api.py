"""`import headwaiter`: every public name is there, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import headwaiter
import registry
from registry import errors

ROOT = Path(headwaiter.__file__).resolve().parent


def modules_after(code: str) -> set[str]:
    """The names in `sys.modules` of a fresh interpreter that ran `code` in the checkout."""
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_loads_no_other_module_of_the_project_and_no_large_library() -> None:
    loaded = modules_after("import headwaiter; headwaiter.__version__; dir(headwaiter)")
    assert "headwaiter" in loaded
    assert not loaded & {"registry", "serving", "monitoring", "torch", "mlflow", "transformers", "numpy", "msgspec"}


@pytest.mark.parametrize("name", ["Versions", "Evaluator", "Reference", "PromotionRefused", "RegistrySettings"])
def test_a_name_that_needs_no_model_loads_neither_torch_nor_mlflow(name: str) -> None:
    loaded = modules_after(f"import headwaiter; headwaiter.{name}")
    assert "registry" in loaded
    assert not loaded & {"torch", "mlflow", "transformers"}


@pytest.mark.parametrize("name", headwaiter.__all__)
def test_every_public_name_is_defined_where_its_own_package_has_it(name: str) -> None:
    value = getattr(headwaiter, name)
    assert name in dir(headwaiter)
    if name != "__version__":
        assert value is getattr(sys.modules[value.__module__], name)


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse((ROOT / "headwaiter.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    seen = {
        alias.name: node.module
        for node in imports
        for alias in node.names
        if node.module and node.module.startswith(("registry.", "serving."))
    }
    public = [name for name in headwaiter.__all__ if name != "__version__"]
    assert seen == {name: getattr(headwaiter, name).__module__ for name in public}


def test_every_error_of_the_registry_can_be_caught_by_its_public_name() -> None:
    tree = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert len(tree) > 10
    assert tree <= set(headwaiter.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'promote'"):
        getattr(headwaiter, "promote")  # noqa: B009  # type checkers know that the name is missing


def test_the_packages_export_the_same_objects() -> None:
    shared = set(registry.__all__) & set(headwaiter.__all__)
    assert {"Versions", "log_model"} <= shared
    for name in shared:
        assert getattr(registry, name) is getattr(headwaiter, name)


def test_the_distribution_takes_its_version_from_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "headwaiter.__version__"}
    assert version("headwaiter") == headwaiter.__version__
