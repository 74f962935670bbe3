"""Tiny models, rows for them and what came of the rows: for the tests of token-by-token generation."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import numpy
import torch
import transformers

from serving.engine.generation.decoder import Decoder
from serving.engine.generation.scheduler import Scheduler
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.verification import KINDS
from serving.wire.messages import Failure, Row, SamplingSettings, TokenDelta
from tests.families import build

CAUSAL = ("gpt2", "llama", "mistral", "gptj")


SEQ2SEQ = ("t5", "mt5", "bart")


FOREVER = float("inf")


@cache
def load(family: str, auto_class: str = "", dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model with random weights."""
    auto_class = auto_class or ("AutoModelForSeq2SeqLM" if family in SEQ2SEQ else "AutoModelForCausalLM")
    folder = build(Path(mkdtemp()), family, auto_class)
    module = getattr(transformers, auto_class).from_pretrained(folder, dtype=dtype).eval()
    module.generation_config.pad_token_id = 0
    module.generation_config.max_length = None
    return module


class Encoder:
    """Reads each token as a letter, so that stop strings can be asked for."""

    special_ids: ClassVar[frozenset[int]] = frozenset()

    def read(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(chr(ord("a") + token % 26) for token in ids)


def make_scheduler(module: Any, kind: type[Decoder] | None = None, *, max_width: int = 0, **bounds: Any) -> Scheduler:
    kind = kind or KINDS[module.config.is_encoder_decoder][0]
    isolated = SequentialDecoder(module, 0) if module.dtype != torch.float32 else None
    given: Any = {"limit_tokens": 100_000, "max_rows": 8, "isolated": isolated, **bounds}
    decoder = kind(module, 0)
    decoder.max_width = max_width
    return Scheduler(decoder, Encoder(), **given)  # type: ignore[arg-type]  # reads like a TextEncoder


def row(number: int, prompt: list[int], *, streams: bool = False, deadline: float = FOREVER, **asked: Any) -> Row:
    settings = SamplingSettings(**{"max_new_tokens": 8, "do_sample": False, **asked})
    tokens = numpy.asarray(prompt, dtype=numpy.int32).tobytes()
    return Row(number, len(prompt), tokens, b"", "", deadline, settings.pack(), settings.max_new_tokens, streams)


def prompt_of(number: int, vocabulary: int = 40) -> list[int]:
    """A prompt of 1 to 40 tokens."""
    return [(number * 31 + 7 * place) % (vocabulary - 5) + 5 for place in range(1 + (number * 13) % 40)]


@dataclass
class Found:
    """What came of rows."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    parts: dict[int, list[TokenDelta]] = field(default_factory=dict)

    def take(self, replies: list[tuple[bytes, TokenDelta | Failure]]) -> None:
        for _, reply in replies:
            if isinstance(reply, Failure):
                self.failures |= dict.fromkeys(reply.ids, reply.reason)
                continue
            assert reply.id not in self.finishes, "nothing comes after the end"
            new = numpy.frombuffer(reply.tokens, dtype=numpy.int32).tolist()
            self.tokens.setdefault(reply.id, []).extend(new)
            self.parts.setdefault(reply.id, []).append(reply)
            assert reply.written == len(self.tokens[reply.id])
            if reply.finish:
                self.finishes[reply.id] = reply.finish


def finish(scheduler: Scheduler, found: Found | None = None) -> Found:
    found = found or Found()
    for _ in range(5000):
        if not scheduler:
            return found
        found.take(scheduler.step())
    raise AssertionError("the scheduler does not come to an end")


def alone(module: Any, prompt: list[int], **asked: Any) -> list[int]:
    """What `generate` writes."""
    ids = torch.tensor([prompt])
    made = module.generate(
        ids, attention_mask=torch.ones_like(ids), **{"max_new_tokens": 8, "do_sample": False, **asked}
    )
    return list(made[0, 1 if module.config.is_encoder_decoder else len(prompt) :].tolist())


DRAWN = (
    {"seed": 1, "temperature": 1.5},
    {"seed": 1, "temperature": 0.7, "top_k": 5},
    {"seed": 2, "top_p": 0.8, "top_k": 2000},
    {"seed": 3, "top_p": 0.9, "repetition_penalty": 1.3},
    {"seed": 4, "top_k": 1},
)


def draw(number: int) -> dict[str, Any]:
    return {"do_sample": True, **DRAWN[number % len(DRAWN)]}
