"""The folders show the processes: who may import whom, what a front must not load, and that nothing goes in circles."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("registry", "serving", "monitoring")

PROCESS = frozenset({"tasks", "processors", "wire", "runtime"})
SERVING: Mapping[str, frozenset[str]] = {
    "front": PROCESS,
    "engine": PROCESS,
    "manager": frozenset({"tasks", "wire", "runtime"}),
    "tasks": frozenset({"processors", "wire"}),
    "processors": frozenset({"wire"}),
    "wire": frozenset(),
    "runtime": frozenset(),
    "client": frozenset({"runtime.foreign_http"}),
    "commands": frozenset(
        {"client", "tasks", "demo", "kubernetes", "manager.prestart", "evaluation", "runtime", "wire.routing_table"}
    ),
    "kubernetes": frozenset({"runtime.supervisor"}),
    "demo": frozenset({"client"}),
    "service": frozenset({"front", "manager", "tasks", "runtime"}),
    "pyfunc": frozenset({"engine", "model_signature", "tasks"}),
    "model_signature": frozenset({"tasks"}),
    "bulk": frozenset({"engine", "tasks"}),
    "evaluation": frozenset({"engine", "tasks"}),
    "settings": frozenset({"runtime.limits", "runtime.run_folder", "setting_values"}),
    "setting_values": frozenset({"runtime.limits"}),
    "errors": frozenset(),
}
"""What a folder of serving, or a module beside the folders, may import of the others; inside functions, too."""
FOR_ALL = frozenset({"settings", "errors"})

CHEAP = frozenset(
    {
        "adapter_files",
        "atomic_file",
        "checkpoint_files",
        "child_process",
        "contract",
        "digests",
        "environment",
        "errors",
        "extras",
        "heads",
        "held_folder",
        "int8_sample",
        "layout",
        "own_folder",
        "patterns",
        "plain_files",
        "redaction",
        "references",
        "rollout.guards",
        "rollout.plan",
        "rollout.state",
        "sentence_files",
        "sentence_folder",
        "settings",
        "verified",
    }
)
"""The modules of registry that load neither MLflow nor torch."""
REGISTRY: Mapping[str, frozenset[str]] = {
    "front": CHEAP,
    "engine": CHEAP | {"artifact", "cache_folder", "checks", "imports"},
    "manager": CHEAP | {"artifact", "cache", "cache_folder", "deployments", "imports", "rollout.control", "versions"},
    "tasks": CHEAP,
    "processors": CHEAP,
    "wire": CHEAP,
    "runtime": frozenset({"child_process", "environment", "own_folder", "patterns", "redaction"}),
    "client": CHEAP | {"versions"},
    "commands": CHEAP
    | {"checks", "flavor", "history", "rollout.control", "served_classes", "suggestions", "tracking", "versions"},
    "demo": CHEAP | {"flavor", "versions", "rollout.control"},
    "kubernetes": CHEAP,
    "service": CHEAP,
    "pyfunc": CHEAP,
    "model_signature": CHEAP,
    "bulk": CHEAP | {"cache", "cache_folder", "versions"},
    "evaluation": CHEAP | {"history"},
    "settings": CHEAP,
    "setting_values": CHEAP,
    "errors": frozenset({"redaction"}),
}
MONITORING: Mapping[str, frozenset[str]] = {
    "front": frozenset({"exposition", "metrics", "store", "text_formats"}),
    "engine": frozenset({"metrics"}),
    "manager": frozenset({"gpus", "metrics", "store"}),
    "runtime": frozenset({"instruments", "metrics"}),
    "commands": frozenset({"export", "gpus", "objectives"}),
    "demo": frozenset({"metrics"}),
    "kubernetes": frozenset({"dashboards", "grafana_json", "objectives", "queries", "rules"}),
}
HEAVY = ("torch", "transformers")
EDGES = ("serving.commands", "serving.demo", "serving.service", "serving.engine.__main__", "serving.engine.template")
"""Where processes begin: only there the environment is set, which is the whole process'."""
OWN_VARIABLES = {("registry.tracking", "_restore"), ("serving.runtime.run_folder", "inherited")}
"""Functions that put a variable back, or take one of ours out."""
MAX_ANY = 200


