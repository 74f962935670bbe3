"""The example request of a model logged without one: the task's own texts, as short as the model needs them."""

from collections.abc import Mapping
from typing import Any, cast

from serving.errors import Unprocessable
from serving.tasks.base.request import convert_request
from serving.tasks.base.task import AnyTask
from serving.tasks.base.version_context import VersionContext


def fit_example(task: AnyTask, version: VersionContext, parameters: Mapping[str, object]) -> list[object]:
    """The task's example inputs, each shortened word by word at its end until the model takes it.

    An input that fits in no form is left out. Raises Unprocessable where none fits.
    """
    fitting, refusal = list[object](), None
    for item in task.make_example(version):
        shorter: object | None = item
        while shorter is not None:
            refusal = _refusal(task, shorter, parameters, version)
            if refusal is None:
                fitting.append(shorter)
                break
            shorter = shorten(shorter)
    if not fitting:
        raise Unprocessable(
            f"the example of {task.name} fits this model in no form, with rows of at most "
            f"{version.contract.max_tokens} tokens ({refusal}): log it with inputs of your own, or larger max_tokens"
        )
    return fitting


def shorten(item: object) -> object | None:
    """The item with one word less in its longest text; None where every text has one word only."""
    if isinstance(item, str):
        words = item.split()
        return " ".join(words[:-1]) if len(words) > 1 else None
    if not isinstance(item, dict | list):
        return None
    parts = item.items() if isinstance(item, dict) else enumerate(item)
    for place, part in sorted(parts, key=lambda entry: -_count_words(entry[1])):
        shorter = shorten(part)
        if shorter is not None:
            copy: Any = item.copy()
            copy[place] = shorter
            return cast(object, copy)
    return None


def _count_words(item: object) -> int:
    """Words of all texts in the item."""
    if isinstance(item, str):
        return len(item.split())
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return sum(map(_count_words, parts))


def _refusal(task: AnyTask, item: object, parameters: Mapping[str, object], version: VersionContext) -> str | None:
    """Why the version refuses a request with this item, or None."""
    try:
        request = convert_request([item], dict(parameters), task, max_rows=1_000_000)
        task.encode(request.items[0], request.parameters, version)
    except Unprocessable as error:
        return str(error)
    return None
