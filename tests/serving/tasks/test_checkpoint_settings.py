"""A checkpoint's own generation settings: without parameters the text is what `generate` writes for the checkpoint."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers

from registry.checks import load_model
from registry.errors import CheckpointWarning, ContractError, UnreadableArtifact
from registry.staging import make_contract
from serving.engine.generation.sampling import Sampler, choose
from serving.engine.predictor import Predictor
from serving.errors import EngineError, Unprocessable
from serving.tasks import get_task
from serving.tasks.base.generation_settings import APPLIED, EXECUTION, LENGTHS, find_unserved
from serving.wire.messages import Row, SamplingSettings
from tests.alike import assert_alike
from tests.families import build, texts_of
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.sweep]

TEXTS = texts_of(6, 11, 12)
SEQ2SEQ = ("bart", "t5")
END = 9
"""A token that comes often enough in the texts of random weights to end some of them."""


def save(folder: Path, family: str, settings: dict[str, Any], *, legacy: bool = False) -> Path:
    """A checkpoint with these generation settings. legacy: in its config.json, as before generation_config.json."""
    build(folder, family, "AutoModelForSeq2SeqLM" if family in SEQ2SEQ else "AutoModelForCausalLM")
    path = folder / ("config.json" if legacy else "generation_config.json")
    if legacy:
        (folder / "generation_config.json").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def artifact(root: Path, saved: Path, family: str, **given: Any) -> Path:
    """What logging writes, without a registry."""
    model, tokenizer = plain(saved, family)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    task = "text2text-generation" if family in SEQ2SEQ else "text-generation"
    make_contract(root, model, tokenizer, task, origin=saved, **given)
    return root


@lru_cache(maxsize=1)
def plain(saved: Path, family: str) -> tuple[Any, Any]:
    """The model and the tokenizer of transformers, kept until the next checkpoint's."""
    auto = transformers.AutoModelForSeq2SeqLM if family in SEQ2SEQ else transformers.AutoModelForCausalLM
    return auto.from_pretrained(saved).eval(), transformers.AutoTokenizer.from_pretrained(saved)


