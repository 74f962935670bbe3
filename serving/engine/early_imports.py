"""What the template imports before it forks: torch for every engine, the rest for those that have no kept graph."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import msgspec

from registry.artifact import read_contract
from serving.engine.large_modules import WITH_TORCH, import_modules, import_transformers
from serving.wire.engine_orders import WANTED_FILE, EngineOrder, WantedVersions


def import_for(path: Path, run: Callable[[Callable[[], None]], None]) -> None:
    """Import what the engine of the order in the file `path` needs, so that later engines have it, too.

    An engine with a kept graph needs torch alone. What cannot be read or imported is the engine's to report.
    run: calls what it is given, at a priority of its choice.
    """
    from serving.engine.loading import finds_kept

    with suppress(Exception):
        order = msgspec.json.decode(path.read_bytes(), type=EngineOrder)
        if not finds_kept(order):
            run(lambda: import_with_family([Path(order.root)]))


def import_with_family(roots: Sequence[Path]) -> None:
    """Import transformers, and the modules of the model classes of these artifacts."""
    import_transformers()
    import transformers

    with suppress(Exception):  # a release that makes them otherwise; the first load does it then
        make_renaming_rules()
    for root in roots:
        with suppress(Exception):  # what cannot be read or imported is the engine's to report
            model_class = read_contract(root).model_class
            import_modules([getattr(transformers, model_class).__module__])


def make_renaming_rules() -> None:
    """Let transformers compile the thousand patterns by which it renames weights, as the first model's load does.

    Raises whatever a release without them does.
    """
    import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("")


def import_wanted(folder: Path) -> None:
    """Import torch, and ahead of the first order what engines are going to need besides.

    Transformers is left out where every artifact that is wanted has a kept graph. folder: of the orders.
    """
    import_modules(WITH_TORCH)
    try:
        roots = msgspec.json.decode((folder / WANTED_FILE).read_bytes(), type=WantedVersions).roots
    except (OSError, ValueError):
        roots = ()
    paths = [Path(root) for root in roots]
    if not paths or not all(map(may_have_graph, paths)):
        import_with_family([path for path in paths if not may_have_graph(path)])


def may_have_graph(root: Path) -> bool:
    """Whether a graph is kept of the artifact, if perhaps not for this machine and these settings."""
    from serving.engine.kept_graph import FOLDER

    return any((root / FOLDER).glob("*.json"))
