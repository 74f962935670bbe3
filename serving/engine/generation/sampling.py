"""The logits of many rows → each row's next token, by the row's own settings and random numbers.

A row's draw depends on its logits, its settings and its seed, never on the other rows of the batch. Each row has a
stream of uniform numbers of its own; its token is where the number falls in the cumulative probabilities.
"""

import logging
import random
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, assert_never, get_args

import numpy
import torch

from serving.errors import NOT_FINITE
from serving.tasks.base.answers import best_scores
from serving.wire.messages import Row, SamplingSettings

if TYPE_CHECKING:
    from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

logger = logging.getLogger("headwaiter.engine")

Way = Literal["best", "sorted", "all"]
"""The candidates that a token is drawn from: the best few, all tokens sorted by score, or all tokens as they are."""

MAX_STATED_TOP_K = 2**31 - 1
"""The largest `top_k`: a checkpoint's own is lowered to it. No vocabulary has as many tokens, and a tensor of torch
holds no number beyond 64 bits."""
MIN_TEMPERATURE = 1e-5
"""A lower one that a request gives is this one, which takes the likeliest token as surely. Scores that are divided by
far less are no numbers any more."""
MIN_PENALTY = 1e-3
"""A lower `repetition_penalty` is this one, which repeats as surely. Scores are divided by it, also in float16."""
MAX_TOP_K = 1024
"""Up to this `top_k` the best tokens are found without sorting all. Untuned."""
RULE_FAILED = "a sampling rule failed on this text"
DEFAULTS: dict[str, bool | int | float] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "num_beams": 1,
}
"""The values of transformers' `generate` (5.23) where neither request nor checkpoint has one."""


class UnfitSettings(Exception):
    """A request's settings do not go with the checkpoint's."""


