"""What a version costs at the least: fork a process that has imported everything, load a classifier, trace it, answer.

`python -m bench.load_floor --model FOLDER` prints the median seconds of several forks.
"""

import argparse
import gc
import os
import time
import warnings
from pathlib import Path
from statistics import median

FORKS = 3
SHORT = 11
"""Tokens of the traced row."""


def main() -> None:
    """Import as a template does, fork, and print the median."""
    parser = argparse.ArgumentParser(prog="python -m bench.load_floor")
    parser.add_argument("--model", required=True, type=Path, help="folder that save_pretrained wrote")
    model = parser.parse_args().model

    from transformers import AutoModelForSequenceClassification
    from transformers.models.bert import modeling_bert  # noqa: F401  # the family, as a template has it

    gc.freeze()
    took = []
    for _ in range(FORKS):
        readable, writable = os.pipe()
        began = time.perf_counter()
        if os.fork() == 0:
            _load(AutoModelForSequenceClassification, model)
            os.write(writable, repr(time.perf_counter() - began).encode())
            os._exit(0)
        os.close(writable)
        took.append(float(os.read(readable, 100)))
        os.close(readable)
        os.wait()
    print(median(took))


def _load(kind: "type", model: Path) -> None:
    """Load, trace and answer."""
    import torch

    warnings.simplefilter("ignore")
    module = kind.from_pretrained(model, dtype=torch.float32, return_dict=False).eval()  # type: ignore[attr-defined]
    ids = torch.arange(5, 5 + SHORT)[None]
    with torch.inference_mode():
        graph = torch.jit.freeze(torch.jit.trace(module, ids, check_trace=False, strict=False))  # type: ignore[no-untyped-call]
        graph(ids)


if __name__ == "__main__":
    main()