@torch.inference_mode()
def generate(saved: Path, family: str, text: str, **given: Any) -> str:
    """The text of transformers."""
    model, tokenizer = plain(saved, family)
    inputs = tokenizer(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    (made,) = model.generate(**inputs, tokenizer=tokenizer, **given)
    start = 0 if family in SEQ2SEQ else inputs["input_ids"].shape[1]
    return str(tokenizer.decode(made[start:], skip_special_tokens=True))


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "max_new_tokens": {"max_new_tokens": 5},
    "max_length": {"max_length": 64},
    "both": {"max_length": 40, "max_new_tokens": 7},
    "min_length": {"max_length": 60, "min_length": 30, "eos_token_id": [END, 11, 12, 13, 14]},
    "min_new_tokens": {"max_new_tokens": 30, "min_new_tokens": 9, "min_length": 50, "eos_token_id": [*range(6, 80)]},
    "beams": {"max_length": 64, "num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "beams without a bound": {"max_new_tokens": 9, "num_beams": 2, "early_stopping": "never", "eos_token_id": END},
    "repetition": {"max_new_tokens": 12, "repetition_penalty": 1.6, "no_repeat_ngram_size": 2},
    "forced": {"max_length": 50, "forced_bos_token_id": 8, "forced_eos_token_id": END},
    "suppressed": {
        "max_new_tokens": 12,
        "suppress_tokens": [7, 8],
        "begin_suppress_tokens": [10],
        "bad_words_ids": [[9]],
    },
    "guided": {"max_new_tokens": 8, "guidance_scale": 1.5},
    "biased": {
        "max_new_tokens": 20,
        "sequence_bias": [[[10], 2.0], [[11, 12], -5.0]],
        "exponential_decay_length_penalty": [5, 1.1],
        "encoder_repetition_penalty": 1.3,
        "encoder_no_repeat_ngram_size": 2,
        "eos_token_id": [END, 11],
    },
    "unused sampling": {"max_new_tokens": 6, "temperature": 0.6, "top_p": 0.9},
    "how it runs": {"max_new_tokens": 6, "use_cache": False, "num_assistant_tokens": 5, "output_scores": True},
}


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
@pytest.mark.parametrize(
    ("family", "name"),
    [
        *((family, name) for family in ("gpt2", "bart") for name in SETTINGS),
        *((family, name) for family in ("llama", "t5") for name in ("nothing", "max_length", "beams")),
    ],
)
def test_without_parameters_a_text_is_what_generate_writes(tmp_path: Path, family: str, name: str) -> None:
    saved = save(tmp_path / "saved", family, SETTINGS[name])
    predictor = Predictor(artifact(tmp_path / "root", saved, family))
    assert [answer[0]["generated_text"] for answer in predictor.answer(TEXTS)] == [
        generate(saved, family, text) for text in TEXTS
    ]


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_settings_of_a_legacy_config_are_the_checkpoints_too(tmp_path: Path, family: str) -> None:
    saved = save(tmp_path / "saved", family, {"max_length": 45, "num_beams": 2, "no_repeat_ngram_size": 3}, legacy=True)
    predictor = Predictor(artifact(tmp_path / "root", saved, family))
    expected = generate(saved, family, TEXTS[0])
    assert predictor.answer(TEXTS[0])[0]["generated_text"] == expected


@pytest.mark.parametrize("family", ["gpt2", "llama", "bart"])
@pytest.mark.parametrize("beams", [1, 2])
def test_a_checkpoints_stop_strings_end_a_text_and_are_part_of_it(tmp_path: Path, family: str, beams: int) -> None:
    text = generate(save(tmp_path / "free", family, {"max_new_tokens": 30, "num_beams": beams}), family, TEXTS[0])
    stop = text[len(text) // 2 :][:3]
    settings = {"max_new_tokens": 30, "num_beams": beams, "stop_strings": [stop, "no text has this"]}
    saved = save(tmp_path / "saved", family, settings)
    predictor = Predictor(artifact(tmp_path / "root", saved, family))
    found = [answer[0]["generated_text"] for answer in predictor.answer(TEXTS)]
    assert found == [generate(saved, family, each) for each in TEXTS]
    if beams == 1:  # a search may take another way
        assert stop in found[0]
        assert len(found[0]) < len(text)
    (own,) = predictor.answer(TEXTS[0], {"stop": ["no text has this either"]})
    assert own["generated_text"] == text, "a request's own stop strings replace them"


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_several_texts_of_a_checkpoint_that_searches_are_the_best_ones(tmp_path: Path, family: str) -> None:
    saved = save(tmp_path / "saved", family, {"max_new_tokens": 5, "num_beams": 3})
    predictor = Predictor(artifact(tmp_path / "root", saved, family))
    model, tokenizer = plain(saved, family)
    inputs = tokenizer(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
    made = model.generate(**inputs, num_return_sequences=3)
    start = 0 if family in SEQ2SEQ else inputs["input_ids"].shape[1]
    answers = predictor.answer(TEXTS[0], {"n": 3, "details": True})
    assert [answer["generated_text"] for answer in answers] == [
        tokenizer.decode(text[start:], skip_special_tokens=True) for text in made
    ]
    assert all(token["logprob"] < 0 for answer in answers for token in answer["details"]["tokens"])
    with pytest.raises(Unprocessable, match="num_return_sequences is above num_beams, which is 3"):
        predictor.answer(TEXTS[0], {"n": 4})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_time": 2.0}, "max_time is 2.0"),
        ({"num_beams": 2, "num_return_sequences": 2}, "num_return_sequences is 2"),
        ({"num_beams": 17}, "num_beams is 17"),
        ({"max_length": 0}, r"max_length is 0, .* generation_config\.json"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha is 0.6"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, "diversity_penalty is 1.0"),
        ({"remove_invalid_values": True}, "remove_invalid_values is True"),
        ({"cache_implementation": "quantized"}, "cache_implementation is quantized"),
    ],
)
def test_settings_that_are_not_served_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"do_sample": False, "num_assistant_tokens": 3, **settings}))
    with pytest.raises(ContractError, match=named):
        get_task("text-generation").defaults(tmp_path, {})


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text("{")
    with pytest.raises(ContractError, match=r"generation_config\.json states no valid"):
        get_task("summarization").defaults(tmp_path, {})
    path.write_text('{"max_length": "long"}')
    with pytest.raises(ContractError, match="max_length"):
        get_task("summarization").defaults(tmp_path, {})


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens.*must be greater than 0"),
        ({"decoder_start_token_id": [1]}, "decoder_start_token_id"),
    ],
)
def test_a_value_that_generate_does_not_take_is_refused_by_file_and_key(
    tmp_path: Path, setting: dict[str, Any], named: str
) -> None:
    saved = save(tmp_path / "saved", "bart", setting)
    with pytest.raises(UnreadableArtifact, match=rf"generation_config\.json.*{named}"):
        load_model(saved, "summarization", dtype="auto")


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": -0.5}])
def test_what_nothing_can_be_drawn_with_is_refused_where_it_would_be(tmp_path: Path, setting: dict[str, Any]) -> None:
    """As `generate` refuses it. Greedy texts do not read it."""
    (name,) = setting
    saved = save(tmp_path / "saved", "gpt2", {"max_new_tokens": 4, "do_sample": True, **setting})
    with pytest.raises(EngineError, match=f"sampling cannot be set up .*{name}.*generation_config"):
        artifact(tmp_path / "refused", saved, "gpt2")
    plain.cache_clear()
    path = saved / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": False}))
    predictor = Predictor(artifact(tmp_path / "root", saved, "gpt2"))
    assert predictor.answer(TEXTS[0])[0]["generated_text"] == generate(saved, "gpt2", TEXTS[0])
    with pytest.raises(Unprocessable, match=rf"parameters\.{name} is missing"):
        predictor.answer(TEXTS[0], {"do_sample": True})
    assert predictor.answer(TEXTS[0], {"do_sample": True, name: 1})[0]["generated_text"]


