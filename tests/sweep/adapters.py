"""A cell for adapters: a small model gets a LoRA adapter, which is merged, saved, loaded and compared with PEFT's own.

The adapter is on the modules that PEFT names for the family, else on all linear layers. What is merged is logged like
any other model, which `cell` looks at.
"""

import inspect
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from registry.adapter_files import TASK_TYPES, read_adapter
from registry.adapters import merge
from registry.errors import RegistryError
from registry.heads import HEADS, Head
from tests.adapters import beside, make_adapter
from tests.alike import assert_alike
from tests.plain_answers import PAIRS, TEXTS
from tests.sweep.cell import Cell, build, describe_error, find_problem

PAIRED = ("question-answering", "multiple-choice", "next-sentence-prediction")
HEADS_OF_PEFT = ["classifier", "pre_classifier", "score", "qa_outputs"]
"""Modules that PEFT trains as a whole for some tasks, and then refuses to count among all linear layers (0.21)."""
OF_MAMBA = ["out_proj", "conv1d"]
"""Modules of state space models that PEFT refuses to adapt (0.21)."""
INPUTS = 4
"""Texts or images that each model answers."""


@torch.inference_mode()
def try_adapter(family: str, task: str, root: Path) -> Cell:
    """Build, adapt, merge and compare, in the empty folder `root`. Blocks."""
    base, head = root / "base", HEADS[task]
    try:
        with torch.inference_mode(mode=False):
            build(base, family, task)
    except Exception as error:  # any class may be what no rule fits
        return Cell(family, task, "not built", describe_error(error))
    if problem := find_problem(base, task):
        return Cell(family, task, "not built", problem)
    try:
        with torch.inference_mode(mode=False):
            adapter = make_adapter(root / "adapter", base, head.auto_class, choose_config(family, head))
        expected = answers(beside(base, adapter, head.auto_class), base, task)
    except Exception as error:
        return Cell(family, task, "not built", f"PEFT: {describe_error(error)}")
    try:
        with torch.inference_mode(mode=False):
            model, processor, _ = merge(read_adapter(adapter), base, head)
            model.save_pretrained(root / "merged")
            processor.save_pretrained(root / "merged")
    except RegistryError as refusal:
        return Cell(family, task, "refused", str(refusal))
    except Exception as error:
        return Cell(family, task, "fault", describe_error(error))
    shutil.rmtree(base)
    try:
        merged = getattr(transformers, head.auto_class).from_pretrained(root / "merged", dtype=torch.float32).eval()
        for found, wanted in zip(answers(merged, root / "merged", task), expected, strict=True):
            assert_alike(found, wanted)
    except AssertionError as difference:
        return Cell(family, task, "differs", describe_error(difference))
    except Exception as error:
        return Cell(family, task, "fault", describe_error(error))
    return Cell(family, task, "equal")


def choose_config(family: str, head: Head) -> Any:
    """LoRA as most people train it for this head."""
    from peft import LoraConfig
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    names = {auto_class: task_type for task_type, auto_class in TASK_TYPES.items()}
    is_mamba = "mamba" in family or family == "falcon_h1"
    return LoraConfig(
        task_type=names.get(head.auto_class),
        r=4,
        lora_alpha=8,
        target_modules=KNOWN.get(family, "all-linear"),
        exclude_modules=[*(HEADS_OF_PEFT if head.needs_head else ()), *(OF_MAMBA if is_mamba else ())] or None,
    )


def answers(model: Any, folder: Path, task: str) -> list[torch.Tensor]:
    """The model's outputs, of one input after the other."""
    arguments = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    found = []
    for number in range(INPUTS):
        if (folder / "preprocessor_config.json").exists():
            size = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil").size
            pixels = torch.Generator().manual_seed(number)
            given = {"pixel_values": torch.randn(1, 3, size["height"], size["width"], generator=pixels)}
        else:
            texts = PAIRS[number] if task in PAIRED else TEXTS[number : number + 1]
            ids = transformers.AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")["input_ids"]
            given = {"input_ids": ids[None] if task == "multiple-choice" else ids}
            if "decoder_input_ids" in arguments:
                given["decoder_input_ids"] = ids
        torch.manual_seed(0)  # Reformer's attention draws at random
        output = model(**given)
        found += [value for value in output.values() if torch.is_tensor(value) and value.is_floating_point()]
    return found
