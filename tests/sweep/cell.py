"""One cell of the table: a small model of a family and head is logged, loaded and compared with plain transformers."""

import json
import re
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import torch

from registry.artifact import write_artifact
from registry.checks import load_model
from registry.contract import Batching
from registry.errors import RegistryError
from registry.heads import HEADS, architectures
from registry.image_settings import reads_images
from registry.layout import MODEL_FOLDER
from registry.saved_processors import load_processor
from registry.staging import make_contract
from serving.errors import EngineError, ServingError
from tests.alike import assert_alike
from tests.families import LABELS, make_tokenizer
from tests.local import Local
from tests.plain_answers import CHECKS, PAIRS, TEXTS, Plain
from tests.sweep.small_configs import small_config

Found = (
    Literal["any lengths", "any lengths, padded on the left", "equal lengths", "one row"]
    | Literal["equal", "refused", "not built", "differs", "fault"]
)
MAX_PARAMETERS = 40_000_000
ALONE = 6
"""Requests that are also answered one after the other."""
_TOKENIZERS = (
    (r"Roberta(?<!XLMRoberta)|Bart(?<!MBart)|LED|Luke|Mvp|MarkupLM|LayoutLMv3|^Deberta(?!V2)", "roberta"),
    (r"XLMRoberta|Camembert|Esm|Xmod|Longformer", "longformer"),
    (r"XLNet", "xlnet"),
    (r"BigBird|Albert|DebertaV2|FNet|RemBert|Reformer", "albert"),
    (r"Bert|MPNet|Funnel|LayoutLM|Lxmert|RoFormer|Splinter|Tapas|ProphetNet|Canine", "bert"),
    (r"GPT|Qwen|CTRL|CodeGen|Cohere|XGLM|BioGpt", "gpt2"),
    (r"T5|Pegasus|MBart|Nllb|SeamlessM4T|Blenderbot|FSMT|M2M", "t5"),
)
"""The kind of a small tokenizer, by the name of the family's own: as `tests.families.make_tokenizer` calls them."""


class Cell(msgspec.Struct, frozen=True):
    """What a head of a family came to; detail: why, where it is not served."""

    family: str
    task: str
    found: Found
    detail: str = ""

    @property
    def is_served(self) -> bool:
        """Whether its answers were those of transformers."""
        return self.found in get_args(Batching)


class Together(Local):
    """Answers many requests at once, and some of them again one after the other: the same."""

    async def _ask(self, bodies: list[Any]) -> list[Any]:
        answers = await super()._ask(bodies)
        for answer in answers:
            if isinstance(answer, ServingError):
                raise answer
        async with self.running() as front:
            for body, answer in list(zip(bodies, answers, strict=True))[:ALONE]:
                assert_alike(await self.ask(front, body), answer)
        return answers


@torch.inference_mode()
def try_cell(family: str, task: str, root: Path) -> Cell:
    """Build, log, load and compare, in the empty folder `root`. Blocks."""
    try:
        build(root / "saved", family, task)
    except Exception as error:  # any class may be what no rule fits
        return Cell(family, task, "not built", describe_error(error))
    try:
        log(root / "saved", root, task)
        (root / "run").mkdir()
        served = Together(root, root / "run")
    except (RegistryError, EngineError) as refusal:  # what `headwaiter log` prints in a line
        problem = find_problem(root / "saved", task)
        return Cell(family, task, "not built" if problem else "refused", problem or str(refusal))
    except Exception as error:
        return Cell(family, task, "fault", describe_error(error))
    try:
        CHECKS[task](Plain(root / MODEL_FOLDER, HEADS[task].auto_class), served)
    except AssertionError as difference:
        return Cell(family, task, "differs", describe_error(difference))
    except Exception as error:
        return Cell(family, task, "fault", describe_error(error))
    return Cell(family, task, served.model.form.batching)