@dataclass(frozen=True)
class Import:
    """A module that a module imports. is_early: with it, not later by a function or for the type checker only."""

    module: str
    is_early: bool


@cache
def modules() -> Mapping[str, Path]:
    """The modules of the three packages, by name."""
    found = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Every import of a module."""
    return tuple(_walk(ast.parse(modules()[name].read_text(encoding="utf-8")), name, is_early=True))


def _walk(node: ast.AST, name: str, *, is_early: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        early = is_early and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        early = early and not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, early) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name}: relative import"
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield Import(inner if inner in modules() else str(child.module), early)
        else:
            yield from _walk(child, name, is_early=early)


def of(package: str) -> list[str]:
    return [name for name in modules() if name.partition(".")[0] == package]


def below(module: str, package: str) -> str | None:
    """A module's name within a package, "" for the package itself; None for a module of another one."""
    first, _, rest = module.partition(".")
    return rest if first == package else None


def is_allowed(inner: str, allowed: frozenset[str]) -> bool:
    """Whether a module is one of these, or in a folder that is."""
    return any(inner == each or inner.startswith(f"{each}.") for each in allowed)


@pytest.mark.parametrize("name", of("serving"))
def test_a_module_imports_only_what_its_folder_may(name: str) -> None:
    own = name.split(".")[1] if "." in name else ""
    assert not own or own in SERVING, f"{name} is in no folder of the plan"
    for each in imports(name):
        inner = below(each.module, "serving")
        if inner is not None:
            allowed = {own} | FOR_ALL | SERVING[own] if own else frozenset[str]()
            assert is_allowed(inner, frozenset(allowed)), f"{name} imports {each.module}"
        for package, table in (("registry", REGISTRY), ("monitoring", MONITORING)):
            inner = below(each.module, package)
            if inner is not None:
                assert is_allowed(inner, table.get(own, frozenset())), f"{name} imports {each.module}"


@pytest.mark.parametrize("package", ["registry", "monitoring"])
def test_registry_and_monitoring_import_neither_serving_nor_each_other(package: str) -> None:
    for name in of(package):
        found = {each.module.partition(".")[0] for each in imports(name)}
        assert not found & (set(PACKAGES) - {package}), name


@pytest.mark.slow
def test_only_an_engine_imports_torch_and_transformers_with_its_modules() -> None:
    found = {
        name for name in modules() for each in imports(name) if each.is_early and each.module.split(".")[0] in HEAVY
    }
    assert found, "the engine does, else this test looks at nothing"
    assert not [name for name in found if not name.startswith("serving.engine.")]


