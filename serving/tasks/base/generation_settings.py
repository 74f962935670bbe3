"""A checkpoint's own generation settings: which of them a request without parameters gets, and which are not served.

transformers keeps them in generation_config.json, and before that file existed in config.json. The lengths and stop
strings become the contract's defaults; the engine applies the others, as `generate` does.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import ContractError

if TYPE_CHECKING:
    from transformers import GenerationConfig

DEFAULT_NEW_TOKENS = 20
"""What `generate` (transformers 5.23) writes where neither request nor checkpoint says how much."""
MAX_BEAMS = 16
"""Most beams of a search. Untuned: bounds what one request may cost."""

LENGTHS = frozenset({"max_length", "max_new_tokens", "stop_strings"})
"""Recorded in the contract."""
APPLIED = frozenset(
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("min_length", "min_new_tokens", "num_beams", "length_penalty", "early_stopping"),
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
        *("epsilon_cutoff", "eta_cutoff", "repetition_penalty", "encoder_repetition_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "sequence_bias"),
        *("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
        *("exponential_decay_length_penalty", "guidance_scale", "watermarking_config", "renormalize_logits"),
    }
)
"""Applied by the engine."""
EXECUTION = frozenset(
    {
        *("use_cache", "use_mtp", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("prefill_chunk_size", "compile_config", "disable_compile", "continuous_batching_config"),
        *("return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "assistant_ensemble_weight", "speculation_type", "transformers_version"),
    }
)
"""How `generate` runs and what else it returns. They change no text, and the engine has its own way to run."""
HARMLESS: dict[str, tuple[object, ...]] = {
    "num_return_sequences": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
}
"""Values with which a setting that is not served asks for nothing, beside None and False."""


def read_settings(folder: Path) -> dict[str, object]:
    """The settings in a `save_pretrained` folder that are not None, by name; empty where it states none.

    Read as `from_pretrained` does: config.json where there is no generation_config.json. Raises ContractError.
    """
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    is_legacy = not path.is_file()
    path = folder / "config.json" if is_legacy else path
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = GenerationConfig.from_model_config(record) if is_legacy else GenerationConfig.from_dict(record)
    except Exception as error:  # transformers' code may raise anything on a damaged file
        raise ContractError(f"{path} states no valid generation settings ({error}): correct it") from error
    return {name: value for name in _names(found) if (value := getattr(found, name)) is not None}


def state_defaults(folder: Path) -> dict[str, object]:
    """The contract's defaults that a checkpoint's folder states; raises ContractError for settings not served."""
    settings = read_settings(folder)
    problem = find_unserved(settings)
    if problem is not None:
        raise ContractError(f"the checkpoint's generation settings are not served: {problem}")
    stops = settings.get("stop_strings")
    stated: dict[str, object] = {name: settings[name] for name in ("max_length", "max_new_tokens") if name in settings}
    if stops:
        stated["stop_strings"] = [stops] if isinstance(stops, str) else stops
    return stated


def find_unserved(settings: dict[str, object]) -> str | None:
    """The first setting that cannot be served, and what to do; None where all can."""
    beams = settings.get("num_beams", 1)
    if not isinstance(beams, int) or not 1 <= beams <= MAX_BEAMS:
        return f"num_beams is {beams!r}, a search has 1 to {MAX_BEAMS} beams: change it in generation_config.json"
    for name in ("max_length", "max_new_tokens"):
        value = settings.get(name)
        if isinstance(value, int) and value < 1:
            return f"{name} is {value}, which leaves no text: set it to the longest one in generation_config.json"
    if settings.get("cache_implementation") == "quantized":
        return "cache_implementation is quantized, which changes the texts: remove it from generation_config.json"
    for name, value in settings.items():
        if name in LENGTHS or name in APPLIED or name in EXECUTION:
            continue
        if value is not False and value not in HARMLESS.get(name, ()):
            return f"{name} is {value!r}: remove it from generation_config.json and log again"
    return None


def forget_lengths(config: "GenerationConfig") -> None:
    """Remove from a loaded model's settings what requests and the engine decide: lengths, stop strings, execution."""
    for name in (LENGTHS | EXECUTION) & set(_names(config)):
        setattr(config, name, None)


def _names(config: "GenerationConfig") -> list[str]:
    """The settings that transformers knows; a checkpoint's file may have further entries, which nothing reads."""
    known = type(config)().__dict__
    return [name for name in known if not name.startswith("_")]
