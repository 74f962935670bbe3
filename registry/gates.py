"""The gates before an alias moves to a version: whole files, no change that clients would notice, and a score
where one is asked for. Each gate raises its own kind of PromotionRefused; the alias has not moved then.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.cache import fetch_and_pin, peek
from registry.cache_folder import Held
from registry.contract import Contract
from registry.errors import ArtifactError, BreakingChange, ContractError, DamagedVersion, HeadError, RegistryUnavailable
from registry.history import Evaluation
from registry.references import ResolvedVersion
from registry.settings import RegistrySettings

Evaluate = Callable[[Path, Contract], Evaluation]
"""From a verified artifact to its score; raises NotGoodEnough where a requirement is missed."""
SHOWN = 10
SINGLE = "single_label_classification"
"""The problem type of a sequence classifier that states none."""


def check_files(candidate: ResolvedVersion, settings: RegistrySettings) -> tuple[ResolvedVersion, Held, Contract]:
    """The candidate with its digest, and its verified artifact in the cache. Blocks.

    Raises DamagedVersion or RegistryUnavailable.
    """
    try:
        return fetch_and_pin(candidate, settings)
    except (ArtifactError, ContractError, HeadError) as error:
        raise DamagedVersion(f"{candidate.name}/{candidate.version} is not promoted: {error}", [str(error)]) from error


def check_compatible(
    candidate: Contract, live: ResolvedVersion, what: str, alias: str, settings: RegistrySettings
) -> None:
    """Raise BreakingChange, which names every difference, where clients of `live` would notice the candidate.

    what: the candidate, for the message. A live version whose contract cannot be read counts as a difference.
    """
    try:
        differences = find_differences(peek(live, settings), candidate)
    except (ArtifactError, ContractError, HeadError, RegistryUnavailable) as error:
        differences = [f"the contract of the live version cannot be read ({error})"]
    if differences:
        raise BreakingChange(
            f"{what} is not promoted, {live.name}@{alias} stays at version {live.version}, because its clients would "
            f"notice: {'; '.join(differences)}. Promote it under another alias or name, or pass --allow-breaking with "
            "the reason (in Python allow_breaking=…)",
            differences,
        )


def find_differences(live: Contract, candidate: Contract) -> list[str]:
    """What a client of `live` would notice if `candidate` answered instead, in words; empty for nothing.

    What it may send: text or images, texts as long as before, the tokenizer's class (which decides how a mask is
    written, and what counts as a word), the part and size of an image that the model sees. What it gets back: the
    task, the labels in their order, what a score means, the length of vectors, and the task's own settings, which are
    what a request without parameters asks for. Not noticed, and left out: the architecture, its dtype, how pixels are
    normalised, versions of libraries, and better or worse answers, which are the evaluation's concern.
    """
    found = [
        _changed("task", live.task, candidate.task),
        _labels(live.labels, candidate.labels),
        _changed("problem type", live.problem_type or SINGLE, candidate.problem_type or SINGLE),
        *_inputs(live, candidate),
    ]
    if live.task == candidate.task:
        found.append(_changed("vectors have", _width(live), _width(candidate), " numbers"))
        found += _settings(live.defaults, candidate.defaults)
    return [difference for difference in found if difference]


def _labels(before: Sequence[str], after: Sequence[str]) -> str:
    gone = [f"{label} is gone" for label in before if label not in after]
    new = [f"{label} is new" for label in after if label not in before]
    if gone or new:
        found = [*gone, *new]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"labels: {', '.join(found[:SHOWN])}{more}"
    for place, (was, now) in enumerate(zip(before, after, strict=False)):
        if was != now:
            return f"labels are in another order: number {place} is {now}, was {was}"
    return _changed("number of labels", len(before), len(after))


def _inputs(live: Contract, candidate: Contract) -> list[str]:
    before, after = live.processor, candidate.processor
    kinds = [["text", "images"][processor.image is not None] for processor in (before, after)]
    if kinds[0] != kinds[1]:
        return [_changed("input", *kinds)]
    found = [_changed("tokenizer" if before.image is None else "image processor", before.class_name, after.class_name)]
    if before.image is not None and after.image is not None:
        for name in ("resize", "crop", "height", "width"):
            found.append(_changed(f"image {name}", getattr(before.image, name), getattr(after.image, name)))
    elif candidate.max_tokens < live.max_tokens:
        found.append(_changed("longest text", live.max_tokens, candidate.max_tokens, " tokens"))
    if gone := _languages(live).keys() - _languages(candidate).keys():
        found.append(f"languages: {', '.join(sorted(gone)[:SHOWN])} are gone")
    return found


def _languages(contract: Contract) -> Mapping[str, int]:
    found = contract.processor.languages
    return found.ids if found else {}


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What changed; a setting that an older contract does not have counts as empty."""
    names = dict.fromkeys([*before, *after])
    return [_changed(f"default {name}", _stated(before.get(name)), _stated(after.get(name))) for name in names]


def _stated(value: Any) -> Any:
    return None if value in ((), [], {}, "") else value


def _width(contract: Contract) -> int | None:
    """How many numbers a vector of the example's answer has; None where answers are no vectors."""
    found = contract.example.output if contract.example is not None else None
    while isinstance(found, list) and found and isinstance(found[0], list):
        found = found[0]
    is_vector = isinstance(found, list) and found and all(isinstance(value, int | float) for value in found)
    return len(found) if is_vector and isinstance(found, list) else None


def _changed(what: str, before: Any, after: Any, unit: str = "") -> str:
    return "" if before == after else f"{what} {_show(after)}{unit}, was {_show(before)}{unit}"


def _show(value: Any) -> str:
    if value is None or value == ():
        return "none"
    text = " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
