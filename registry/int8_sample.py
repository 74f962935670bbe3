"""The sample that an artifact keeps where int8 is chosen or allowed: engines compare answers on it before they serve.

It is a file of the model's folder, so the contract's digests cover it. Without int8 no input of a sample is kept.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.errors import UnreadableArtifact

FILE = "int8_sample.json"
"""Of the model's folder: a JSON list of inputs."""
MAX_INPUTS = 400
MAX_BYTES = 1 << 20


def write_sample(folder: Path, sample: Sequence[Any]) -> None:
    """Write the first inputs of `sample` to the model's folder, at most MAX_INPUTS and MAX_BYTES; nothing for none."""
    texts, size = list[str](), 0
    for item in sample[:MAX_INPUTS]:
        text = json.dumps(item)
        size += len(text) + 2
        if size > MAX_BYTES:
            break
        texts.append(text)
    if texts:
        (folder / FILE).write_text("[" + ",\n".join(texts) + "]", encoding="utf-8")


def read_sample(folder: Path) -> list[Any]:
    """The inputs, none where there is no file. Raises UnreadableArtifact."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UnreadableArtifact(f"{FILE} is no JSON ({error}): log the model again") from error
    if not isinstance(found, list):
        raise UnreadableArtifact(f"{FILE} holds no list of inputs: log the model again")
    return found
