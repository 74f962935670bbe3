"""What `headwaiter log` says about a version that it logged: a line each of what the contract holds, then warnings.

It goes to standard error: standard output has the version's number alone.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from registry.adapter_files import weights_digest
from registry.contract import Contract
from registry.errors import CheckpointWarning

BATCHES = {
    "any lengths": "rows of any lengths",
    "any lengths, padded on the left": "rows of any lengths, padded on the left",
    "equal lengths": "rows of equal length only, because padding changes this model's answers",
    "one row": "one row only, because rows change each other's answers in this model",
}
"""How `registry.contract.Batching` is told."""
MAX_LABELS = 10
"""Labels that are listed."""
MAX_LABEL_CHARACTERS = 40


def summarize(contract: Contract, notes: Sequence[str] = ()) -> str:
    """The summary, a line for each fact and each of `notes`, the warnings of logging."""
    facts = {
        "task": contract.task,
        "head": f"{contract.model_class} ({contract.auto_class})",
        "adapter": _describe_adapter(contract),
        "base": f"sha256 {weights_digest(contract.adapter.base)}" if contract.adapter else "",
        "labels": list_labels(contract.labels),
        "limit": "" if contract.processor.image else f"{contract.max_tokens:,} tokens",
        "batches": BATCHES[contract.batching],
        "dtype": "the fastest that answers the example as recorded" if contract.dtype == "auto" else contract.dtype,
    }
    lines = [f"{name:<8} {text}" for name, text in facts.items() if text]
    return "\n".join([*lines, *(f"warning: {note}" for note in notes)])


def _describe_adapter(contract: Contract) -> str:
    if not contract.adapter:
        return ""
    config = contract.adapter.config
    return f"{config['peft_type']} of {config.get('base_model_name_or_path') or 'a base without a name'}, merged"


def list_labels(labels: Sequence[str]) -> str:
    """The first labels, each cut to a readable length, and how many more there are."""
    words = [" ".join(label.split()) for label in labels[:MAX_LABELS]]
    shown = [word if len(word) <= MAX_LABEL_CHARACTERS else f"{word[: MAX_LABEL_CHARACTERS - 1]}…" for word in words]
    more = f" and {len(labels) - MAX_LABELS:,} more" if len(labels) > MAX_LABELS else ""
    return ", ".join(shown) + more


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """The messages of the block's CheckpointWarnings, complete at its end; other warnings are shown as ever."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CheckpointWarning)
        yield notes
    for warning in caught:
        if issubclass(warning.category, CheckpointWarning):
            notes.append(str(warning.message))
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
