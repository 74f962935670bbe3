"""From a model in memory or in a folder to a checked artifact with its contract: all of logging but registering it.

The saved files are loaded again, every check of `registry.checks` passes, and the loaded model answers the example. The
contract records that answer. The artifact's `python_function` loader does the answering, found by name as MLflow itself
does; nothing here imports it.
"""

import importlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from registry.adapter_files import AdapterFolder, read_adapter
from registry.adapters import merge
from registry.artifact import write_artifact
from registry.checks import check_config, check_files, load_model, order_labels, read_config, refuse_quantized
from registry.contract import FORMAT, INT8, Contract, Example
from registry.digests import digest_folder
from registry.errors import CheckpointWarning, ContractError, IncompleteArtifact, UnreadableArtifact
from registry.fast_tokenizers import write_fast_form
from registry.heads import Head, get_head
from registry.image_settings import describe_images, image_patches, reads_images
from registry.int8_sample import write_sample
from registry.layout import LOADER, MODEL_FOLDER
from registry.processors import describe_processor
from registry.refusals import refuse_failures
from registry.saved_processors import load_processor
from registry.sentence_folder import MODULES, adapt_tokenizer, copy_files, read_sentence_folder
from registry.served_classes import check_class
from registry.stated_limits import longest_row

LABELLED = tuple(f"AutoModelFor{kind}Classification" for kind in ("Sequence", "Token", "Image"))
"""The heads whose outputs have labels."""
SAVE_AGAIN = (
    "check that model, configuration and tokenizer (or image processor) belong together, and save all of them again "
    "with save_pretrained"
)
RUN_FIRST = "run the model on these inputs with transformers alone, mend what fails there, and save it again"
"""What to do where a step of logging failed in a library."""


def stage(
    root: Path,
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    base: str | Path | None = None,
    base_digest: str | None = None,
    announce: Callable[[str], object] | None = None,
    **options: Any,
) -> Contract:
    """Write a checked, loadable artifact to the folder `root`: all of logging but registering it. Blocks.

    options: of `make_contract`; the others as in `log_model`. Raises HeadError, ArtifactError, ContractError.
    """
    announce = announce or (lambda _: None)
    folder = Path(model) if isinstance(model, str | Path) else None
    head, sentences, record, given = get_head(task), None, None, tokenizer
    if base is not None:
        adapter, base = _read_adapter(folder), Path(base)
        folder = adapter.folder if (adapter.folder / MODULES).is_file() else base
        announce("merging the adapter into its base")
        model, tokenizer, record = merge(adapter, _find_transformer(base, head), head, given, base_digest)
    elif base_digest is not None:
        raise IncompleteArtifact("the digest of a base is given, and no base: give the folder of the base, too")
    elif folder is not None:
        announce("loading and checking the checkpoint")
        model, tokenizer = _load_folder(folder, head, given)
    if folder is not None and not head.needs_head:
        sentences = read_sentence_folder(folder)
    if sentences is not None and given is None:
        adapt_tokenizer(tokenizer, sentences)
    _save(model, tokenizer, root / MODEL_FOLDER)
    if folder is not None and sentences is not None:
        copy_files(sentences, folder, root / MODEL_FOLDER)
    announce("loading it again from the artifact, and answering the example")
    contract = make_contract(root, model, tokenizer, task, origin=folder or root / MODEL_FOLDER, **options)
    return msgspec.structs.replace(contract, adapter=record) if record is not None else contract


def make_contract(
    root: Path,
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    origin: Path,
    inputs: Any = None,
    parameters: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    allow: Sequence[str] = (),
    max_tokens: int | None = None,
    sample: Sequence[Any] = (),
    described: Any = None,
) -> Contract:
    """The contract of the model saved in `root/model`, with the example's answer; leaves a loadable artifact at `root`.

    origin: the folder whose files say more about the task's settings. described: MLflow's model record to add to, if
    there is one. The others as in `log_model`. Blocks; raises HeadError, ArtifactError, ContractError.
    """
    loader = importlib.import_module(LOADER)
    has_int8 = INT8 in (dtype, *allow)
    if has_int8:
        write_sample(root / MODEL_FOLDER, sample)
    with refuse_failures("comparing the saved files with the model", SAVE_AGAIN, loader.REFUSALS):
        contract = describe(
            root,
            model,
            tokenizer,
            task,
            defaults=loader.task_defaults(task, origin, dict(defaults or {})),
            dtype=dtype,
            max_tokens=max_tokens,
        )
        sentences = None if get_head(task).needs_head else read_sentence_folder(root / MODEL_FOLDER)
        if sentences is not None:
            contract = msgspec.structs.replace(contract, layers=sentences.layers)
        difference = loader.compare(task, tokenizer, contract)
    if difference is not None:
        raise IncompleteArtifact(difference)
    write_artifact(root, contract, described)
    with refuse_failures("answering the example", RUN_FIRST, loader.REFUSALS):
        loaded = loader.load(root)
        limit, batching = loaded.prove()
        contract = msgspec.structs.replace(contract, batching=batching)
        if limit < contract.max_tokens:
            if max_tokens is not None:
                raise ContractError(f"max_tokens={max_tokens} is out of range: this model takes 1 to {limit}")
            contract = msgspec.structs.replace(contract, max_tokens=limit)
            loaded = loader.load(root, contract)
        example = _answer_example(loaded, inputs, dict(parameters or {}))
        contract = msgspec.structs.replace(contract, example=example)
        if sample:
            contract = msgspec.structs.replace(contract, baseline=loaded.baseline(sample))
    return _with_int8(root, contract) if has_int8 else contract


