"""Records that an earlier release wrote become records of today's format, so that what was logged goes on being served.

What a later format added is derived from the artifact's own files where they say it; else the field keeps its default,
which is how the earlier release served, and a note says what logging the model again would change. Light to import.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.contract import FORMAT, digest_record
from registry.digests import check_digest, digest_file
from registry.errors import ContractError, DigestMismatch
from registry.refusals import refuse_failures

UpgradeStep = Callable[[dict[str, Any], Path], tuple[str, ...]]
"""Adds to a record what its format lacked; the notes are about what it could not derive. The folder holds the model's
files; it is empty or missing where only the record was fetched. Raises ArtifactError or ContractError."""

OTHER_PIXELS = (
    "EfficientNetImageProcessor",
    "LevitImageProcessor",
    "MobileViTImageProcessor",
    "PoolFormerImageProcessor",
)
"""Image processors with a step that format 1 had no field for; of feature-extraction it did not compare the pixels."""


def _add_vector_settings(record: dict[str, Any], _folder: Path) -> tuple[str, ...]:
    """Format 1 copied none of the files of a sentence-transformers folder, and knew three kinds of pooling."""
    if record.get("task") != "feature-extraction":
        return ()
    record["defaults"] = {"include_prompt": True} | dict(record.get("defaults") or {})
    processor = record.get("processor") or {}
    if processor.get("image") is None:
        return (
            "whether a sentence-transformers folder has modules after its pooling, a limit of its own or a default "
            "prompt was not recorded: if the model came from one, log that folder again to have its own vectors",
        )
    if str(processor.get("class_name")).removesuffix("Pil").removesuffix("Fast") in OTHER_PIXELS:
        return (f"a step of {processor['class_name']} is left out: log the model again to have its own pixels",)
    return ()


def _add_sides(record: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Where the tokenizer pads and cuts. An example that the earlier release read otherwise is left out."""
    path = folder / "tokenizer_config.json"
    processor = record.get("processor")
    if not path.is_file() or not isinstance(processor, dict) or processor.get("image"):
        return ()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        sides = {name: said.get(name) for name in ("padding_side", "truncation_side")}
    except (ValueError, AttributeError):  # the tokenizer is read from another file
        return ()
    record["processor"] = processor | {name: side for name, side in sides.items() if side in ("left", "right")}
    swaps = record.get("task") == "question-answering" and sides["padding_side"] == "left"
    example = record.get("example") or {}
    cuts = sides["truncation_side"] == "left" and (example.get("parameters") or {}).get("truncate")
    if example and (swaps or cuts or _marks_single_texts(record["processor"], folder)):
        record["example"] = None
        return (
            "the recorded example is not compared: the release that logged it passed no token types of single texts, "
            "put the question first, and cut texts at the right, whatever the tokenizer's configuration says; "
            "logging the model again records an answer",
        )
    return ()


def _marks_single_texts(processor: dict[str, Any], folder: Path) -> bool:
    """Whether a single text has token types other than 0, as XLNet's."""
    path = folder / "tokenizer.json"
    if "token_type_ids" not in processor.get("inputs", ()) or not path.is_file():
        return False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()  # to a length that the file states, however large
    tokenizer.no_truncation()
    return any(tokenizer.encode("a").type_ids)


def _note_generation_lengths(record: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Keep the number of new tokens that was recorded, whatever the checkpoint says; note what it says."""
    defaults = record.get("defaults")
    path = folder / "generation_config.json"
    if not isinstance(defaults, dict) or "limit_new_tokens" not in defaults or not path.is_file():
        return ()
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ContractError(f"{path} is not JSON ({error}): log the model again") from error
    stated = [f"{name} {own[name]}" for name in ("max_new_tokens", "max_length") if own.get(name) is not None]
    wanted = stated[0] if stated else "20 new tokens, as transformers' generate"
    return (
        f"a request that names no length gets {defaults.get('max_new_tokens')} new tokens, as when the model was "
        f"logged; logged again, it gets the checkpoint's own length: {wanted}",
    )


def _note_languages(record: dict[str, Any], _: Path) -> tuple[str, ...]:
    """Note that a tokenizer for translation has languages, which only transformers' class can list."""
    processor = record.get("processor")
    name = processor.get("class_name") if isinstance(processor, dict) else None
    if record.get("task") != "translation" or not str(name).startswith(("MBart", "Nllb", "M2M100", "PLBart")):
        return ()
    return (f"src_lang and tgt_lang of requests are refused; logged again, they choose among the languages of {name}",)


STEPS: dict[int, tuple[UpgradeStep, ...]] = {
    1: (_add_sides, _add_vector_settings, _note_generation_lengths, _note_languages),
}
"""By the format that a record has: what the next format added."""


SOURCES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""The model's files that the steps read."""


def _check_sources(record: dict[str, Any], folder: Path) -> None:
    """Raise DigestMismatch for a file of SOURCES that is not the one of the record."""
    files = record.get("files")
    for source in SOURCES:
        name = f"{folder.name}/{source}"
        try:
            digest = digest_file(folder.parent, name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        expected = files.get(name) if isinstance(files, dict) else None
        if not isinstance(expected, str):
            raise DigestMismatch(
                f"{name} is in the artifact but not in its contract: somebody added it after logging; remove it, or "
                "log the model again"
            )
        check_digest(name, digest, expected)


def upgrade(record: dict[str, Any], folder: Path, check: Callable[[str], object] = str) -> dict[str, Any]:
    """The record in today's format, the same object if it has it already or if its format is unknown.

    folder: of the model's files, of which those in SOURCES are hashed first; nobody has done it yet. Raises as the
    steps do, UnreadableArtifact, or ArtifactError for a file that is not the one of the record. check: is given the
    digest of a record that is to be upgraded, before any file is read, and raises for another one than is wanted.
    """
    found = record.get("format")
    if not isinstance(found, int) or found not in STEPS:
        return record
    upgraded, notes = dict(record), list[str]()
    with refuse_failures(f"bringing the contract of format {found} up to date", "log the model again"):
        check(digest := digest_record(record))
        _check_sources(record, folder)
        for number in range(found, FORMAT):
            for step in STEPS[number]:
                notes += step(upgraded, folder)
    return upgraded | {"format": FORMAT, "derived": {"digest": digest, "notes": notes}}
