"""Folders of small random models as sentence-transformers 6.2 saves them, and rewritten as its older releases did."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
OLD_TYPE = "sentence_transformers.models."


def save(base: Path, folder: Path, *modules: Any, max_seq_length: int | None = None, **settings: Any) -> Path:
    """Save the transformers model in `base` with these modules after it. settings: of SentenceTransformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    made = SentenceTransformer(modules=[Transformer(str(base)), *modules], device="cpu", **settings)
    made.max_seq_length = max_seq_length or made.max_seq_length
    made.save_pretrained(str(folder), create_model_card=False)
    return folder


def make_old(folder: Path, pooling: Sequence[str] = ("mean_tokens",), transformer: Json | None = None) -> Path:
    """Rewrite a folder of release 6.2 as release 2 wrote it: other types, flags for the pooling, no modalities.

    pooling: the flags that are set. transformer: the content of sentence_bert_config.json.
    """
    edit(
        folder / "modules.json",
        lambda modules: [m | {"type": OLD_TYPE + m["type"].rpartition(".")[2]} for m in modules],
    )
    size = read(folder / "1_Pooling" / "config.json")["embedding_dimension"]
    kinds = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    flags = {f"pooling_mode_{kind}": kind in pooling for kind in (*kinds, *pooling)}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **flags})
    write(folder / "sentence_bert_config.json", transformer or {"max_seq_length": None, "do_lower_case": False})
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    kept = read(folder / "config_sentence_transformers.json")
    kept = {key: kept[key] for key in ("prompts", "default_prompt_name") if any(kept[key] or {"": ""})}
    write(folder / "config_sentence_transformers.json", {"__version__": versions, **kept})
    return folder


def encode(folder: Path, texts: Sequence[str], **parameters: Any) -> Any:
    """The vectors of the texts, each encoded alone by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return [model.encode([text], show_progress_bar=False, **parameters)[0] for text in texts]


def read(path: Path) -> Any:
    """The JSON in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, content: Any) -> None:
    """Write JSON to a file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit(path: Path, change: Any) -> None:
    """Replace the JSON in a file by what `change` makes of it, or add these keys to it."""
    content = read(path)
    write(path, {**content, **change} if isinstance(change, Mapping) else change(content))
