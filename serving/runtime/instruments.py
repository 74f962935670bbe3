"""The metrics of this process, counted in the folder that all processes of a server share."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from monitoring.instruments import Instruments
from monitoring.metrics import MAX_LABELS, OTHER
from serving.runtime.run_folder import METRICS, RUN_VARIABLE

FREE_LABELS = 10
"""Label values of a model without labels, so that the number of series stays small."""


@cache
def instruments() -> Instruments:
    """This process' metrics: in the server's run folder, or of a process of no server in a temporary one."""
    run = os.environ.get(RUN_VARIABLE)
    return Instruments(Path(run) / METRICS if run else None)


def forget(model: str, version: str) -> None:
    """Remove the series that this process counted for a version that was unloaded."""
    instruments().forget(model, version)


class LabelNames:
    """Label values of predictions: a contract's labels, with and without a prefix such as `B-`.

    Any other value counts as OTHER. Where the contract has no labels, the first FREE_LABELS values are kept.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._free = 0 if labels else FREE_LABELS
        known = labels[:MAX_LABELS]
        self._known = {*known, *(label.split("-", 1)[-1] for label in known)}

    def bounded(self, label: str) -> str:
        """The label, or OTHER."""
        if label not in self._known and self._free:
            self._free -= 1
            self._known.add(label)
        return label if label in self._known else OTHER