def test_a_text_begins_with_the_token_that_generate_begins_with(tmp_path: Path) -> None:
    """Where generation_config.json has no decoder_start_token_id, config.json's is not read."""
    saved = save(tmp_path / "saved", "bart", {"max_new_tokens": 6})
    path = saved / "generation_config.json"
    settings = json.loads(path.read_text())
    assert settings.pop("decoder_start_token_id") != settings["bos_token_id"]
    path.write_text(json.dumps(settings))
    predictor = Predictor(artifact(tmp_path / "root", saved, "bart"))
    assert predictor.answer(TEXTS[0])[0]["generated_text"] == generate(saved, "bart", TEXTS[0])


def test_every_setting_of_the_installed_transformers_is_applied_or_refused() -> None:
    settings = {name: "a value" for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    refused = {name for name in settings if find_unserved({name: settings[name]}) is not None}
    assert not refused & (APPLIED - {"num_beams"})
    assert settings.keys() - refused - APPLIED - EXECUTION == LENGTHS


def test_a_prompt_that_fills_max_length_is_refused_as_generate_refuses_it(tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", "gpt2", {"max_length": 20})
    predictor = Predictor(artifact(tmp_path / "root", saved, "gpt2"))
    text = " ".join(TEXTS)
    with pytest.raises(ValueError, match="max_length"):
        generate(saved, "gpt2", text)
    with pytest.raises(Unprocessable, match="max_length is 20, new tokens included"):
        predictor.answer(text)
    assert predictor.answer(text, {"truncate": True})[0]["generated_text"]
    assert predictor.answer(text, {"max_new_tokens": 3})[0]["generated_text"] == generate(
        saved, "gpt2", text, max_new_tokens=3
    )


@pytest.mark.parametrize("given", [{"max_new_tokens": 6}, {"max_length": 33}])
def test_a_default_given_at_logging_comes_before_the_checkpoints(tmp_path: Path, given: dict[str, int]) -> None:
    saved = save(tmp_path / "saved", "gpt2", {"max_length": 25})
    predictor = Predictor(artifact(tmp_path / "root", saved, "gpt2", defaults=given))
    expected = generate(saved, "gpt2", TEXTS[0], **given)
    assert predictor.answer(TEXTS[0])[0]["generated_text"] == expected


def test_rows_in_batches_keep_to_the_checkpoints_settings(tmp_path: Path) -> None:
    settings = {"max_length": 48, "no_repeat_ngram_size": 2, "stop_strings": ["he"]}
    saved = save(tmp_path / "saved", "gpt2", settings)
    run = tmp_path / "run"
    run.mkdir()
    local = Local(artifact(tmp_path / "root", saved, "gpt2"), run)
    found = local.answers([{"inputs": text} for text in TEXTS])
    assert [answer[0]["generated_text"] for answer in found] == [generate(saved, "gpt2", text) for text in TEXTS]


def test_a_tokenizer_without_a_padding_token_is_padded_with_the_end_token(tmp_path: Path) -> None:
    """As `generate` does: GPT-2's and Llama's have none. Texts with the end token in them are no different."""
    saved = save(tmp_path / "saved", "gpt2", {"max_new_tokens": 6, "pad_token_id": None})
    config = saved / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token": None}))
    run = tmp_path / "run"
    run.mkdir()
    local = Local(artifact(tmp_path / "root", saved, "gpt2"), run)
    end = transformers.AutoTokenizer.from_pretrained(saved).eos_token
    texts = [*TEXTS, f"{TEXTS[0]}{end}", f"{end}{TEXTS[1]}"]
    found = local.answers([{"inputs": text} for text in texts])
    assert [answer[0]["generated_text"] for answer in found] == [generate(saved, "gpt2", text) for text in texts]


@pytest.mark.parametrize("rule", [{"min_p": 0.2}, {"typical_p": 0.6}, {"eta_cutoff": 0.02}, {"top_h": 0.5}])
def test_draws_follow_the_probabilities_that_generate_draws_from(tmp_path: Path, rule: dict[str, float]) -> None:
    """With a temperature the order of the rules matters. A draw takes the token where a uniform number falls."""
    settings = {"do_sample": True, "temperature": 2.5, "top_k": 12, "max_new_tokens": 4, **rule}
    saved = save(tmp_path / "saved", "gpt2", settings)
    module = transformers.AutoModelForCausalLM.from_pretrained(saved).eval()
    ids = torch.tensor([[5, 6, 7]])
    made = module.generate(ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, output_scores=True)
    probable = made.scores[0].softmax(-1)
    sampler = Sampler(
        module, SamplingSettings(4), Row(0, 3, numpy.asarray([5, 6, 7], numpy.int32).tobytes(), b"", "", 0)
    )
    assert_alike(sampler.process([5, 6, 7], module(ids).logits[:, -1]).softmax(-1), probable)
    drawn = {choose(module(ids).logits[:, -1], [sampler], [[5, 6, 7]])[0].token for _ in range(200)}
    assert drawn <= set(probable[0].nonzero()[:, 0].tolist())


def test_of_task_specific_params_the_prefix_is_used_and_the_rest_is_named(tmp_path: Path) -> None:
    params = {"summarization": {"prefix": "summarize: ", "num_beams": 4, "max_length": 200}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "task_specific_params": params}))
    with pytest.warns(UserWarning, match=r"task_specific_params\.summarization .* sets num_beams, max_length"):
        found = get_task("summarization").defaults(tmp_path, {})
    assert (found["prefix"], found["max_length"], found["max_new_tokens"]) == ("summarize: ", None, 20)


def test_those_of_a_decoder_are_named_too(tmp_path: Path) -> None:
    """As GPT-2's configuration has them."""
    params = {"text-generation": {"do_sample": True, "max_length": 50}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "task_specific_params": params}))
    with pytest.warns(CheckpointWarning, match=r"task_specific_params\.text-generation .* sets do_sample, max_length"):
        assert get_task("text-generation").defaults(tmp_path, {})["max_new_tokens"] == 20


@pytest.mark.parametrize("setting", ["max_length", "max_new_tokens"])
def test_a_length_that_requests_get_only_in_part_is_told(tmp_path: Path, setting: str) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({setting: 4096}))
    task = get_task("text-generation")
    with pytest.warns(CheckpointWarning, match=rf"{setting} is 4,096, .* at most 2,048 .*limit_new_tokens=4096"):
        assert task.defaults(tmp_path, {})[setting] == 4096
    assert task.defaults(tmp_path, {"limit_new_tokens": "4096"})["limit_new_tokens"] == 4096
