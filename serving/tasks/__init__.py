"""One file per task. A file in this folder that defines a Task subclass is a task; nothing else has to name it."""

import importlib
from functools import cache
from pathlib import Path

from registry.heads import HEADS, get_head
from serving.errors import EngineError
from serving.tasks.base.task import AnyTask


@cache
def served_tasks() -> tuple[str, ...]:
    """Names of the tasks that this release serves, from the files in this folder, in the order of the table."""
    stems = {path.stem for path in Path(__file__).parent.glob("*.py")} - {"__init__"}
    return tuple(head.task for head in HEADS.values() if _stem(head.task) in stems)


@cache
def get_task(name: str) -> AnyTask:
    """The task's one object; raises UnknownTask, or EngineError for a task that this release does not serve."""
    get_head(name)
    if name not in served_tasks():
        raise EngineError(f"{name} is not served by this release; it serves: {', '.join(served_tasks())}")
    module = importlib.import_module(f"serving.tasks.{_stem(name)}")
    task: AnyTask = module.TASKS[name] if hasattr(module, "TASKS") else module.TASK
    return task


def _stem(name: str) -> str:
    return (get_head(name).same_as or name).replace("-", "_")
