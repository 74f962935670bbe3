"""The JSON files of a checkpoint, by one reader that checks the type of every value the code uses.

A wrong value is refused with its file and key. Keys that nothing here uses are left to transformers. Light to import.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from registry.errors import UnreadableArtifact, UnsafeArtifact

T = TypeVar("T")

Number = int | float
Divisor = Annotated[float, msgspec.Meta(gt=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
StatedTokenIds = int | list[int] | None
Pairs = dict[str, Any]
CodeNames = Pairs | list[str | None] | None
"""Class of transformers' Auto classes → where its code is; of old tokenizers a list."""
Switch = bool | None
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.safetensors")
"""The name of a file that holds some of the weights."""


class AddedToken(msgspec.Struct, frozen=True):
    """A special token as an object; its other keys say how it is found in a text."""

    content: str


SpecialToken = str | AddedToken | None


class NamedTemplate(msgspec.Struct, frozen=True):
    """One of several chat templates."""

    name: str
    template: str


class TaskKeys(msgspec.Struct, frozen=True):
    """The keys of a task's entry in `task_specific_params` of `config.json`."""

    prefix: str | None = None


class CheckpointKeys(msgspec.Struct, frozen=True):
    """The keys of `config.json` that decide what is served. transformers checks those of the architecture itself."""

    model_type: str
    architectures: list[str] | None = None
    auto_map: Pairs | None = None
    id2label: dict[str, str | int | float | bool] | None = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    is_decoder: Switch = None
    is_encoder_decoder: Switch = None
    quantization_config: Pairs | None = None
    transformers_weights: str | None = None
    task_specific_params: dict[str, TaskKeys | None] | None = None


class SpecificKeys(msgspec.Struct, frozen=True):
    """The keys of each entry in `task_specific_params` of `config.json`."""

    task_specific_params: dict[str, dict[str, object] | None] | None = None


class SpecialTokensMap(msgspec.Struct, frozen=True):
    """`special_tokens_map.json`, which older releases of transformers wrote beside `tokenizer_config.json`."""

    bos_token: SpecialToken = None
    eos_token: SpecialToken = None
    unk_token: SpecialToken = None
    sep_token: SpecialToken = None
    pad_token: SpecialToken = None
    cls_token: SpecialToken = None
    mask_token: SpecialToken = None


class TokenizerKeys(SpecialTokensMap, frozen=True):
    """The keys of `tokenizer_config.json` that say how texts become rows, the special tokens among them."""

    tokenizer_class: str | None = None
    model_max_length: Annotated[int, msgspec.Meta(ge=1)] | Annotated[float, msgspec.Meta(gt=0)] | None = None
    model_input_names: list[str] | None = None
    padding_side: Literal["left", "right"] | None = None
    truncation_side: Literal["left", "right"] | None = None
    chat_template: str | dict[str, str] | list[NamedTemplate] | None = None
    added_tokens_decoder: dict[str, AddedToken] | None = None
    auto_map: CodeNames = None


