"""Loads the tokenizer or image processor that `save_pretrained` wrote to a folder, by transformers' own class.

`processors` describes a tokenizer for the contract, and `image_settings` an image processor.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.checkpoint_files import read_json
from registry.errors import IncompleteArtifact, UnsafeArtifact
from registry.refusals import refuse_failures

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
"""One of these files is in a folder that holds a tokenizer."""

NO_FAST_FORM = (
    "has no fast form (tokenizer.json), and servers read no other: choose a checkpoint whose tokenizer has one, as "
    "those of T5, mBART, NLLB, M2M100 and Marian for translation"
)
"""What to do about ByT5Tokenizer and others that transformers (5.23) has in Python only."""


def load_processor(folder: Path, of_images: bool) -> Any:
    """The tokenizer, or of a model that reads images the image processor, in a `save_pretrained` folder.

    Raises ArtifactError.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    noun, method = ("image processor", "image_processor") if of_images else ("tokenizer", "tokenizer")
    if not of_images and not any((folder / name).is_file() for name in VOCABULARIES):
        raise IncompleteArtifact(  # transformers (5.23) would make an empty tokenizer from config.json alone
            f"{folder} holds no tokenizer: save it there with tokenizer.save_pretrained; if that writes none of "
            f"{', '.join(VOCABULARIES[:4])}, as ByT5's, it {NO_FAST_FORM}"
        )
    remedy = f"save it there again with {method}.save_pretrained"
    vocabularies = [name for name in VOCABULARIES if (folder / name).is_file()]
    source = "preprocessor_config.json" if of_images else f"{', '.join(vocabularies)} and tokenizer_config.json"
    if of_images and not any((folder / name).is_file() for name in (source, "processor_config.json")):
        raise IncompleteArtifact(
            f"{folder} holds no image processor ({source}): save it there with {method}.save_pretrained"
        )
    with (
        refuse_failures(f"loading the {noun} from {source}", remedy),
        _refusing_remote_code(folder, noun),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")  # no tokenizing needs it (5.23)
        if of_images:
            return AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def _refusing_remote_code(folder: Path, noun: str) -> Iterator[None]:
    """Raise UnsafeArtifact, with file and key, where a file asks for code and transformers has no class of its own.

    Where it has one, transformers (5.23) takes that, as it is told to trust no code.
    """
    try:
        yield
    except ValueError as error:
        for name in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
            path = folder / name
            if "trust_remote_code" in str(error) and path.is_file() and read_json(path, dict[str, Any]).get("auto_map"):
                raise UnsafeArtifact(
                    f"{name} has auto_map, which asks for code from elsewhere; only classes of transformers are "
                    f"served: save the {noun} from one of those, without auto_map"
                ) from error
        raise
