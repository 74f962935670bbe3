"""Checks of a checkpoint before it is logged or served: its own head, all of its weights, nothing executable.

`check_files` and `check_config` look at the folder alone; `load_model` loads the weights, and `loaded_weights` looks at
what loading reports. transformers and torch are imported inside, so that the first two stay cheap.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from registry.checkpoint_files import CheckpointKeys, check_json_files, convert, one_line, read_json
from registry.errors import (
    IncompleteArtifact,
    UnreadableArtifact,
    UnsafeArtifact,
    WrongHead,
)
from registry.heads import get_head, model_classes
from registry.loaded_weights import check_report
from registry.refusals import refuse_failures
from registry.served_classes import check_class
from registry.weight_files import WEIGHTS, check_texts, check_weights, list_unread, refuse_pointers

GENERATION = "generation_config.json"
PICKLED = ("pytorch_model*.bin", "model*.pt", "model*.pth", "model*.ckpt", "*.pkl", "*.joblib")
"""Names of weights in formats that are pickles."""
BOTH_HEADS = "ForPreTraining"
"""How transformers names classes that hold the heads of fill-mask and next-sentence-prediction together."""
FORMER_NAMES = {"T5WithLMHeadModel": "T5ForConditionalGeneration"}
"""Classes that transformers renamed, as older checkpoints still name them."""
MAX_SHOWN = 8
"""Entries of a long list that a message shows."""


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a `save_pretrained` folder, its values as `CheckpointKeys` has them. Raises ArtifactError."""
    path = folder / "config.json"
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise IncompleteArtifact(
            f"{folder} holds an adapter ({adapter.name}), such as LoRA's, and no whole model: log it with the folder "
            "of the model that it was trained on (--base BASE, base=… in Python), or merge it with model = "
            "model.merge_and_unload(), then model.save_pretrained(folder), and log that folder"
        )
    if not path.is_file():
        raise IncompleteArtifact(f"{folder} has no config.json: pass a folder that save_pretrained wrote")
    return parse_config(path)


def parse_config(path: Path) -> dict[str, Any]:
    """The file `config.json`, its values as `CheckpointKeys` has them. Raises ArtifactError."""
    config = read_json(path, dict[str, Any])
    keys = convert(config, CheckpointKeys, path.name)
    if keys.id2label is not None:
        order_labels(keys.id2label)
    if keys.transformers_weights not in (None, WEIGHTS[0]):
        raise UnsafeArtifact(
            f"config.json: transformers_weights {keys.transformers_weights!a} names other weights than {WEIGHTS[0]}, "
            "which are the ones that are checked: remove the key, and save the model again with save_pretrained"
        )
    return config


def order_labels(id2label: Mapping[Any, Any]) -> tuple[str, ...]:
    """The labels by the index of the output. Raises UnreadableArtifact where the keys are not 0, 1, 2, …"""
    try:
        found = {int(index): str(label) for index, label in id2label.items()}
    except (TypeError, ValueError):
        found = {}
    if len(found) != len(id2label) or set(found) != set(range(len(found))):
        shown = ", ".join(f"{index!s} = {label!s}" for index, label in islice(id2label.items(), MAX_SHOWN))
        more = f" and {len(id2label) - MAX_SHOWN} more" if len(id2label) > MAX_SHOWN else ""
        raise UnreadableArtifact(
            f"config.json: the keys of id2label ({shown}{more}) are not 0 to {max(0, len(id2label) - 1)}, so which "
            "output has which label is unknown: set config.id2label to {0: …, 1: …} in the order of training"
        )
    return tuple(found[index] for index in range(len(found)))


def check_files(folder: Path) -> None:
    """Refuse pickled and missing weights, and JSON files with wrong values. Raises ArtifactError.

    Other files beside them, code included, are never loaded, and are not copied into an artifact.
    """
    refuse_pointers(folder)
    check_json_files(folder)
    check_texts(folder)
    if any((folder / name).is_file() for name in WEIGHTS):
        check_weights(folder)
        return
    pickles = sorted({path.name for pattern in PICKLED for path in folder.glob(pattern)})
    if pickles:
        raise UnsafeArtifact(
            f"the weights are pickled ({', '.join(pickles)}), and unpickling runs code: load them where you trust "
            "them and call save_pretrained(folder), which writes safetensors"
        )
    unread = list_unread(folder)
    instead = f" (and {', '.join(unread[:MAX_SHOWN])} {'is' if len(unread) == 1 else 'are'} not read)" if unread else ""
    raise IncompleteArtifact(f"{folder} has no {' or '.join(WEIGHTS)}{instead}: save the model with save_pretrained")