@pytest.mark.slow
def test_nothing_imports_in_circles() -> None:
    """Neither while modules are imported, nor later inside of functions, nor for the type checker."""
    graph = {name: {each.module for each in imports(name) if each.module != name} for name in modules()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_map_of_a_package_names_all_of_its_modules() -> None:
    """But of `tasks`, where each file is a task."""
    for path in (each for package in (*PACKAGES, "bench") for each in (ROOT / package).rglob("__init__.py")):
        stems = {each.stem for each in path.parent.glob("*.py")} - {"__init__"}
        stems |= {each.parent.name for each in path.parent.glob("*/__init__.py")}
        if len(stems) > 3 and path.parent != ROOT / "serving" / "tasks":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            unnamed = stems - set(re.findall(r"\w+", text))
            assert not unnamed, f"{path.parent.relative_to(ROOT)} does not say what these are for"


def test_protocols_ask_the_front_and_not_its_routing_table() -> None:
    for path in (each for name in ("protocols", "rpc") for each in (ROOT / "serving" / "front" / name).rglob("*.py")):
        assert not re.search(r"(?<!serving\.)front\.routing", path.read_text(encoding="utf-8")), path


def test_a_file_beside_the_tasks_is_a_task() -> None:
    from serving.tasks import get_task, served_tasks

    files = {path.stem for path in (ROOT / "serving" / "tasks").glob("*.py")} - {"__init__"}
    assert {type(get_task(name)).__module__ for name in served_tasks()} == {f"serving.tasks.{stem}" for stem in files}


def test_nothing_outside_a_tasks_file_branches_on_its_name() -> None:
    from serving.tasks import served_tasks

    for path in (ROOT / "serving").rglob("*.py"):
        if path.parent.name in ("tasks", "demo"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not [name for name in served_tasks() if f'"{name}"' in text], path


@pytest.mark.slow
def test_a_front_imports_neither_torch_nor_transformers_nor_mlflow() -> None:
    fronts = ", ".join(name for name in of("serving") if name == "serving.service" or name.startswith("serving.front"))
    code = (
        f"import sys, {fronts}\n"
        "from serving.tasks import get_task, served_tasks\n"
        "[get_task(name) for name in served_tasks()]\n"
        "print([name for name in ('torch', 'transformers', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_counting_and_scraping_need_no_client_library() -> None:
    code = (
        "import sys, monitoring.instruments, monitoring.exposition, "
        "serving.front.meter, serving.engine.meter, serving.manager.meter; "
        "print('prometheus_client' in sys.modules or 'opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_what_a_value_may_be_is_mostly_known() -> None:
    """`Any` switches the type checker off: `object`, a type variable or a named alias says more."""
    mentions = {
        name: len(re.findall(r"\bAny\b", modules()[name].read_text(encoding="utf-8"))) for name in of("serving")
    }
    assert 0 < sum(mentions.values()) < MAX_ANY, sorted(mentions.items(), key=lambda found: -found[1])[:10]


@pytest.mark.slow
def test_the_environment_is_set_where_a_process_begins_only() -> None:
    """A library leaves it to its caller, as a notebook that logs a model."""
    found = {(name, function) for name in modules() for function in _setters(name)}
    assert found >= OWN_VARIABLES, "else this test looks at nothing"
    assert not {each for each in found - OWN_VARIABLES if not each[0].startswith(EDGES)}


def _setters(name: str) -> Iterator[str]:
    """The functions of a module that set variables of the environment."""
    for function in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                is_set = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
                is_set = is_set or (isinstance(node, ast.Attribute) and node.attr in ("setdefault", "update", "pop"))
                if is_set and ast.unparse(node.value) == "os.environ":
                    yield function.name


def test_the_name_of_a_type_means_one_thing() -> None:
    """But in `tasks`, where each task has its own Parameters, and in `front.openapi`, whose names are a document's.

    Aliases of one name must be of the same type. Type variables have no meaning of their own.
    """
    found: dict[str, dict[str, str]] = {}
    for folder in ("serving", "registry", "monitoring"):
        for path in (ROOT / folder).rglob("*.py"):
            place = path.relative_to(ROOT).as_posix()
            if not place.startswith(("serving/tasks/", "serving/front/openapi/")):
                for name, meaning in _types_of(ast.parse(path.read_text(encoding="utf-8"))):
                    found.setdefault(name, {})[meaning or place] = place
    assert not {name: places for name, places in found.items() if len(places) > 1}


def _types_of(module: ast.Module) -> Iterator[tuple[str, str]]:
    """The names of its public types, and what an alias stands for; "" for a class."""
    for node in module.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, ""
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            name, value = ast.unparse(target), ast.unparse(node.value)
            if re.fullmatch(r"[A-Z]+[a-z]\w*", name) and not value.startswith(("TypeVar(", "ParamSpec(")):
                yield name, value