@dataclass(frozen=True)
class NextToken:
    """A row's next token. logprob, top: its score and the best (id, score), where the request asks for them.

    problem: why the row has no next token; "" where it has one.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    problem: str = ""


class Sampler:
    """How one row's tokens are chosen. Its settings come before the checkpoint's `generation_config`.

    is_drawn: whether tokens are drawn; else the likeliest is taken. beams: of a search, 1 for none. rank: which of its
    texts, from 0, best first. given: arguments of `generate` by which it chooses alike.
    """

    def __init__(self, module: "PreTrainedModel", settings: SamplingSettings, row: Row) -> None:
        config = module.generation_config

        def settled(name: str) -> bool | int | float:
            given = getattr(settings, name)
            given = getattr(config, name, None) if given is None else given
            value: bool | int | float = DEFAULTS[name] if given is None else given
            return value

        self.is_drawn = bool(settled("do_sample"))
        temperature = float(settled("temperature"))
        self.temperature = max(MIN_TEMPERATURE, temperature) if temperature > 0 else temperature
        self.top_k = min(int(settled("top_k")), MAX_STATED_TOP_K)
        self.top_p = float(settled("top_p"))
        self.beams = int(settled("num_beams"))
        self.rank = 0 if self.is_drawn else settings.rank
        self._check()
        self.top = settings.top
        self._random = random.Random(settings.seed) if self.is_drawn else None  # noqa: S311  # no secret depends on it
        penalty = float(settled("repetition_penalty"))
        penalty = max(MIN_PENALTY, penalty) if penalty > 0 else penalty
        self.given: dict[str, bool | int | float] = {"do_sample": self.is_drawn, "repetition_penalty": penalty}
        if self.is_drawn:
            self.given |= {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        warped: tuple[float | None, int | None, float | None] = (None, None, None)
        if self.is_drawn and any(getattr(config, name, None) not in PLAIN_RULES[name] for name in AFTER_TEMPERATURE):
            warped = (self.temperature, self.top_k, self.top_p)
            self.temperature, self.top_k, self.top_p = 1.0, 0, 1.0  # the processors apply them, in `generate`'s order
        self._processors = _processors(module, settings, penalty, row, do_sample=self.is_drawn, warped=warped)

    def _check(self) -> None:
        """Raise UnfitSettings for what `generate` refuses, too, in the words of a request's parameters."""
        if 1 < self.beams <= self.rank:
            raise UnfitSettings(
                f"parameters.num_return_sequences is above num_beams, which is {self.beams}: a search has no more "
                "texts than beams; ask for fewer, or let do_sample be true"
            )
        drawn = {"temperature": self.temperature > 0, "top_k": self.top_k >= 0, "top_p": 0 <= self.top_p <= 1}
        for name, is_fit in drawn.items() if self.is_drawn else ():
            if not is_fit:
                raise UnfitSettings(
                    f"parameters.{name} is missing, and nothing can be drawn with {getattr(self, name)}, which "
                    "generation_config.json has: pass one, or correct it there"
                )

    @property
    def way(self) -> Way:
        """How the token is drawn; rows that are drawn alike are drawn together."""
        if 0 < self.top_k <= MAX_TOP_K:
            return "best"
        return "sorted" if self.top_k or self.top_p < 1 else "all"

    @property
    def is_plain(self) -> bool:
        """Whether the row has no logits processors."""
        return not self._processors

    def process(self, ids: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
        """Apply penalties and rules to (1, vocabulary) scores. ids: all tokens before, without padding."""
        changed: torch.Tensor = self._processors(torch.tensor([ids], device=scores.device), scores)
        return changed

    def uniform(self) -> float:
        """The next random number of a row whose tokens are drawn, in [0, 1)."""
        assert self._random is not None
        return self._random.random()


def choose(logits: torch.Tensor, samplers: Sequence[Sampler], ids: Sequence[Sequence[int]]) -> list[NextToken]:
    """Each row's next token. logits: (rows, vocabulary) of any dtype. ids: see `Sampler.process`.

    A row has a problem instead of a token where its logits are not finite or one of its rules raises.
    """
    logits = logits.float()
    is_finite = logits.amax(-1).isfinite()  # a masked token may be minus infinity
    scores, problems = _apply_rules(logits, samplers, ids)
    has_best = scores.amax(-1).isfinite().tolist()  # else rules left no token that could be drawn
    tokens = scores.argmax(-1)
    for way in get_args(Way):
        drawn = [index for index, sampler in enumerate(samplers) if sampler.is_drawn and sampler.way == way]
        if drawn:
            tokens[drawn] = _draw(scores[drawn], [samplers[index] for index in drawn], way)
    told = _tell(logits, samplers, tokens)
    found, finite = tokens.tolist(), is_finite.tolist()
    problems |= {index: RULE_FAILED for index in range(len(found)) if samplers[index].is_drawn and not has_best[index]}
    problems |= {index: NOT_FINITE for index in range(len(found)) if not finite[index]}
    return [
        NextToken(found[index], problem=problems[index])
        if index in problems
        else told.get(index) or NextToken(found[index])
        for index in range(len(found))
    ]


def _apply_rules(
    logits: torch.Tensor, samplers: Sequence[Sampler], ids: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, dict[int, str]]:
    """Apply each row's penalties and rules; the scores, and the problem of each row whose rules raise."""
    problems: dict[int, str] = {}
    if all(sampler.is_plain for sampler in samplers):
        return logits, problems
    parts = [logits[row : row + 1] for row in range(len(samplers))]
    for index, (sampler, before) in enumerate(zip(samplers, ids, strict=True)):
        if sampler.is_plain:
            continue
        try:
            parts[index] = sampler.process(before, parts[index])
        except Exception as error:  # a rule is transformers' code and may raise anything; it must cost its row only
            logger.error("a sampling rule failed on a row: %s", type(error).__name__)
            problems[index] = RULE_FAILED
    return torch.cat(parts), problems


def _draw(scores: torch.Tensor, samplers: Sequence[Sampler], way: Way) -> torch.Tensor:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=scores.device)[:, None]

    ids: torch.Tensor | None
    match way:  # equal scores have an order of their own, on which the rows that share the batch have no effect
        case "best":
            scores, ids = best_scores(scores, max(sampler.top_k for sampler in samplers))
        case "sorted":
            scores, ids = scores.sort(dim=-1, descending=True, stable=True)
        case "all":
            ids = None
        case other:
            assert_never(other)
    # in double precision, so that a sum over a large vocabulary does not depend on how it is computed; from the best
    # score on, which no temperature then makes infinite
    scores = scores.double()
    scores = (scores - scores.amax(-1, keepdim=True)) / column([sampler.temperature for sampler in samplers])
    if ids is not None:
        rank = torch.arange(scores.shape[-1], device=scores.device)
        most = column([sampler.top_k or scores.shape[-1] for sampler in samplers])
        scores = scores.masked_fill(rank >= most, -torch.inf)
        probabilities = scores.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        share = column([sampler.top_p for sampler in samplers])
        probabilities = probabilities.masked_fill((before >= share) & (rank > 0), 0.0)
    else:
        probabilities = scores.softmax(-1)
    sums = probabilities.cumsum(-1)
    wanted = column([sampler.uniform() for sampler in samplers]) * sums[:, -1:]
    indices = torch.searchsorted(sums, wanted, right=True).clamp(max=scores.shape[-1] - 1)
    return (indices if ids is None else ids.gather(-1, indices))[:, 0]


