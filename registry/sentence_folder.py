"""What a folder of sentence-transformers says beyond the model: which modules make a text's vector of its states.

Every key of every file is read, or refused by name: a key that this release does not know may change the vectors. The
files are those of sentence-transformers 2.0 to 6.2. `serving.tasks.feature_extraction` serves by the result.
"""

import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import msgspec

from registry.contract import VectorLayer
from registry.errors import IncompleteArtifact, UnsafeArtifact
from registry.sentence_files import (
    DenseConfig,
    Dropout,
    LayerNormConfig,
    Module,
    Places,
    Pooling,
    ScoringTransformer,
    Transformer,
    Whole,
    WholeCrossEncoder,
)
from registry.weight_files import refuse_pointers

MODULES = "modules.json"
WHOLE = "config_sentence_transformers.json"
WEIGHTS = "model.safetensors"
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The transformer module's settings: the first of these that exists (`Transformer.load_config`)."""
ACTIVATIONS = frozenset(
    {"ELU", "GELU", "Hardswish", "Identity", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid"}
    | {"Softplus", "Softsign", "Tanh"}
)
"""Classes of `torch.nn`, made without arguments, that a Dense module may name; none has weights."""

_FOLDER_NAME = re.compile(r"[\w-][\w.-]{0,99}")


class SentenceFolder(msgspec.Struct, frozen=True, kw_only=True):
    """How the folder's own product makes a vector of a text.

    transformer: the subfolder with model and tokenizer, empty for the folder itself. pooling: of the tokens' states, as
    feature-extraction names it; several are concatenated. include_prompt: whether a prompt's own tokens are pooled.
    layers: what the pooled vector passes, in order. normalizes: whether it then gets length 1. prompts: prefixes by
    name; prompt_name: the one of a request that names none. dimensions: how many numbers of a vector are kept, None
    for all. max_tokens: of a row, None where only the tokenizer limits it. lowercases: whether texts are lowercased
    before the tokenizer sees them. files: that say all this, relative to the folder.
    """

    transformer: str
    pooling: tuple[str, ...]
    include_prompt: bool
    layers: tuple[VectorLayer, ...]
    normalizes: bool
    prompts: dict[str, str]
    prompt_name: str | None
    dimensions: int | None
    max_tokens: int | None
    lowercases: bool
    files: tuple[str, ...]


def read_sentence_folder(folder: Path) -> SentenceFolder | None:
    """The folder's settings; None where sentence-transformers did not save it.

    Raises IncompleteArtifact, which names file and key, for what is damaged or not served, and UnsafeArtifact for
    modules of other code.
    """
    if not (folder / MODULES).is_file():
        for stray in (WHOLE, "1_Pooling/config.json"):
            if (folder / stray).is_file():
                _refuse(stray, f"there is no {MODULES} beside it", "save the model with SentenceTransformer's save")
        return None
    modules = _read(folder, MODULES, list[Module])
    _check_modules(modules)
    for module in modules[1:]:
        if (folder / module.path).is_dir():
            refuse_pointers(folder, module.path)
    whole = _read(folder, WHOLE, Whole) if (folder / WHOLE).is_file() else Whole()
    first, second, *rest = modules
    settings = [str(PurePosixPath(first.path, name)) for name in TRANSFORMER_FILES]
    found = [name for name in settings if (folder / name).is_file()][:1]
    transformer = _read(folder, found[0], Transformer) if found else Transformer()
    pooling_file = f"{second.path}/config.json"
    pooling = _read(folder, pooling_file, Pooling)
    width = pooling.embedding_dimension or pooling.word_embedding_dimension
    if width is None:
        _refuse(pooling_file, "it has no embedding_dimension, nor the older word_embedding_dimension")
    layers, files = list[VectorLayer](), [MODULES, *found, pooling_file]
    files += [WHOLE] if (folder / WHOLE).is_file() else []
    width *= len(pooling.modes())
    for module in rest:
        layer, width, read = _LAYERS[module.kind](folder, module.path, width)
        layers += [layer] if layer else []
        files += read
    prompts = {name: text or "" for name, text in (whole.prompts or {}).items()}
    if whole.default_prompt_name is not None and whole.default_prompt_name not in prompts:
        _refuse(WHOLE, f"default_prompt_name {whole.default_prompt_name!r} is none of its prompts")
    cuts = whole.truncate_dim is not None and whole.truncate_dim < width
    normalizes = bool(layers) and layers[-1].kind == "normalize" and not cuts  # where it cuts, it does so afterwards
    return SentenceFolder(
        transformer=first.path,
        pooling=pooling.modes(),
        include_prompt=pooling.include_prompt,
        layers=tuple(layers[:-1] if normalizes else layers),
        normalizes=normalizes,
        prompts=prompts,
        prompt_name=whole.default_prompt_name,
        dimensions=whole.truncate_dim if cuts else None,
        max_tokens=transformer.max_seq_length,
        lowercases=transformer.do_lower_case,
        files=tuple(files),
    )


def read_cross_encoder(folder: Path) -> str | None:
    """The full name of the activation that a CrossEncoder's own files name; None where they name none.

    Reads no `config.json`, where older releases name it. Raises IncompleteArtifact, which names file and key, for
    what is damaged or not served.
    """
    if not (folder / WHOLE).is_file() or _read(folder, WHOLE, dict[str, Any]).get("model_type") != "CrossEncoder":
        return None
    whole = _read(folder, WHOLE, WholeCrossEncoder)
    if (folder / MODULES).is_file():
        modules = _read(folder, MODULES, list[Module])
        if [(module.kind, module.path) for module in modules] != [("Transformer", "")] or modules[0].kwargs:
            shown = ", ".join(module.kind for module in modules)
            _refuse(MODULES, f"it lists {shown or 'nothing'}; of a CrossEncoder a Transformer alone is served")
    for name in [name for name in TRANSFORMER_FILES if (folder / name).is_file()][:1]:
        _read(folder, name, ScoringTransformer)
    return str(whole.activation_fn) if whole.activation_fn is not None else None


def adapt_tokenizer(tokenizer: Any, sentences: SentenceFolder) -> None:
    """Set the folder's limit of a row and its lowercasing in a transformers tokenizer, which is changed."""
    from tokenizers.normalizers import Lowercase, Sequence

    if sentences.max_tokens is not None:
        tokenizer.model_max_length = sentences.max_tokens
    if sentences.lowercases:
        backend = tokenizer.backend_tokenizer
        backend.normalizer = Sequence([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])


def copy_files(sentences: SentenceFolder, source: Path, target: Path) -> None:
    """Copy the folder's files beside the model that was saved to `target`, which becomes such a folder itself."""
    for name in sentences.files:
        place = target / name.removeprefix(f"{sentences.transformer}/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, place)
    if sentences.transformer:
        modules = _read(source, MODULES, list[Module])
        modules[0].path = ""
        (target / MODULES).write_bytes(msgspec.json.format(msgspec.json.encode(modules)))


def _check_modules(modules: list[Module]) -> None:
    for number, module in enumerate(modules):
        key = f"[{number}]"
        if not module.type.startswith("sentence_transformers."):
            raise UnsafeArtifact(
                f"{MODULES}: {key}.type {module.type!r} is code of its own, which is not run: save the model with "
                "modules of sentence-transformers alone"
            )
        if module.kwargs:
            _refuse(MODULES, f"{key}.kwargs {module.kwargs!r} are not served")
        if not (number == 0 and not module.path) and not _FOLDER_NAME.fullmatch(module.path):
            _refuse(MODULES, f"{key}.path {module.path!r} is not the name of a folder beside it")
        expected = ("Transformer", "Pooling")[number : number + 1] or tuple(_LAYERS)
        if module.kind not in expected:
            _refuse(
                MODULES,
                f"{key}.type {module.type!r} is not served: a Transformer, a Pooling, then {', '.join(_LAYERS)} are",
            )
    if len(modules) < 2:
        _refuse(MODULES, "it lists no Pooling, without which a text has no vector")


def _dense(folder: Path, path: str, width: int) -> tuple[VectorLayer, int, list[str]]:
    file = f"{path}/config.json"
    dense = _read(folder, file, DenseConfig)
    if dense.in_features != width:
        _refuse(file, f"in_features is {dense.in_features}, what comes before it makes {width} numbers")
    module, _, activation = dense.activation_function.rpartition(".")
    if not module.startswith("torch.nn") or activation not in ACTIVATIONS:
        _refuse(
            file,
            f"activation_function {dense.activation_function!r} is not served; these of torch.nn are: "
            f"{', '.join(sorted(ACTIVATIONS))}",
        )
    layer = VectorLayer(
        kind="dense",
        inputs=width,
        outputs=dense.out_features,
        folder=path,
        activation=activation,
        bias=dense.bias,
        residual=dense.use_residual,
    )
    return layer, dense.out_features, _weights(folder, path, file)


def _layer_norm(folder: Path, path: str, width: int) -> tuple[VectorLayer, int, list[str]]:
    file = f"{path}/config.json"
    dimension = _read(folder, file, LayerNormConfig).dimension
    if dimension != width:
        _refuse(file, f"dimension is {dimension}, what comes before it makes {width} numbers")
    return VectorLayer(kind="layer_norm", folder=path, inputs=width, outputs=width), width, _weights(folder, path, file)


def _normalize(folder: Path, path: str, width: int) -> tuple[VectorLayer, int, list[str]]:
    file = f"{path}/config.json"
    exists = (folder / file).is_file()  # releases before 5.0 wrote none
    if exists:
        _read(folder, file, Places)
    return VectorLayer(kind="normalize", inputs=width, outputs=width), width, [file] * exists


def _dropout(folder: Path, path: str, width: int) -> tuple[None, int, list[str]]:
    file = f"{path}/config.json"
    _read(folder, file, Dropout)
    return None, width, [file]  # it does nothing outside training


_LAYERS = {"Dense": _dense, "LayerNorm": _layer_norm, "Normalize": _normalize, "Dropout": _dropout}


def _weights(folder: Path, path: str, file: str) -> list[str]:
    """The module's files, after checking that its weights are safetensors."""
    if not (folder / path / WEIGHTS).is_file():
        if (folder / path / "pytorch_model.bin").is_file():
            raise UnsafeArtifact(
                f"{path}/pytorch_model.bin is pickled, and unpickling runs code: load the model where you trust it and "
                "save it with SentenceTransformer's save, which writes safetensors"
            )
        _refuse(f"{path}/{WEIGHTS}", "the file is missing")
    return [file, f"{path}/{WEIGHTS}"]


def _read(folder: Path, name: str, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode((folder / name).read_bytes(), type=kind)
    except OSError as error:
        _refuse(name, f"it cannot be read ({error.strerror}); {MODULES} names its folder")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(name, f"{error}; this release reads what sentence-transformers 2.0 to 6.2 write")


def _refuse(
    file: str, reason: str, remedy: str = "correct it there, or save the model again with SentenceTransformer's save"
) -> NoReturn:
    raise IncompleteArtifact(f"{file}: {reason}: {remedy}")
