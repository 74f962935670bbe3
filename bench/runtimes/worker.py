"""The process of a runtime: `python -m bench.runtimes.worker RUNTIME MODEL THREADS`.

Reads a line of JSON for each order and answers with one: batches of rows of token ids are kept by name, with their
labels as the answer; then a name is measured. It imports nothing of the project but the loader of its runtime.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Sequence[int]]
"""The token ids of each row of a batch."""
Prepare = Callable[[Rows], Callable[[], Any]]
"""From rows to a forward pass over them, which returns logits (rows, labels)."""


def main() -> None:
    """Load, then answer orders until standard input ends."""
    runtime, model, threads = sys.argv[1:]
    module, _, name = runtime.partition(":")
    prepare: Prepare = getattr(importlib.import_module(f"bench.runtimes.{module}"), name)(Path(model), int(threads))
    kept: dict[str, list[Callable[[], Any]]] = {}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "batches" in order:
            passes = kept[order["name"]] = [prepare(rows) for rows in order["batches"]]
            answer: list[Any] = [[int(row.argmax()) for row in run()] for run in passes]
        else:
            answer = [_seconds(run) for _ in range(order["repeats"]) for run in kept[order["name"]]]
        print(json.dumps(answer), flush=True)


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