def score(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> list[NextToken]:
    """Each token with its score and the `top` best: the model's own, before the settings change them.

    logits: (tokens, vocabulary) of any dtype, those that each token was chosen from. tokens: (tokens,) int64.
    """
    scores = logits.float().log_softmax(-1)
    taken = scores.gather(1, tokens[:, None])[:, 0].tolist()
    best, indices = best_scores(scores, max(1, top))
    rows = zip(tokens.tolist(), taken, indices[:, :top].tolist(), best[:, :top].tolist(), strict=True)
    return [NextToken(token, own, tuple(zip(ids, values, strict=True))) for token, own, ids, values in rows]


def _tell(logits: torch.Tensor, samplers: Sequence[Sampler], tokens: torch.Tensor) -> dict[int, NextToken]:
    """The choices of rows that ask for scores."""
    asked = {index: sampler.top for index, sampler in enumerate(samplers) if sampler.top is not None}
    if not asked:
        return {}
    wanting = list(asked)
    found = score(logits[wanting], tokens[wanting], max(asked.values()))
    return {
        index: replace(choice, top=choice.top[: asked[index]]) for index, choice in zip(wanting, found, strict=True)
    }


def _processors(
    module: "PreTrainedModel",
    settings: SamplingSettings,
    penalty: float,
    row: Row,
    *,
    do_sample: bool,
    warped: tuple[float | None, int | None, float | None],
) -> "LogitsProcessorList":
    """The logits processors of transformers for the repetition penalty and the checkpoint's generation_config.

    warped: temperature, top_k and top_p that the processors apply, None where they do not.
    """
    from transformers import LogitsProcessorList

    config = module.generation_config
    if settings.min_new_tokens is not None:  # comes before both of the checkpoint's
        config = copy(config)
        config.min_length, config.min_new_tokens = 0, settings.min_new_tokens
    if penalty == 1.0 and settings.forced_bos_token_id is None and not _asks_for_rules(config):
        return LogitsProcessorList()
    config = copy(config)
    config.repetition_penalty, config.num_beams, config.do_sample = penalty, 1, do_sample
    config.use_cache = True  # of the passes without a prompt that guidance_scale takes; unset, they read it twice
    if settings.forced_bos_token_id is not None:
        config.forced_bos_token_id = settings.forced_bos_token_id
    config.temperature, config.top_k, config.top_p = warped
    length = 1 if module.config.is_encoder_decoder else row.length
    prompt = torch.from_numpy(numpy.frombuffer(row.tokens, dtype=numpy.int32).astype(numpy.int64))[None]
    prompt = prompt.to(module.device)
    config.max_length = length + settings.max_new_tokens
    if config.min_new_tokens is not None:
        config.min_length = None  # overridden, as `generate` does
    module._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=prompt.device)
    return module._get_logits_processor(
        config, input_ids_seq_length=length, encoder_input_ids=prompt, device=prompt.device, model_kwargs={}
    )


PLAIN_RULES: dict[str, tuple[float | None, ...]] = {
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "guidance_scale": (None, 1, 1.0),
    **dict.fromkeys(
        (
            *("min_p", "top_h", "bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id"),
            *("suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty", "watermarking_config"),
        ),
        (None,),
    ),
}
"""Rules of a generation_config, and the values that switch each off."""
AFTER_TEMPERATURE = ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "watermarking_config")
"""Rules that `generate` applies to the probabilities that temperature, top_k and top_p leave."""


def _asks_for_rules(config: "GenerationConfig") -> bool:
    return any(getattr(config, name, None) not in values for name, values in PLAIN_RULES.items())
