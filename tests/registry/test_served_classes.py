"""What is listed as served is what logging accepts, and what logging refuses for its class is not listed."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from click.testing import CliRunner

from registry.errors import UnsupportedHead
from registry.flavor import log_model
from registry.heads import HEADS, architectures, get_head, model_class
from registry.served_classes import FactsFile, check_class, find_refusal, find_served, read_facts
from registry.settings import RegistrySettings
from serving.commands.main import main
from serving.tasks import get_task
from tests.families import MAX_TOKENS, make_tokenizer

pytestmark = pytest.mark.slow


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
REFUSED = [
    # task, architecture, in the words of the refusal
    ("text-generation", "xlnet", "no key-value cache"),
    ("text-generation", "recurrent_gemma", "no key-value cache"),
    ("text-generation", "whisper", "reads audio"),
    ("text2text-generation", "voxtral", "reads audio"),
    ("feature-extraction", "wav2vec2", "reads audio"),
    ("feature-extraction", "vjepa2", "reads video"),
    ("feature-extraction", "videomae", "reads video"),
    ("feature-extraction", "patchtst", "reads time series"),
    ("feature-extraction", "clip", "no hidden states"),
    ("feature-extraction", "blip-2", "reads images together with text"),
    ("image-classification", "imagegpt", "not as pixel_values"),
    ("fill-mask", "perceiver", "reads inputs"),
    ("feature-extraction", "siglip2_vision_model", "needs pixel_attention_mask and spatial_shapes"),
    ("token-classification", "bros", "place of each token"),
    ("text-classification", "canine", "reads characters"),
]
SERVED = [
    *((task, "bert") for task in ("feature-extraction", "text-generation", "multiple-choice", "question-answering")),
    *((task, "t5") for task in ("feature-extraction", "text2text-generation", "translation")),
    *((task, "vit") for task in ("feature-extraction", "image-classification")),
    ("text-generation", "llama"),
    ("text-generation", "roformer"),
    ("text-generation", "jamba"),
    *(("text-generation", family) for family in ("mamba", "mamba2", "falcon_mamba", "rwkv", "openai-gpt", "reformer")),
    ("image-classification", "resnet"),
]


def save_writer(folder: Path, family: str, **settings: Any) -> Path:
    """A small model that writes text, with a tokenizer that it could do with."""
    tokenizer = make_tokenizer("gpt2")
    config = transformers.AutoConfig.for_model(
        family, **TINY, vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS, pad_token_id=0, **settings
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("task", "family", "why"), REFUSED)
def test_classes_that_cannot_be_served_are_refused_with_the_reason(task: str, family: str, why: str) -> None:
    name = model_class(task, family)
    assert why in (find_refusal(task, read_facts(name)) or "")
    with pytest.raises(UnsupportedHead, match=f"{name} .*{why}"):
        check_class(task, name, {"model_type": family})


@pytest.mark.parametrize(("task", "family"), SERVED)
def test_classes_that_can_be_served_are_not_refused(task: str, family: str) -> None:
    assert find_refusal(task, read_facts(model_class(task, family))) is None


def test_what_a_head_says_of_its_task_is_what_the_task_does() -> None:
    for head in HEADS.values():
        assert head.generates == get_task(head.task).generates, head.task


def test_a_listing_holds_each_architecture_once() -> None:
    served, refused = find_served("fill-mask", read_facts)
    assert not served.keys() & refused.keys()
    assert served.keys() | refused.keys() == architectures("fill-mask").keys()


def test_logging_refuses_what_is_not_listed(tmp_path: Path, settings: RegistrySettings) -> None:
    folder = save_writer(tmp_path / "gemma", "recurrent_gemma", lru_width=32, head_dim=16)
    with pytest.raises(UnsupportedHead, match="RecurrentGemmaForCausalLM has no key-value cache"):
        log_model(folder, task="text-generation", name="m", settings=settings)
    audio = transformers.Wav2Vec2Config(**TINY, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    with pytest.raises(UnsupportedHead, match="Wav2Vec2Model reads audio"):
        log_model(
            transformers.Wav2Vec2Model(audio),
            make_tokenizer("gpt2"),
            task="feature-extraction",
            name="m",
            settings=settings,
        )


def test_a_model_without_token_embeddings_is_told_so(settings: RegistrySettings) -> None:
    model = transformers.CanineModel(transformers.CanineConfig(**TINY, num_hash_buckets=64))
    with pytest.raises(UnsupportedHead, match="CanineModel .*has no table of token embeddings"):
        log_model(model, make_tokenizer("gpt2"), task="feature-extraction", name="m", settings=settings)


def test_roformer_is_served_as_a_decoder_and_else_told_so(tmp_path: Path, settings: RegistrySettings) -> None:
    with pytest.raises(UnsupportedHead, match="set is_decoder to true"):
        log_model(save_writer(tmp_path / "a", "roformer"), task="text-generation", name="m", settings=settings)
    decoder = save_writer(tmp_path / "b", "roformer", is_decoder=True)
    assert log_model(decoder, task="text-generation", name="m", settings=settings).version == "1"


def test_facts_are_read_once_and_those_of_another_form_again(tmp_path: Path) -> None:
    asked: list[str] = []
    first = FactsFile(tmp_path / "new", asked.append)
    found = first.facts_of("BertModel")
    first.save()
    assert FactsFile(tmp_path / "new", asked.append).facts_of("BertModel") == found
    assert asked == ["BertModel"]
    first.path.write_text('{"BertModel": {"main_input": "input_ids"}}')
    assert FactsFile(tmp_path / "new").facts_of("BertModel") == found
    assert FactsFile(tmp_path / "new").facts_of("NoSuchModel").problem


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("home")
def test_a_task_lists_what_is_served_and_why_the_rest_is_not() -> None:
    shown = CliRunner().invoke(main, ["heads", "--task", "fill-mask"])
    assert shown.exit_code == 0
    served, refused = shown.stdout.split("\n\nnot served, reads inputs:\n")
    assert " modernbert," in served
    assert refused.strip() == "perceiver"
    found = json.loads(CliRunner().invoke(main, ["heads", "--task", "fill-mask", "--json"]).stdout)
    assert found["served"]["bert"] == "BertForMaskedLM"
    assert found["refused"] == {"perceiver": "reads inputs"}
    assert CliRunner().invoke(main, ["heads", "--task", "dancing"]).exit_code == 1


@pytest.mark.usefixtures("home")
def test_a_family_lists_its_heads_and_those_that_it_lacks() -> None:
    shown = CliRunner().invoke(main, ["heads", "--family", "bert"]).stdout.splitlines()
    assert "fill-mask                 BertForMaskedLM                served" in shown
    assert shown[-1].startswith("bert has no head for: text2text-generation")
    found = json.loads(CliRunner().invoke(main, ["heads", "--family", "recurrent_gemma", "--json"]).stdout)
    assert [(row["task"], row["is_served"]) for row in found] == [
        ("feature-extraction", True),
        ("text-generation", False),
    ]
    unknown = CliRunner().invoke(main, ["heads", "--family", "Bret"])
    assert unknown.exit_code == 1
    assert "bert" in unknown.stderr


def test_the_table_has_a_row_for_each_task(home: Path) -> None:
    facts = FactsFile(home)
    for task in HEADS:  # so that the command need not import all classes of transformers
        for name in architectures(task).values():
            facts._facts.setdefault(name, read_facts(model_class("fill-mask", "bert")))
    facts.save()
    shown = CliRunner().invoke(main, ["heads"]).stdout.splitlines()
    assert [line.split()[0] for line in shown[1 : 1 + len(HEADS)]] == list(HEADS)
    row = shown[1 + list(HEADS).index("fill-mask")].split()
    assert row[1:] == [
        get_head("fill-mask").auto_class,
        str(len(architectures("fill-mask"))),
        "distilbert/distilroberta-base",
    ]


def test_check_agrees_with_the_listing(tmp_path: Path) -> None:
    config = {"model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = CliRunner().invoke(main, ["check", str(tmp_path), "--task", "text-generation"])
    assert done.exit_code == 1
    assert "no key-value cache" in done.stderr
    assert CliRunner().invoke(main, ["check", str(tmp_path), "--task", "feature-extraction"]).exit_code == 0


@pytest.mark.parametrize(
    ("task", "architecture", "is_own"),
    [
        ("feature-extraction", "MPNetForMaskedLM", True),
        ("fill-mask", "MPNetForMaskedLM", True),
        ("text-classification", "MPNetForMaskedLM", False),
        ("text-classification", "MPNetModel", False),
    ],
)
def test_check_says_whether_the_head_is_the_checkpoints_own(
    tmp_path: Path, task: str, architecture: str, is_own: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mpnet", "architectures": [architecture]}))
    done = CliRunner().invoke(main, ["check", str(tmp_path), "--task", task])
    assert done.exit_code == 0
    assert ("note:" not in done.output) == is_own


def test_check_refuses_a_folder_of_sentence_transformers_as_logging_does(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mpnet", "architectures": ["MPNetModel"]}))
    (tmp_path / "modules.json").write_text("[]")
    done = CliRunner().invoke(main, ["check", str(tmp_path), "--task", "feature-extraction"])
    assert done.exit_code == 1
    assert "modules.json: it lists no Pooling" in done.output
