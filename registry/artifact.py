"""The `MLmodel` file of an artifact: the contract in it, and what MLflow needs to load the artifact itself."""

import importlib
import logging
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from registry.contract import Contract
from registry.contract_upgrade import upgrade
from registry.errors import ContractError, IncompleteArtifact
from registry.layout import FLAVOR, LOADER, MODEL_FOLDER
from registry.plain_files import MAX_RECORD_BYTES, read_record

logger = logging.getLogger("headwaiter.registry")

MAX_CONTRACT_BYTES = 1 << 22
"""Of a contract as JSON. Untuned: 20,000 labels take a fifth of it. Fronts read all contracts again when one changes,
and requests wait meanwhile."""
REQUIREMENTS = ("mlflow", "torch", "transformers", "headwaiter")

MAX_NODES = 500_000
"""Values in an `MLmodel`, each of which takes some hundred bytes while it is read. Untuned: an example's answer may
have many numbers."""
MAX_NUMBER_CHARACTERS = 64
"""Of a number in an `MLmodel`: of YAML's numbers to the base 60 some take quadratic time. JSON's have at most 25."""


def write_artifact(root: Path, contract: Contract, mlflow_model: Any = None) -> None:
    """Write `MLmodel`, `requirements.txt` and the input example beside `root/model`; mlflow_model: to add to.

    Raises ContractError for one that is too large.
    """
    from mlflow.models import Model

    _check_size(contract)
    described = mlflow_model if mlflow_model is not None else Model()
    if contract.example is not None:
        importlib.import_module(LOADER).describe(contract, described, root)
    python = platform.python_version()
    described.add_flavor(FLAVOR, contract=contract.to_record(), model=MODEL_FOLDER)
    described.add_flavor(
        "python_function", loader_module=LOADER, python_version=python, env={"virtualenv": "python_env.yaml"}
    )
    (root / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")
    environment = f"python: {python}\ndependencies:\n- -r requirements.txt\n"
    (root / "python_env.yaml").write_text(environment, encoding="utf-8")
    described.save(str(root / "MLmodel"))


def read_contract(root: Path, check: Callable[[str], object] = str) -> Contract:
    """The contract of the artifact at `root`; raises IncompleteArtifact, ContractError, or as `upgrade`.

    check: as of `upgrade`. Without its example if that is larger than those that are written now.
    """
    flavors = read_flavors(root)
    if FLAVOR not in flavors:
        raise ContractError(
            f"the artifact has no contract (its flavors: {', '.join(sorted(flavors)) or 'none'}): "
            "log the model with `headwaiter log` or headwaiter.log_model"
        )
    record = flavors[FLAVOR].get("contract")
    if isinstance(record, dict) and "derived" in record:  # it would say by itself which digest it has
        raise ContractError(
            "the contract has the field derived, which no release logs: its files may not be those that were logged; "
            "log the model again"
        )
    contract = Contract.parse(upgrade(record, root / MODEL_FOLDER, check) if isinstance(record, dict) else record)
    alone = msgspec.structs.replace(contract, example=None)
    _check_size(alone)
    if _size(contract) <= MAX_CONTRACT_BYTES:
        return contract
    logger.warning("the example in %s is too large, so no answer is compared with it: log the model again", root)
    return alone


def read_flavors(root: Path) -> dict[str, Any]:
    """Name → configuration of each flavor in the artifact's `MLmodel`; raises IncompleteArtifact or ContractError."""
    import yaml

    try:
        record = read_record(root, "MLmodel")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IncompleteArtifact(f"{root} has no MLmodel file: it is not an MLflow model") from error
    try:
        content = yaml.load(record.decode("utf-8"), Loader=_safe_loader())  # noqa: S506  # it is a SafeLoader
        flavors = (content or {}).get("flavors") or {}
        _check_aliases(flavors)
        return {str(name): dict(configuration) for name, configuration in flavors.items()}
    except RecursionError as error:
        raise ContractError("the artifact's MLmodel is nested too deeply; log the model again") from error
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise ContractError(f"the artifact's MLmodel is damaged: {cause}; log the model again") from error


@cache
def _safe_loader() -> Any:
    """PyYAML's SafeLoader, with the scanner and parser of libyaml where it has them, which take a fraction of the time.

    Nodes are composed by Python, which raises RecursionError for what is nested too deeply: libyaml's own composer
    would end the process.
    """
    import yaml
    from yaml.composer import Composer, ComposerError
    from yaml.constructor import ConstructorError, SafeConstructor
    from yaml.resolver import Resolver

    class Plain(SafeConstructor):
        """Values of JSON. Others can take a time that grows with a power of their size, and MLflow writes none."""

        def flatten_mapping(self, node: Any) -> None:
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    raise ConstructorError(None, None, "it merges mappings (<<)", key.start_mark)
            super().flatten_mapping(node)

        def construct_scalar(self, node: Any) -> Any:
            is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
            if is_number and len(node.value) > MAX_NUMBER_CHARACTERS:
                raise ConstructorError(None, None, f"a number has {len(node.value):,} characters", node.start_mark)
            return super().construct_scalar(node)

    class Bounded(Composer):
        nodes = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise ComposerError(None, None, f"it has more than {MAX_NODES:,} values", None)
            return super().compose_node(parent, index)

    if not yaml.__with_libyaml__:
        return type("Loader", (Plain, Bounded, yaml.SafeLoader), {})
    from yaml.cyaml import CParser  # type: ignore[attr-defined]  # its stubs do not export it

    class Loader(Bounded, CParser, Plain, Resolver):
        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            Bounded.__init__(self)
            Plain.__init__(self)
            Resolver.__init__(self)

    return Loader


def _size(contract: Contract) -> int:
    return len(msgspec.json.encode(contract))


def _check_size(contract: Contract) -> None:
    size = _size(contract)
    if size > MAX_CONTRACT_BYTES:
        raise ContractError(
            f"the contract has {size:,} bytes, at most {MAX_CONTRACT_BYTES:,} are served: log the model with a shorter "
            "example (inputs), and with --default pooling=mean if it makes embeddings"
        )


def _check_aliases(record: Any) -> None:
    """Raise ContractError for YAML whose aliases make more of it than its bytes could, or lead round in a circle.

    A few lines of aliases to aliases stand for any number of values ("billion laughs").
    """
    sizes: dict[int, int] = {}

    def measure(value: Any) -> int:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = MAX_RECORD_BYTES + 1  # of one that holds itself
            sizes[id(value)] = 1 + sum(map(measure, value.values() if isinstance(value, dict) else value))
        return sizes[id(value)]

    if measure(record) > MAX_RECORD_BYTES:
        raise ContractError("the artifact's MLmodel repeats parts of itself by YAML's aliases; log the model again")
