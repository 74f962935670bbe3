"""The `MLmodel` file of an artifact: the contract in it, and what MLflow needs to load the artifact itself."""

from pathlib import Path
from typing import Any

from registry.contract import Contract
from registry.contract_upgrade import upgrade
from registry.errors import ContractError, IncompleteArtifact
from registry.layout import FLAVOR, LOADER, MODEL_FOLDER
from registry.plain_files import read_record

REQUIREMENTS = ("mlflow", "torch", "transformers", "headwaiter")


def write_artifact(root: Path, contract: Contract, mlflow_model: Any = None) -> None:
    """Write `MLmodel` and `requirements.txt` beside `root/model`."""
    from mlflow.models import Model

    described = mlflow_model if mlflow_model is not None else Model()
    described.add_flavor(FLAVOR, contract=contract.to_record(), model=MODEL_FOLDER)
    described.add_flavor("python_function", loader_module=LOADER, env={"virtualenv": "python_env.yaml"})
    (root / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")
    (root / "python_env.yaml").write_text("dependencies:\n- -r requirements.txt\n", encoding="utf-8")
    described.save(str(root / "MLmodel"))


def read_contract(root: Path) -> Contract:
    """The contract of the artifact at `root`; raises IncompleteArtifact or ContractError."""
    flavors = read_flavors(root)
    if FLAVOR not in flavors:
        raise ContractError(
            f"the artifact has no contract (its flavors: {', '.join(sorted(flavors)) or 'none'}): "
            "log the model with `headwaiter log` or registry.log_model"
        )
    record = flavors[FLAVOR].get("contract")
    return Contract.parse(upgrade(record, root / MODEL_FOLDER) if isinstance(record, dict) else record)


def read_flavors(root: Path) -> dict[str, Any]:
    """Name → configuration of each flavor in the artifact's `MLmodel`; raises IncompleteArtifact or ContractError."""
    import yaml

    try:
        record = read_record(root, "MLmodel")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IncompleteArtifact(f"{root} has no MLmodel file: it is not an MLflow model") from error
    try:
        flavors = (yaml.safe_load(record.decode("utf-8")) or {}).get("flavors") or {}
        return {str(name): dict(configuration) for name, configuration in flavors.items()}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise ContractError(f"the artifact's MLmodel is damaged: {cause}; log the model again") from error