def check_config(config: dict[str, Any], task: str) -> str:
    """Name of the class that serves `task`, after checking that it is the checkpoint's own head.

    A checkpoint that was saved without a head passes here: `load_model` then finds its head's weights missing, or tied
    to the embeddings, as those of some language models are. So does any checkpoint whose task needs no head: all of its
    weights that the task needs are looked for. config: the content of `config.json`. Raises UnknownTask,
    UnsupportedHead, UnsafeArtifact (remote code), UnreadableArtifact (quantized weights) or WrongHead, also when the
    configuration does not say which head it was saved with.
    """
    if config.get("auto_map"):
        raise UnsafeArtifact(
            "config.json has auto_map, which asks for code from elsewhere; only classes of transformers are served: "
            "save the model from the transformers class, without auto_map"
        )
    refuse_quantized(config.get("quantization_config"))
    head, model_type = get_head(task), config["model_type"]
    classes = model_classes(task, model_type)
    saved = [FORMER_NAMES.get(name, name) for name in config.get("architectures") or []]
    own = next((name for name in classes if name in saved), None)
    if own is not None:
        return own
    if not head.needs_head:
        encoder = f"{classes[0].removesuffix('Model')}EncoderModel"
        return encoder if encoder in saved and _is_class(encoder) else classes[0]
    base = model_classes("feature-extraction", model_type)
    if any(name in saved for name in base):
        return classes[0]
    if task in ("fill-mask", "next-sentence-prediction") and any(name.endswith(BOTH_HEADS) for name in saved):
        return classes[0]
    needed = " or ".join(classes)
    if not saved:
        raise WrongHead(
            f"{task} needs {needed}, and config.json names no architectures, so which head the checkpoint has is "
            f'unknown: if it was trained with that one, set architectures to ["{classes[0]}"], else fine-tune it'
        )
    raise WrongHead(
        f"{task} needs {needed}, the checkpoint was saved as {', '.join(saved)}: fine-tune and save it with "
        f"{head.auto_class}, or choose the task of its own head (`headwaiter heads`)"
    )


def has_own_head(config: dict[str, Any], task: str) -> bool:
    """Whether a checkpoint with this configuration says that it was saved with the task's head, if that needs one."""
    base = model_classes("feature-extraction", config["model_type"])
    if not get_head(task).needs_head:
        return True
    try:
        check_config(config, task)
    except WrongHead:
        return False
    return not any(name in base for name in config.get("architectures") or [])


def _is_class(name: str) -> bool:
    """Whether transformers has this class; imports no model."""
    import transformers

    return name in dir(transformers)


def refuse_quantized(settings: Any) -> None:
    """Raise UnreadableArtifact where `quantization_config` of a configuration says that weights are quantized."""
    if not settings:
        return
    found = settings if isinstance(settings, Mapping) else vars(settings)
    method = found.get("quant_method") or "an unnamed method"
    raise UnreadableArtifact(
        f"config.json has quantization_config: weights quantized by {getattr(method, 'value', method)} are not served. "
        "Save them in full precision: model = model.dequantize() where the method has it, or load the base model "
        "without quantization_config (and merge an adapter into it), then model.save_pretrained(folder)"
    )


def load_model(folder: Path, task: str, *, dtype: str) -> Any:
    """Load the task's model from `folder` on the CPU, in eval mode, after every check of this file.

    dtype: a torch dtype's name, such as "float32", or "auto" for the checkpoint's. Blocks. Raises HeadError or
    ArtifactError as they apply.
    """
    config = read_config(folder)
    refuse_quantized(config.get("quantization_config"))  # before its weights are looked at
    check_files(folder)
    expected = check_config(config, task)
    check_class(task, expected, config)
    model, report = load_weights(folder, task, expected, dtype=dtype)
    check_report(model, report, expected, get_head(task))
    return model


def load_weights(
    folder: Path, task: str, expected: str, *, dtype: str, described: Path | None = None
) -> tuple[Any, dict[str, Any]]:
    """The class `expected`, which serves the task, with what `folder` has of its weights, and transformers' report.

    described: the folder of `config.json`; by default `folder`. Other arguments and errors as `load_model`'s. Whoever
    calls it checks the files before, and the report after.
    """
    import transformers

    described, head = described or folder, get_head(task)
    is_auto = expected in model_classes(task, parse_config(described / "config.json")["model_type"])
    loader = getattr(transformers, head.auto_class if is_auto else expected)
    remedy = (
        f"correct it so that {head.auto_class}.from_pretrained(folder) works with transformers "
        f"{transformers.__version__}, or save the model again with save_pretrained"
    )
    local = {"trust_remote_code": False, "local_files_only": True}
    with refuse_failures("reading config.json", remedy):
        configuration = transformers.AutoConfig.from_pretrained(described, **local)
        configuration.output_attentions = configuration.output_hidden_states = False  # nothing reads them
    if head.generates and (folder / GENERATION).is_file():
        with refuse_failures(f"reading {GENERATION}", remedy):
            transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    with refuse_failures("loading the weights by config.json", remedy):
        model, report = loader.from_pretrained(
            folder,
            config=configuration,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported, and refused by whoever reads the report
            **local,
        )
    if type(model).__name__ != expected:
        raise WrongHead(
            f"transformers built {type(model).__name__} where {task} needs {expected}: choose the task of its own head "
            "(`headwaiter heads`)"
        )
    return model.eval(), report


def fetch_config(model: str) -> dict[str, Any]:
    """`config.json` of a folder or of a model on the hub, without its weights; raises IncompleteArtifact."""
    folder = Path(model)
    if folder.is_dir():
        return read_config(folder)
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model)
    except Exception as error:
        raise IncompleteArtifact(
            f"{model} is no folder, and no configuration could be loaded from the hub ({one_line(error)}): give a "
            "folder that save_pretrained wrote, or a model's name on the hub"
        ) from error
    if not config.get("model_type"):
        raise IncompleteArtifact(
            f"{model} has no config.json with a model_type: give a folder that save_pretrained wrote, or another model"
        )
    convert(config, CheckpointKeys, "config.json")
    return dict(config)