def _answer_example(loaded: Any, inputs: Any, parameters: dict[str, Any]) -> Example:
    """The example with the loaded artifact's answer. Raises UnreadableArtifact where that is not finite."""
    example = Example(**loaded.example(inputs, parameters))
    if not is_finite(example.output):
        raise UnreadableArtifact(
            "the example's answer holds numbers that are not finite: check the weights for NaN, and layer_norm_eps "
            "in config.json and image_std in preprocessor_config.json for wrong values"
        )
    return example


def _with_int8(root: Path, contract: Contract) -> Contract:
    """The contract with what int8 costs in answers. Raises ContractError where int8 is the dtype and costs too much."""
    loader = importlib.import_module(LOADER)
    with refuse_failures("answering in int8", RUN_FIRST, loader.REFUSALS):
        found = loader.try_int8(root, contract)
    if found.refusal and contract.dtype == INT8:
        raise ContractError(f"{found.refusal}: log the model with another dtype")
    if found.refusal:
        warnings.warn(found.refusal, CheckpointWarning, stacklevel=5)
    return msgspec.structs.replace(contract, int8=found)


def describe(
    root: Path,
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    defaults: dict[str, Any],
    dtype: str,
    max_tokens: int | None,
) -> Contract:
    """The contract of the model saved in `root/model`, without an example; arguments as `make_contract`'s.

    defaults: all of the task's. Blocks; raises HeadError, ArtifactError, ContractError.
    """
    import torch
    import transformers

    folder = root / MODEL_FOLDER
    saved = read_config(folder)
    check_files(folder)
    model_class = check_config(saved, task)
    check_class(task, model_class, saved)
    config = model.config
    head = get_head(task)
    has_labels = head.auto_class in LABELLED
    labels = order_labels(saved.get("id2label") or config.id2label) if has_labels else ()
    _warn_of_labels(labels)
    is_image = reads_images(model)
    longest = image_patches(model, tokenizer) if is_image else longest_row(model, tokenizer)
    if max_tokens is not None and not 1 <= max_tokens <= longest:
        raise ContractError(f"max_tokens={max_tokens} is out of range: this model takes 1 to {longest}")
    return Contract(
        format=FORMAT,
        task=task,
        auto_class=head.auto_class,
        model_class=model_class,
        model_type=config.model_type,
        problem_type=getattr(config, "problem_type", None),
        labels=labels,
        max_tokens=max_tokens or longest,
        dtype=dtype,
        is_encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        processor=describe_images(tokenizer)
        if is_image
        else describe_processor(
            model,
            tokenizer,
            folder,
            generates=head.generates,
            ends_by_id=head.auto_class == "AutoModelForSequenceClassification",
        ),
        defaults=defaults,
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
        files=digest_folder(root, MODEL_FOLDER),
    )


def is_finite(answer: Any) -> bool:
    """Whether plain data holds neither NaN nor infinity."""
    if isinstance(answer, dict):
        return all(map(is_finite, answer.values()))
    if isinstance(answer, list | tuple):
        return all(map(is_finite, answer))
    return not isinstance(answer, float) or math.isfinite(answer)


def _load_folder(folder: Path, head: Head, processor: Any) -> tuple[Any, Any]:
    if not folder.is_dir():
        raise IncompleteArtifact(f"{folder} is not a folder: pass one that save_pretrained wrote")
    checkpoint = _find_transformer(folder, head)
    model = load_model(checkpoint, head.task, dtype="auto")
    return model, load_processor(checkpoint, reads_images(model)) if processor is None else processor


def _find_transformer(folder: Path, head: Head) -> Path:
    """The folder of the model itself, which one of sentence-transformers may have within."""
    sentences = None if head.needs_head else read_sentence_folder(folder)
    return folder / sentences.transformer if sentences is not None else folder


def _read_adapter(folder: Path | None) -> AdapterFolder:
    if folder is None:
        raise IncompleteArtifact(
            "a base is given beside a model in memory: save the adapter with its save_pretrained and pass that folder, "
            "or pass model.merge_and_unload() without a base"
        )
    return read_adapter(folder)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    if tokenizer is None:
        raise IncompleteArtifact("a model in memory needs its tokenizer (or image processor): pass tokenizer=…")
    for name, given in {"model": model, "tokenizer": tokenizer}.items():
        if not hasattr(given, "save_pretrained"):
            raise IncompleteArtifact(
                f"{name} is a {type(given).__name__} without save_pretrained: pass one of transformers, or the folder "
                "that it was saved to"
            )
    refuse_quantized(getattr(getattr(model, "config", None), "quantization_config", None))
    with refuse_failures("saving the model and its tokenizer (or image processor)", SAVE_AGAIN):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_fast_form(tokenizer, folder)


def _warn_of_labels(labels: Sequence[str]) -> None:
    """Warn of labels that say too little: those of transformers, and several outputs with the same one."""
    if labels and all(label == f"LABEL_{index}" for index, label in enumerate(labels)):
        warnings.warn(
            f"the labels have no names ({', '.join(labels[:3])}…): set config.id2label before logging",
            CheckpointWarning,
            stacklevel=4,
        )
    if repeated := [label for label, count in Counter(labels).items() if count > 1]:
        warnings.warn(
            f"config.json: id2label gives several outputs the label {repeated[0]!r}, and answers do not tell them "
            "apart: set config.id2label to a label for each output",
            CheckpointWarning,
            stacklevel=4,
        )
