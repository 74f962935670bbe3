"""An adapter becomes weights of its base: loaded by transformers, adapted and merged by PEFT, and answered both ways.

What comes out is a whole model, which is logged as any other. Nothing that PEFT knows of adapters is repeated here: the
merged model must answer as PEFT's own model with the adapter beside the base. peft is an extra, imported when it is
needed.
"""

import copy
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.adapter_base import find_processor, load_base
from registry.adapter_files import CONFIG, KEY_PREFIX, AdapterFolder
from registry.checks import MAX_SHOWN
from registry.contract import Adapter
from registry.errors import IncompleteArtifact, UnreadableArtifact, WrongBase
from registry.extras import how_to_install
from registry.heads import MASK, Head
from registry.image_settings import reads_images
from registry.refusals import refuse_failures

PROBES = ("The quick brown fox jumps over the lazy dog near the river.", "Twelve parcels were counted again on Monday.")
PAIRED = ("AutoModelForQuestionAnswering", "AutoModelForMultipleChoice", "AutoModelForNextSentencePrediction")
"""The heads that read two texts."""
MAX_DIFFERENCE = 1e-3
"""Between the outputs of the merged model and of PEFT's in float32, relative to the largest. Rounding stays within a
tenth of it in the small models of all families (`tests.sweep --adapters`)."""
NOTHING: tuple[object, ...] = (None, False, "none", [], {})
"""Values of a setting that ask for nothing."""


def merge(
    adapter: AdapterFolder, base: Path, head: Head, processor: Any = None, digest: str | None = None
) -> tuple[Any, Any, Adapter]:
    """The adapter merged into its base, on the CPU, in eval mode and the base's dtype; its processor; and the record.

    base: a `save_pretrained` folder. processor: the tokenizer or image processor, by default the one in the adapter's
    folder, else the base's. digest: of the base's weights, where it is known. Blocks; takes the memory of the base in
    float32. Raises HeadError or ArtifactError.
    """
    import torch

    peft = _import_peft()
    config = _read_settings(adapter, peft)
    model, files = load_base(adapter, base, head, digest)
    processor = find_processor(adapter, base, model, processor)
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    dtypes = {name: tensor.dtype for name, tensor in named}
    settings, own = copy.deepcopy(vars(model.config)), len(list(model.parameters()))
    model.float()  # so that the sum is rounded once
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # what they say is refused here, or compared
        adapted = _adapt(adapter, model, config, peft)
        inputs = _make_inputs(model, processor, head)
        with refuse_failures("running the base with its adapter", "run it with PEFT alone, and mend what fails there"):
            expected = _run(adapted, inputs)
        with refuse_failures(
            "merging the adapter", f"merge it with PEFT alone (merge_and_unload); {adapter.trained_on}"
        ):
            merged = adapted.merge_and_unload(safe_merge=True)
            is_untied = len(list(merged.parameters())) > own  # what PEFT says of it may be wrong
            if is_untied:
                _untie(merged)
            compare_outputs(expected, _run(merged, inputs), str(adapter.keys.peft_type))
    vars(merged.config).update(settings)  # a forward pass may write to it, as BigBird's and Reformer's
    if is_untied:
        merged.config.tie_word_embeddings = False
    for name, tensor in [*merged.named_parameters(), *merged.named_buffers()]:
        tensor.data = tensor.data.to(dtypes.get(name, tensor.dtype))
    record = Adapter(config=adapter.config, peft=peft.__version__, files=adapter.files, base=files)
    return merged.eval(), processor, record


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise IncompleteArtifact(f"merging an adapter needs PEFT: {how_to_install('adapters')}") from error
    return peft


