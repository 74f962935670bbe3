"""Which classes of transformers can be served, from the classes alone: no weights, no checkpoint.

`check_class` refuses a class at logging and at loading, `find_served` lists the classes that it lets pass. So what
`headwaiter heads` and `headwaiter check` call served is what logging accepts. A checkpoint may still be refused for
its own files.
"""

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import msgspec

from registry.atomic_file import replace_file
from registry.environment import InvalidSetting
from registry.errors import UnsupportedHead
from registry.heads import architectures, get_head
from registry.own_folder import make_home

NEEDS_IS_DECODER = frozenset({"roformer"})
"""Architectures that keep no key-value cache, and so write other texts, unless config.json sets `is_decoder`
(transformers 5.23)."""

RECOMPUTED = frozenset(
    {
        *("MambaForCausalLM", "Mamba2ForCausalLM", "FalconMambaForCausalLM", "RwkvForCausalLM"),
        *("OpenAIGPTLMHeadModel", "XLMWithLMHeadModel", "ReformerModelWithLMHead"),
    }
)
"""Classes without a key-value cache whose texts come out as `generate` writes them when each step computes the whole
text (transformers 5.23)."""

UNSERVED = {
    "Canine": "reads characters, and has no table of token embeddings",
    "DiaModel": "has no table of token embeddings for its encoder's ids",
    "Bros": "needs the place of each token on a page (bbox)",
    "Lxmert": "needs features of an image (visual_feats)",
    "HiggsAudioV2": "returns no hidden states (last_hidden_state)",
    "CpmAntForCausalLM": "writes other texts with its key-value cache than without",
    "PPLCNetForImageClassification": "returns no logits",
    "ViTMAEModel": "hides random parts of the image, so its answers differ each time",
}
"""Beginnings of names of classes, and what their forward passes ask for or return though their signatures do not say
so (transformers 5.23). `tests.sweep` finds them."""
_GIVEN = frozenset({"self", "attention_mask", "token_type_ids", "decoder_input_ids"})
"""Arguments that a served forward pass gets beside the main one, where its class requires them."""
_READS = {
    "input_ids": "text",
    "pixel_values": "images",
    "pixel_values_videos": "video",
    "input_values": "audio",
    "input_features": "audio",
    "audio_mel": "audio",
    "latents": "audio",
    "inputs_embeds": "audio",
    "past_values": "time series",
}
"""The kind of input that a class reads, by the name of its main argument."""


class ClassFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a class of transformers that decide whether it is served.

    main_input: name of the argument. modalities: as `input_modalities`. takes_text: whether its forward pass has
    `input_ids`. has_states: whether that returns `last_hidden_state`; has_cache: whether it takes and returns
    `past_key_values`. is_recomputed: whether it writes the same texts without. needs: other arguments that it
    requires. unserved: why it is not served whatever the rest says, or empty. problem: why the class cannot be imported
    here, or empty.
    """

    main_input: str
    modalities: tuple[str, ...]
    takes_text: bool
    has_states: bool
    has_cache: bool
    is_recomputed: bool
    needs: tuple[str, ...]
    unserved: str
    problem: str = ""


def read_facts(class_name: str) -> ClassFacts:
    """Import the class and look at it. Blocks: torch, and the class' module."""
    import transformers

    try:
        model_class = getattr(transformers, class_name)
        main_input = model_class.main_input_name
    except (AttributeError, ImportError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return ClassFacts(
            main_input="",
            modalities=(),
            takes_text=False,
            has_states=False,
            has_cache=False,
            is_recomputed=False,
            needs=(),
            unserved="",
            problem=lines[0] if lines else type(error).__name__,
        )
    modalities = model_class.input_modalities
    arguments = inspect.signature(model_class.forward).parameters
    returned = _returned_fields(model_class)
    mains = {main_input} if isinstance(main_input, str) else {*main_input}
    return ClassFacts(
        main_input=main_input if isinstance(main_input, str) else "+".join(main_input),
        modalities=(modalities,) if isinstance(modalities, str) else tuple(modalities or ()),
        takes_text="input_ids" in arguments,
        has_states=returned is None or "last_hidden_state" in returned,
        has_cache="past_key_values" in arguments and (returned is None or "past_key_values" in returned),
        is_recomputed=class_name in RECOMPUTED,
        needs=tuple(
            name
            for name, argument in arguments.items()
            if argument.default is argument.empty
            and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
            and name not in _GIVEN | mains
        ),
        unserved=next((reason for start, reason in UNSERVED.items() if class_name.startswith(start)), ""),
    )


def find_refusal(task: str, facts: ClassFacts) -> str | None:
    """Why no checkpoint of a class with these facts is served for the task, to follow the class' name; or None."""
    head = get_head(task)
    if facts.problem:
        return f"cannot be loaded by the installed transformers ({facts.problem})"
    reads = _reads(facts)
    if reads not in head.reads:
        return f"reads {reads}"
    if facts.unserved:
        return facts.unserved
    if facts.needs:
        return f"needs {' and '.join(facts.needs)}, which requests do not have"
    if not head.needs_head and not facts.has_states:
        return "returns no hidden states (last_hidden_state)"
    if head.generates and not facts.has_cache and not facts.is_recomputed:
        return "has no key-value cache (past_key_values)"
    return None


def check_class(task: str, class_name: str, config: dict[str, Any]) -> None:
    """Raise UnsupportedHead for a class, or a configuration of it, that is not served. Blocks as `read_facts`."""
    head = get_head(task)
    refusal = find_refusal(task, read_facts(class_name))
    if refusal is not None:
        served = " or ".join(head.reads)
        rule = f"{task} serves models that read {served}" + (" and keep such a cache" if head.generates else "")
        raise UnsupportedHead(f"{class_name} {refusal}; {rule} (`headwaiter heads --task {task}` lists them)")
    if head.generates and config.get("model_type") in NEEDS_IS_DECODER and not config.get("is_decoder"):
        raise UnsupportedHead(
            f"{class_name} writes text only as a decoder: set is_decoder to true in config.json (or "
            "model.config.is_decoder before save_pretrained)"
        )


def find_served(task: str, facts_of: Callable[[str], ClassFacts]) -> tuple[dict[str, str], dict[str, str]]:
    """model_type → class name of what is served, and model_type → the reason for what is not. facts_of: by class."""
    served, refused = dict[str, str](), dict[str, str]()
    for model_type, class_name in sorted(architectures(task).items()):
        refusal = find_refusal(task, facts_of(class_name))
        if refusal is None:
            served[model_type] = class_name
        else:
            refused[model_type] = refusal
    return served, refused


class FactsFile:
    """Facts by class, kept in one file for each version of transformers: reading all classes takes some ten seconds.

    path: of the file; its folder is made. announce: is told each class' name before the class is imported.
    """

    def __init__(self, folder: Path, announce: Callable[[str], object] | None = None) -> None:
        import transformers

        self.path = folder / f"classes-of-transformers-{transformers.__version__}.json"
        self._announce = announce
        self._facts: dict[str, ClassFacts] = {}
        with suppress(OSError, msgspec.DecodeError):
            self._facts = msgspec.json.decode(self.path.read_bytes(), type=dict[str, ClassFacts])

    def facts_of(self, class_name: str) -> ClassFacts:
        """The class' facts. One that cannot be imported is tried again: a package may have been installed since."""
        found = self._facts.get(class_name)
        if found is None or found.problem:
            if self._announce is not None:
                self._announce(class_name)
            found = self._facts[class_name] = read_facts(class_name)
        return found

    def save(self) -> None:
        """Keep what was read, where the folder can be written and is this user's."""
        with suppress(OSError, InvalidSetting):
            make_home(self.path.parent)
            replace_file(self.path, msgspec.json.encode(self._facts))


def _reads(facts: ClassFacts) -> str:
    """The kind of input that the class reads, in words; "text" or "images" only where it can be run on that alone."""
    reads = _READS.get(facts.main_input, facts.main_input)
    modalities = set(facts.modalities)
    if reads == "text" and "text" not in modalities:
        return f"{' and '.join(facts.modalities)}, but not as pixel_values"
    if reads == "text" and modalities == {"audio", "text"}:
        return "audio"
    if reads == "images" and "image" not in modalities and modalities != {"text"}:
        return "video"  # {"text"} is transformers' default, where a class declares nothing
    if reads == "images" and facts.takes_text:
        return "images together with text"
    return reads


def _returned_fields(model_class: Any) -> set[str] | None:
    """Names of what the class' forward pass returns; None where its annotation does not say."""
    annotation = inspect.signature(model_class.forward).return_annotation
    results = [result for result in get_args(annotation) or (annotation,) if dataclasses.is_dataclass(result)]
    return {field.name for result in results for field in dataclasses.fields(result)} if results else None
