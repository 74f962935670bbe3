"""Models that plain `mlflow.transformers.log_model` logged: their contract is derived from that flavor's fields.

It is derived in a process of its own, because that loads the model: `python -m registry.transformers_flavor FOLDER`
adds the contract to a downloaded artifact. What the flavor's fields do not settle is refused, not guessed; every check
of a logged model is made. That flavor records no digests, so the contract has those of the first download.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from registry.errors import ContractError, RegistryError
from registry.flavor import read_flavors
from registry.layout import FLAVOR, MODEL_FOLDER

SECONDS = 600.0
TASKS = {"llm/v1/chat": "text-generation", "llm/v1/completions": "text-generation"}
"""MLflow's own names of tasks."""


def needs_contract(root: Path) -> bool:
    """Whether the artifact has MLflow's transformers flavor and no contract."""
    flavors = read_flavors(root)
    return "transformers" in flavors and FLAVOR not in flavors


def add_contract(root: Path) -> None:
    """Derive the contract in a process of its own and write it into the artifact. Blocks; raises ContractError."""
    done = subprocess.run(
        [sys.executable, "-m", "registry.transformers_flavor", str(root)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        cause = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise ContractError(f"no contract could be derived for this mlflow.transformers model: {cause[0]}")


def derive(root: Path) -> None:
    """Derive the contract in the process of `add_contract`. Raises HeadError, ArtifactError or ContractError."""
    from mlflow.models import Model

    from registry.checks import load_model
    from registry.fast_tokenizers import write_fast_form
    from registry.flavor import make_contract, write_artifact
    from registry.heads import HEADS
    from registry.image_settings import reads_images
    from registry.processors import load_processor

    fields = read_flavors(root)["transformers"]
    task = TASKS.get(fields.get("task"), fields.get("task"))
    if task not in HEADS:
        raise ContractError(f"its flavor names the task {task!r}, this release has: {', '.join(HEADS)}: log it again")
    if fields.get("model_binary") != MODEL_FOLDER:
        raise ContractError("its flavor holds no weights (save_pretrained=False, or adapters): log it with its weights")
    folder = root / MODEL_FOLDER
    for component in fields.get("components") or []:
        shutil.copytree(root / "components" / component, folder, dirs_exist_ok=True)
    model = load_model(folder, task, dtype="auto")
    processor = load_processor(folder, reads_images(model))
    processor.save_pretrained(folder)  # a tokenizer's fast form may be missing
    write_fast_form(processor, folder)
    described = Model.load(str(root))
    contract = make_contract(root, model, processor, task, origin=folder, described=described)
    write_artifact(root, contract, described)


if __name__ == "__main__":
    try:
        derive(Path(sys.argv[1]))
    except RegistryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