def _read_settings(adapter: AdapterFolder, peft: Any) -> Any:
    """The configuration as PEFT reads it. Raises UnreadableArtifact for settings that it does not know."""
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(adapter.keys.peft_type)
    known = inspect.signature(kind).parameters if kind is not None else {}
    unknown = sorted(key for key, value in adapter.config.items() if key not in known and value not in NOTHING)
    if kind is None or unknown:
        what = f"peft_type {adapter.keys.peft_type!r}" if kind is None else ", ".join(unknown[:MAX_SHOWN])
        saved = adapter.config.get("peft_version") or "another one"
        raise UnreadableArtifact(
            f"{CONFIG}: the installed peft {peft.__version__} does not know {what}: install the one that saved the "
            f"adapter ({saved}), or remove keys that are no settings of PEFT's"
        )
    with (
        refuse_failures(f"reading {CONFIG}", "correct it, or save the adapter again with PEFT"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        return kind.from_pretrained(str(adapter.folder))


def _adapt(adapter: AdapterFolder, model: Any, config: Any, peft: Any) -> Any:
    """The base with the adapter beside it, as PEFT loads it. Raises WrongBase where the two do not fit."""
    mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    folder, local = str(adapter.folder), {"torch_device": "cpu", "key_mapping": mapping}
    remedy = f"pass the base that it was trained on; {adapter.trained_on}"
    step = f"putting the adapter (target_modules {adapter.config.get('target_modules')}) on this base"
    with refuse_failures(step, remedy, refusal=WrongBase):
        adapted = peft.PeftModel.from_pretrained(model, folder, config=config, **local)
        result = adapted.load_adapter(folder, "default", **local)  # once more: the first call hides what did not fit
    wrapped = ".modules_to_save."
    twice = {key for key in result.unexpected_keys if wrapped in key and key.replace(wrapped, ".") in adapter.shapes}
    for names, fault in (  # twice: PEFT (0.21) saves biases of a head a second time with bias="all"
        ({*result.missing_keys}, "the base has modules for which the adapter has no weights"),
        ({*result.unexpected_keys} - twice, "the adapter has weights for which this base has no place"),
    ):
        if names:
            first = min(names).replace(".default", "").removeprefix(KEY_PREFIX)
            raise WrongBase(f"{fault}, {len(names)} such as {first}: {remedy}")
    return adapted.eval()


def _untie(model: Any) -> None:
    """Give every place its own weights: of a model that is saved as untied, none is found by another's name."""
    import torch

    model.config.tie_word_embeddings = False
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
            seen.add(id(parameter))


def _make_inputs(model: Any, processor: Any, head: Head) -> dict[str, Any]:
    """Inputs for a comparison of two forms of the model: one row without padding, or one image."""
    import numpy
    import torch

    with refuse_failures(
        "making a row of a text or an image", "check that tokenizer (or image processor) and model fit"
    ):
        if reads_images(model):
            noise = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
            return {"pixel_values": processor(images=noise, return_tensors="pt")["pixel_values"]}
        ids = torch.tensor([processor(*PROBES[: 1 + (head.auto_class in PAIRED)])["input_ids"]])
    inputs = {"input_ids": ids[None] if head.auto_class == "AutoModelForMultipleChoice" else ids}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = ids
    return inputs


def _run(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The model's outputs that are numbers, by name."""
    import torch

    torch.manual_seed(0)  # for what draws at random in a forward pass
    with torch.inference_mode():
        output = model(**inputs)
    return {name: found for name, found in output.items() if torch.is_tensor(found) and found.is_floating_point()}


def compare_outputs(expected: Mapping[str, Any], found: Mapping[str, Any], peft_type: str) -> None:
    """Raise UnreadableArtifact where the merged model's outputs are not those of the adapter beside its base."""
    for name, numbers in expected.items():
        others, is_mask = found[name], numbers.abs() >= MASK
        scale = float(numbers.masked_fill(is_mask | numbers.isnan(), 0.0).abs().max())
        is_same = (others == numbers) | (is_mask & (others.abs() >= MASK)) | (numbers.isnan() & others.isnan())
        distances = (others - numbers).abs().masked_fill(is_same, 0.0)
        if not bool((distances <= MAX_DIFFERENCE * scale).all()):
            raise UnreadableArtifact(
                f"merged into its base, the adapter ({peft_type}) gives other {name} than beside it, by "
                f"{float(distances.max()):.2g} of {scale:.2g}, so it is not served: train an adapter that can be "
                "merged, such as LoRA on modules whose weights are not shared (tied embeddings are)"
            )
