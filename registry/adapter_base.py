"""The base of an adapter, loaded with the task's head, whose weights the adapter may bring. Both must fit."""

from pathlib import Path
from typing import Any

from registry.adapter_files import AdapterFolder, check_task, digest_base
from registry.checks import check_config, check_files, load_weights, parse_config, read_config
from registry.errors import MismatchedHead, RandomHead, WrongBase, WrongHead
from registry.heads import Head, model_classes
from registry.image_settings import reads_images
from registry.loaded_weights import check_report
from registry.saved_processors import VOCABULARIES, load_processor
from registry.served_classes import check_class

IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")
"""One of these files is in a folder that holds an image processor."""


def load_base(adapter: AdapterFolder, base: Path, head: Head, digest: str | None) -> tuple[Any, dict[str, str]]:
    """The base with the task's head, for which the adapter may bring the weights, and the digests of its files.

    The adapter's folder may hold the `config.json` that it was trained with, which says more of a new head: its labels.
    """
    config = read_config(base)
    described = adapter.folder if (adapter.folder / "config.json").is_file() else base
    if described != base:
        config = parse_config(described / "config.json") | {"architectures": config.get("architectures")}
    refusal: WrongHead | None = None
    try:
        expected = check_config(config, head.task)
    except WrongHead as error:  # no fault where the adapter brings the head
        refusal, expected = error, model_classes(head.task, config["model_type"])[0]
    check_class(head.task, expected, config)
    check_files(base)
    check_task(adapter.keys, head, {expected, *model_classes(head.task, config["model_type"])})
    files = digest_base(adapter, base, digest)
    model, report = load_weights(base, head.task, expected, dtype="auto", described=described)
    _check_shapes(adapter, model)
    missing = {*report["missing_keys"]}
    if refusal is not None and not _brings_head(adapter, model, missing):
        raise refusal
    if (lacking := sorted(missing - adapter.brought.keys())) and head.needs_head:
        shown = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
        raise RandomHead(
            f"neither the base nor the adapter has weights of {expected}: {shown}; they would be random. Pass the base "
            f"that the adapter was trained on ({adapter.trained_on}), saved with its head, or name these modules in "
            "modules_to_save when you train"
        )
    mismatched = [found for found in report["mismatched_keys"] if found[0] not in adapter.brought]
    check_report(model, {**report, "missing_keys": set(lacking), "mismatched_keys": mismatched}, expected, head)
    return model, files


def _brings_head(adapter: AdapterFolder, model: Any, missing: set[str]) -> bool:
    """Whether the adapter has all weights of the model that another head's checkpoint does not."""
    body = f"{model.base_model_prefix}."
    is_within = model.base_model is not model
    own = {name for name, _ in model.named_parameters() if not name.startswith(body)} if is_within else missing
    return bool(own) and own <= adapter.brought.keys()


def _check_shapes(adapter: AdapterFolder, model: Any) -> None:
    """Compare what the adapter brings with what it replaces. Raises WrongBase or MismatchedHead."""
    tables = () if reads_images(model) else (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = {id(table.weight) for table in tables if table is not None}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, shape in adapter.brought.items():
        if name not in parameters or (built := tuple(parameters[name].shape)) == shape:
            continue
        has_other_rows = shape[1:] == built[1:]
        if has_other_rows and id(parameters[name]) in embeddings:
            raise WrongBase(
                f"the adapter was trained with a vocabulary of {shape[0]:,} tokens, the base has {built[0]:,} "
                f"({name}): save the base after base.resize_token_embeddings({shape[0]}), as for the training"
            )
        if has_other_rows and not name.startswith(f"{model.base_model_prefix}."):
            raise MismatchedHead(
                f"{name} has shape {shape} in the adapter, config.json asks for {built}: save the configuration that "
                "it was trained with, labels included, beside the adapter: "
                f"model.config.save_pretrained({str(adapter.folder)!r})"
            )
        raise WrongBase(
            f"{name} has shape {shape} in the adapter and {built} in the base: pass the base that it was trained on; "
            f"{adapter.trained_on}"
        )


def find_processor(adapter: AdapterFolder, base: Path, model: Any, given: Any) -> Any:
    """The tokenizer or image processor. Raises WrongBase where it gives tokens of the base's tokenizer other ids."""
    of_images = reads_images(model)
    names = IMAGE_SETTINGS if of_images else VOCABULARIES
    has_own = any((adapter.folder / name).is_file() for name in names)
    found = given if given is not None else load_processor(adapter.folder if has_own else base, of_images)
    if of_images or not (has_own or given is not None) or not any((base / name).is_file() for name in VOCABULARIES):
        return found
    vocabulary = found.get_vocab()
    moved = [
        (token, number, vocabulary[token])
        for token, number in load_processor(base, of_images).get_vocab().items()
        if vocabulary.get(token, number) != number
    ]
    if moved:
        token, number, other = min(moved, key=lambda entry: entry[1])
        raise WrongBase(
            f"the adapter's tokenizer and the base's give {len(moved):,} tokens different ids, such as {token!r}: "
            f"{other} in the adapter's, {number} in the base's: pass the base that it was trained on; "
            f"{adapter.trained_on}"
        )
    return found