def build(folder: Path, family: str, task: str) -> None:
    """Save a small model with random weights of a healthy size, and its tokenizer or image processor."""
    import transformers

    torch.manual_seed(0)
    head = HEADS[task]
    has_images = head.reads == ("images",)
    tokenizer = make_tokenizer(choose_tokenizer(family))
    names = ("pad", "bos", "eos", "unk", "mask", "cls", "sep")
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in names}
    special = {name: token for name, token in special.items() if token is not None}
    settings: dict[str, Any] = {"architectures": [architectures(task)[family]]}
    if "Classification" in head.auto_class:
        settings |= {"id2label": dict(enumerate(LABELS)), "label2id": {each: at for at, each in enumerate(LABELS)}}
    if task == "text-generation" and not architectures("text2text-generation").get(family):
        settings["is_decoder"] = True
    config = small_config(family, special, len(tokenizer), settings)
    if "Classification" in head.auto_class and config.num_labels != len(LABELS):  # PVT's own default
        config.num_labels = len(LABELS)
        config.id2label, config.label2id = settings["id2label"], settings["label2id"]
    if getattr(config, "type_vocab_size", None) == 1 and any(tokenizer("a", "b").get("token_type_ids", ())):
        config.type_vocab_size = 2  # the tokenizer gives a pair two types
    kind = getattr(transformers, head.auto_class)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    if count > MAX_PARAMETERS:
        raise ValueError(f"it has {count / 1e6:.0f} million parameters")
    model = kind.from_config(config).eval()
    scale_weights(model)
    if model.can_generate():
        own = model.generation_config
        own.eos_token_id = own.forced_eos_token_id = None  # so that every text has the length that was asked for
        own.num_beams = 1
    model.save_pretrained(folder)
    if has_images or reads_images(model):
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", None) or 64
        height, width = (size, size) if isinstance(size, int) else size[-2:]
        transformers.ViTImageProcessorPil(size={"height": height, "width": width}).save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)


@torch.no_grad()
def scale_weights(model: Any) -> None:
    """Give each matrix a spread that keeps the states' size: with the usual 0.02, answers hardly depend on the text."""
    for parameter in model.parameters():
        if parameter.ndim >= 2 and parameter.is_floating_point():
            inputs = parameter.shape[-1] if parameter.ndim < 4 else parameter[0].numel()
            parameter.normal_(0, 1.1 / max(1, inputs) ** 0.5)


def log(saved: Path, root: Path, task: str) -> None:
    """As `registry.flavor.log_model` does, without a registry."""
    model = load_model(saved, task, dtype="auto")
    processor = load_processor(saved, reads_images(model))
    model.save_pretrained(root / MODEL_FOLDER)
    processor.save_pretrained(root / MODEL_FOLDER)
    write_artifact(root, make_contract(root, model, processor, task, origin=saved))


def find_problem(saved: Path, task: str) -> str:
    """Why transformers itself cannot run the model on a text or image alone; empty where it can."""
    try:
        plain = Plain(saved, HEADS[task].auto_class)
        if not (saved / "preprocessor_config.json").exists():
            encoded = plain.encode(*(PAIRS[0] if task in ("question-answering", "multiple-choice") else TEXTS[:1]))
            if task == "multiple-choice":
                encoded = {name: tensor.unsqueeze(1) for name, tensor in encoded.items()}
            (plain.half if plain.model.config.is_encoder_decoder else plain.call)(**encoded)
        else:
            size = json.loads((saved / "preprocessor_config.json").read_text())["size"]
            plain.call(pixel_values=torch.zeros(1, 3, size["height"], size["width"]))
    except Exception as error:  # a model may raise anything
        return f"transformers does not run it on its input alone: {describe_error(error)}"
    return ""


def choose_tokenizer(family: str) -> str:
    """The kind of tokenizer that fits the family."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    name = "Longformer" if family == "longformer" else TOKENIZER_MAPPING_NAMES.get(family) or ""
    for rule, kind in _TOKENIZERS:
        if re.search(rule, name):
            return kind
    if family in architectures("text2text-generation"):
        return "t5"
    return "albert" if family in architectures("fill-mask") else "llama"


def describe_error(error: BaseException) -> str:
    """The error's first line, and where it was raised."""
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    lines = [line for line in str(error).splitlines() if line.strip()]
    with suppress(IndexError):
        if type(error).__name__.startswith("StrictDataclass"):
            lines = lines[1:]
    return f"{type(error).__name__}: {lines[0].strip() if lines else ''}{place}"[:300]