class GenerationKeys(msgspec.Struct, frozen=True):
    """The keys of `generation_config.json`: each changes which text is generated, or how (transformers 5.23)."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    do_sample: Switch = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    early_stopping: bool | str | None = None
    max_time: Number | None = None
    temperature: Number | None = None
    top_k: int | None = None
    top_p: Number | None = None
    top_h: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    epsilon_cutoff: Number | None = None
    eta_cutoff: Number | None = None
    repetition_penalty: Number | None = None
    encoder_repetition_penalty: Number | None = None
    length_penalty: Number | None = None
    exponential_decay_length_penalty: tuple[int, Number] | None = None
    penalty_alpha: Number | None = None
    diversity_penalty: Number | None = None
    guidance_scale: Number | None = None
    num_beam_groups: int | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    remove_invalid_values: Switch = None
    renormalize_logits: Switch = None
    token_healing: Switch = None
    stop_strings: str | list[str] | None = None
    bos_token_id: int | None = None
    eos_token_id: StatedTokenIds = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: StatedTokenIds = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    bad_words_ids: list[list[int]] | None = None
    force_words_ids: list[list[int | list[int]]] | None = None
    sequence_bias: list[tuple[list[int], Number]] | None = None
    watermarking_config: Pairs | None = None
    dola_layers: str | list[int] | None = None
    use_cache: Switch = None
    cache_implementation: str | None = None
    cache_config: Pairs | None = None
    max_cache_len: int | None = None
    prefill_chunk_size: int | None = None
    low_memory: Switch = None
    compile_config: Pairs | None = None
    continuous_batching_config: Pairs | None = None
    disable_compile: Switch = None
    is_assistant: Switch = None
    num_assistant_tokens: int | None = None
    num_assistant_tokens_schedule: str | None = None
    assistant_confidence_threshold: Number | None = None
    assistant_early_exit: int | None = None
    assistant_ensemble_weight: Number | None = None
    assistant_lookbehind: int | None = None
    target_lookbehind: int | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    speculation_type: str | None = None
    use_mtp: Switch = None
    output_attentions: Switch = None
    output_hidden_states: Switch = None
    output_logits: Switch = None
    output_scores: Switch = None
    return_dict_in_generate: Switch = None


class ImageKeys(msgspec.Struct, frozen=True):
    """The keys of `preprocessor_config.json` that say how images become pixels."""

    image_processor_type: str | None = None
    auto_map: CodeNames = None
    do_resize: Switch = None
    do_center_crop: Switch = None
    do_rescale: Switch = None
    do_normalize: Switch = None
    size: Positive | list[Positive] | dict[str, Positive | None] | None = None
    crop_size: Positive | list[Positive] | dict[str, Positive | None] | None = None
    resample: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    rescale_factor: Number | None = None
    image_mean: Number | list[Number] | None = None
    image_std: Divisor | list[Divisor] | None = None


class ProcessorKeys(msgspec.Struct, frozen=True):
    """The keys of `processor_config.json`, where transformers 5 puts an image processor that is part of another."""

    image_processor: ImageKeys | None = None


class WeightsIndex(msgspec.Struct, frozen=True):
    """`model.safetensors.index.json`: the file of each weight, where there are several. Both keys are read."""

    metadata: Pairs
    weight_map: Annotated[dict[str, str], msgspec.Meta(min_length=1)]


FILES: dict[str, type[msgspec.Struct]] = {
    "tokenizer_config.json": TokenizerKeys,
    "special_tokens_map.json": SpecialTokensMap,
    "generation_config.json": GenerationKeys,
    "preprocessor_config.json": ImageKeys,
    "processor_config.json": ProcessorKeys,
    "model.safetensors.index.json": WeightsIndex,
}
"""Files that a checkpoint may have, beside its `config.json`, and what is checked in each."""


def read_json(path: Path, kind: type[T]) -> T:
    """The file as `kind`, keys of a struct that it does not name ignored. Raises UnreadableArtifact."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))  # as transformers; msgspec reads no Infinity
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableArtifact(
            f"{path.name} is not JSON ({one_line(error)}): save it again with save_pretrained, or restore the file"
        ) from error
    return convert(found, kind, path.name)


def convert(found: Any, kind: type[T], name: str) -> T:
    """Plain data of the file `name` as `kind`. Raises UnreadableArtifact, which names the key."""
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `")
        key = place.rstrip("`").removeprefix("key` in `").removeprefix("$").removeprefix(".")
        raise UnreadableArtifact(
            f"{name}: {f'the value of {key}' if key else 'the content'} is not what it must be ({problem}): "
            "correct it there, or save the checkpoint again with save_pretrained"
        ) from error


def check_json_files(folder: Path) -> None:
    """Read every file of FILES that the folder holds. Raises UnreadableArtifact, or UnsafeArtifact.

    The latter is for an index that names weights elsewhere.
    """
    for name, kind in FILES.items():
        if (folder / name).is_file():
            read_json(folder / name, kind)
    index = folder / "model.safetensors.index.json"
    shards = read_json(index, WeightsIndex).weight_map if index.is_file() else {}
    for weight, name in shards.items():
        if not SHARD.fullmatch(name):
            raise UnsafeArtifact(
                f"{index.name}: {weight} is in {name!a}, which is no name of a safetensors file beside it: save the "
                "model again with save_pretrained"
            )
    if not (folder / "model.safetensors").is_file():
        for weight, name in shards.items():
            if not (folder / name).is_file():
                raise UnreadableArtifact(
                    f"{index.name}: {weight} is in {name}, which the folder does not hold: restore that file, or save "
                    "the model again with save_pretrained"
                )


def one_line(error: BaseException, max_characters: int = 300) -> str:
    """The error's message in one line of at most `max_characters`; its class' name where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
