"""The folders are the data's way: who may import whom, and what a front must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("registry", "serving", "monitoring")


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", ["registry", "monitoring"])
def test_registry_and_monitoring_import_neither_serving_nor_each_other(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imported_packages(path) & (set(PACKAGES) - {package}), path


def test_nothing_outside_a_tasks_file_branches_on_its_name() -> None:
    from serving.tasks import served_tasks

    for path in (ROOT / "serving").rglob("*.py"):
        if path.parent.name in ("tasks", "demo"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not [name for name in served_tasks() if f'"{name}"' in text], path


def test_a_front_imports_neither_torch_nor_transformers_nor_mlflow() -> None:
    code = (
        "import sys, serving.service, serving.front.app, serving.front.front, serving.front.metrics_page\n"
        "from serving.tasks import get_task, served_tasks\n"
        "[get_task(name) for name in served_tasks()]\n"
        "print([name for name in ('torch', 'transformers', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_counting_and_scraping_need_no_client_library() -> None:
    code = (
        "import sys, monitoring.instruments, monitoring.exposition, serving.engine.meter; "
        "print('prometheus_client' in sys.modules or 'opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
