"""A row through transformers' own `generate`, from start to end: the way of everything that no other way takes."""

import time
from typing import Any

import numpy
import torch

from serving.detokenizer import TextReader
from serving.generation import Settings
from serving.messages import Part, Row


def write(module: Any, row: Row, encoder: Any) -> Part:
    """The text of a row. Blocks."""
    began = time.perf_counter()
    settings = Settings.unpack(row.extra)
    arguments = {
        name: value
        for name in (*("do_sample", "temperature", "top_k", "top_p", "repetition_penalty"), *SEARCH)
        if (value := getattr(settings, name)) is not None
    }
    if settings.seed is not None:
        torch.manual_seed(settings.seed)
    ids = torch.from_numpy(numpy.frombuffer(row.tokens, dtype=numpy.int32).astype(numpy.int64))[None]
    made = module.generate(
        input_ids=ids.to(module.device),
        attention_mask=torch.ones_like(ids),
        max_new_tokens=settings.max_new_tokens,
        return_dict_in_generate=True,
        output_logits=settings.top is not None,
        **arguments,
    )
    new = made.sequences[0, 1 if module.config.is_encoder_decoder else ids.shape[1] :].tolist()
    finish = "length"
    reader = TextReader(encoder, settings.stop)
    ends = module.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    for index, token in enumerate(new):
        reader.push([token])
        if reader.has_stopped or token in ends:
            new, finish = new[: index + 1], "stop_sequence" if reader.has_stopped else "eos_token"
            break
    scores = torch.zeros(0, 1)
    top = torch.zeros(0, 0).topk(0)
    if settings.top is not None:
        scores = torch.cat(list(made.logits))[: len(new)].float().log_softmax(-1)
        top = scores.topk(settings.top)
        scores = scores.gather(1, torch.tensor(new)[:, None])
    return Part(
        row.id,
        numpy.asarray(new, dtype=numpy.int32).tobytes(),
        finish,
        len(new),
        scores.numpy().tobytes(),
        top.indices.to(torch.int32).numpy().tobytes(),
        top.values.numpy().tobytes(),
        time.perf_counter() - began,
    )


SEARCH = ("num_beams", "length_penalty", "early_stopping")
