"""A version as a front serves it: contract, task, tokenizer, links to its engines, meter."""

from dataclasses import dataclass, field
from pathlib import Path

from registry.contract import Contract
from registry.layout import MODEL_FOLDER
from serving.errors import NotReady
from serving.link import Link
from serving.metering import FrontMeter
from serving.tasks import get_task
from serving.tasks.base import Served, Task


@dataclass
class View:
    """One loaded version. links: its engines; accepting: those that take new requests."""

    model: str
    version: str
    contract: Contract
    task: Task
    served: Served
    meter: FrontMeter
    links: dict[str, Link] = field(default_factory=dict)
    accepting: list[Link] = field(default_factory=list)

    @classmethod
    def load(cls, model: str, version: str, root: Path, contract: Contract) -> "View":
        """Read the version's tokenizer. Blocks for some milliseconds; runs in a thread."""
        task = get_task(contract.task)
        return cls(
            model=model,
            version=version,
            contract=contract,
            task=task,
            served=task.serve(root / MODEL_FOLDER, contract),
            meter=FrontMeter(model, version, contract.task, contract.labels),
        )

    def choose_link(self) -> Link:
        """The engine with the least that waits; raises NotReady."""
        if not self.accepting:
            raise NotReady(
                f"no engine of {self.model}/{self.version} answers now: it is loading or restarting, try again",
                retry_seconds=1.0,
            )
        if len(self.accepting) == 1:
            return self.accepting[0]
        return min(self.accepting, key=lambda link: link.outstanding_tokens)
