"""What `promote` checks. One registry for all tests here; each test has an alias of its own."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.contract import Contract, Example, ImageSettings, Languages, Processor
from registry.errors import BreakingChange, DamagedVersion, HistoryError, NotGoodEnough, PromotionRefused
from registry.flavor import log_model
from registry.gates import find_differences
from registry.history import Evaluation
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.contracts import TEXT, classifier
from tests.e2e.server import invoke, run_cli
from tests.small_models import SINGLE_LABELS, build_model

pytestmark = pytest.mark.slow


IMAGE = ImageSettings(
    resize=(256,), resample=2, crop=(224, 224), scale=0.1, mean=(0.5,), std=(0.5,), height=224, width=224
)
LIVE = classifier(max_tokens=256, defaults={"pooling": "mean"}, files={"model/config.json": "00"})


def changed(**fields: Any) -> Contract:
    return msgspec.structs.replace(LIVE, **fields)


def reading(image: ImageSettings | None = IMAGE, **fields: Any) -> Processor:
    return msgspec.structs.replace(TEXT, image=image, **fields)


def speaking(*codes: str) -> Processor:
    languages = Languages(ids={code: place for place, code in enumerate(codes)}, before=(-1,), after=())
    return msgspec.structs.replace(TEXT, languages=languages)


def answering(output: Any) -> Contract:
    return changed(example=Example(inputs=["x"], parameters={}, output=output))


@pytest.mark.parametrize(
    ("live", "candidate", "noticed"),
    [
        (LIVE, LIVE, []),
        (LIVE, changed(model_type="roberta", model_class="Other", dtype="bfloat16", torch="3", files={}), []),
        (LIVE, changed(problem_type="single_label_classification"), []),
        (LIVE, changed(max_tokens=512), []),
        (LIVE, changed(processor=msgspec.structs.replace(TEXT, vocabulary=8, pad_token_id=3)), []),
        (
            LIVE,
            changed(task="zero-shot-classification"),
            ["task zero-shot-classification, was text-classification"],
        ),
        (LIVE, changed(defaults={"pooling": "mean", "prefix": "", "stop_strings": []}), []),
        (
            changed(processor=speaking("en", "fr", "de")),
            changed(processor=speaking("en", "it")),
            ["languages: de, fr are gone"],
        ),
        (LIVE, changed(processor=speaking("en")), []),
        (LIVE, changed(labels=("bad", "great")), ["labels: good is gone, great is new"]),
        (LIVE, changed(labels=("good", "bad")), ["labels are in another order: number 0 is good, was bad"]),
        (LIVE, changed(labels=("bad", "good", "good")), ["number of labels 3, was 2"]),
        (
            changed(labels=tuple(f"l{number}" for number in range(12))),
            changed(labels=()),
            [f"labels: {', '.join(f'l{number} is gone' for number in range(10))} and 2 more"],
        ),
        (
            LIVE,
            changed(problem_type="multi_label_classification"),
            ["problem type multi_label_classification, was single_label_classification"],
        ),
        (LIVE, changed(max_tokens=128), ["longest text 128 tokens, was 256 tokens"]),
        (
            LIVE,
            changed(processor=msgspec.structs.replace(TEXT, class_name="RobertaTokenizer")),
            ["tokenizer RobertaTokenizer, was BertTokenizer"],
        ),
        (LIVE, changed(processor=reading(), max_tokens=50), ["input images, was text"]),
        (
            changed(processor=reading()),
            changed(processor=reading(msgspec.structs.replace(IMAGE, mean=(0.4,), std=(0.3,), scale=1.0))),
            [],
        ),
        (
            changed(processor=reading()),
            changed(processor=reading(msgspec.structs.replace(IMAGE, crop=(384, 384), height=384)), max_tokens=9),
            ["image crop 384 x 384, was 224 x 224", "image height 384, was 224"],
        ),
        (LIVE, changed(defaults={"pooling": "cls"}), ["default pooling cls, was mean"]),
        (LIVE, changed(defaults={"pooling": "mean", "normalize": True}), ["default normalize True, was none"]),
        (answering([[0.1, 0.2]]), answering([[0.3, 0.1]]), []),
        (answering([[0.1, 0.2]]), answering([[[0.1, 0.2, 0.3]]]), ["vectors have 3 numbers, was 2 numbers"]),
        (answering([[{"label": "bad"}]]), answering([[{"label": "bad"}, {"label": "good"}]]), []),
        (
            LIVE,
            changed(labels=("bad",), max_tokens=1, defaults={}),
            ["labels: good is gone", "longest text 1 tokens, was 256 tokens", "default pooling none, was mean"],
        ),
    ],
)
def test_what_clients_notice(live: Contract, candidate: Contract, noticed: list[str]) -> None:
    assert find_differences(live, candidate) == noticed


SAME, FINE, OTHER_LABELS, SHORTER, DAMAGED, UNREADABLE = "1", "2", "3", "4", "5", "6"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    """Versions of the model "m", by what is the matter with them."""
    home = tmp_path_factory.mktemp("gates")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    folders = tmp_path_factory.mktemp("checkpoints")
    other = build_model(folders / "labels", "single", 2, labels=("bad", "fair", "good", "superb"))
    second = build_model(folders / "second", "single", 1)
    for folder, longest in (
        *((models["single"], None), (second, None), (other, None), (second, 100)),
        *((second, 200), (second, 199)),  # what is cached already would not be downloaded again
    ):
        log_model(folder, task="text-classification", name="m", max_tokens=longest, settings=settings)
    client = Versions(settings)._client
    for version, file in ((DAMAGED, "model/model.safetensors"), (UNREADABLE, "MLmodel")):
        location = client.get_logged_model(client.get_model_version("m", version).source.rpartition("/")[2])
        path = Path(location.artifact_location.removeprefix("file://")) / file
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    return home


@pytest.fixture
def versions(home: Path) -> Versions:
    return Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)}))


def refused(versions: Versions, version: str, alias: str, **options: Any) -> PromotionRefused:
    """The refusal to promote; the alias and its history must be as before."""
    before = versions.current("m", alias), versions.history("m", alias)
    with pytest.raises(PromotionRefused) as caught:
        versions.promote("m", version, why="try", alias=alias, **options)
    assert (versions.current("m", alias), versions.history("m", alias)) == before
    return caught.value


def test_a_version_that_nobody_notices_is_promoted(versions: Versions) -> None:
    versions.promote("m", SAME, why="first", alias="fine")
    assert versions.promote("m", FINE, why="better", alias="fine").breaking == ()
    assert versions.current("m", "fine") == FINE


def test_a_change_that_clients_notice_is_refused_and_every_difference_named(versions: Versions) -> None:
    versions.promote("m", SAME, why="first", alias="strict")
    refusal = refused(versions, OTHER_LABELS, "strict")
    assert isinstance(refusal, BreakingChange)
    assert refusal.reasons == ("labels: great is gone, superb is new",)
    assert str(refusal) == (
        "m/3 is not promoted, m@strict stays at version 1, because its clients would notice: labels: great is gone, "
        "superb is new. Promote it under another alias or name, or pass --allow-breaking with the reason (in Python "
        "allow_breaking=…)"
    )
    assert refused(versions, SHORTER, "strict").reasons == ("longest text 100 tokens, was 256 tokens",)


def test_a_breaking_change_passes_with_a_reason_that_stands_in_the_history(versions: Versions) -> None:
    versions.promote("m", SAME, why="first", alias="loose")
    with pytest.raises(HistoryError, match="the reason is empty"):
        versions.promote("m", SHORTER, why="x", alias="loose", allow_breaking=" ")
    versions.promote("m", FINE, why="nothing to allow", alias="loose", allow_breaking="to be sure")
    move = versions.promote("m", SHORTER, why="cheaper", alias="loose", allow_breaking="no text is that long")
    assert move.breaking == ("longest text 100 tokens, was 256 tokens",)
    assert [entry.allow_breaking for entry in versions.history("m", "loose")] == ["", "", "no text is that long"]
    assert versions.history("m", "loose")[-1] == move


def test_the_first_promotion_has_nothing_to_be_compared_with(versions: Versions) -> None:
    assert versions.promote("m", SHORTER, why="first", alias="new").from_version is None


@pytest.mark.parametrize(
    ("version", "cause"),
    [(DAMAGED, "model/model.safetensors has sha256"), (UNREADABLE, "the artifact's MLmodel is damaged")],
)
def test_damaged_files_are_refused_even_at_the_first_promotion(versions: Versions, version: str, cause: str) -> None:
    refusal = refused(versions, version, "damaged", allow_breaking="this helps against other things")
    assert isinstance(refusal, DamagedVersion)
    assert cause in str(refusal)


def test_a_live_version_that_cannot_be_read_counts_as_a_difference(versions: Versions) -> None:
    versions._client.set_registered_model_alias("m", "broken", UNREADABLE)
    assert "the contract of the live version cannot be read" in refused(versions, FINE, "broken").reasons[0]
    assert versions.promote("m", FINE, why="mend", alias="broken", allow_breaking="it is broken").to_version == FINE


def test_the_live_versions_weights_are_not_needed(versions: Versions) -> None:
    versions._client.set_registered_model_alias("m", "weightless", DAMAGED)
    assert versions.promote("m", FINE, why="mend", alias="weightless").from_version == DAMAGED


def test_a_version_is_scored_before_it_goes_live(versions: Versions) -> None:
    scored = Evaluation(examples=4, sha256="ab", values={"accuracy": 0.75}, required={"accuracy": 0.5})

    def evaluate(root: Path, contract: Contract) -> Evaluation:
        assert (root / "model" / "model.safetensors").is_file()
        assert contract.labels == SINGLE_LABELS
        return scored

    def fail(root: Path, contract: Contract) -> Evaluation:
        raise NotGoodEnough("accuracy is 0.2", ["accuracy is 0.2"])

    refused(versions, SAME, "scored", evaluate=fail)
    versions.promote("m", SAME, why="good", alias="scored", evaluate=evaluate)
    assert versions.history("m", "scored")[-1].evaluation == scored


def test_the_alias_is_looked_at_again_after_the_evaluation(versions: Versions) -> None:
    def evaluate(root: Path, contract: Contract) -> Evaluation:
        versions.promote("m", SAME, why="somebody else, meanwhile", alias="raced")
        return Evaluation(examples=1, sha256="", values={}, required={})

    with pytest.raises(BreakingChange, match="m@raced stays at version 1"):
        versions.promote("m", SHORTER, why="first", alias="raced", evaluate=evaluate)
    assert versions.current("m", "raced") == SAME


@pytest.mark.server
def test_the_command_line_refuses_and_says_so_in_json(home: Path, versions: Versions, tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text("\n".join(json.dumps({"inputs": f"text {n}", "label": "good"}) for n in range(3)))

    why = ("--why", "by hand", "--who", "ada")
    scored = ("--evaluate", str(examples), "--require")
    invoke(home, "promote", "m", SAME, "--alias", "cli", *why[:2])
    refused = run_cli(home, "promote", "m", SHORTER, "--alias", "cli", "--json", *why, check=False)
    answer = json.loads(refused.stdout)
    assert (refused.returncode, answer["error"], answer["reasons"]) == (
        1,
        "BreakingChange",
        ["longest text 100 tokens, was 256 tokens"],
    )
    assert refused.stderr.strip().splitlines()[-1] == f"Error: {answer['message']}"
    done = invoke(home, "promote", "m", FINE, "--alias", "cli", "--json", *why, *scored, "accuracy=1.5", check=False)
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["error"]) == (1, "NotGoodEnough")
    assert "required is at least 1.5" in answer["reasons"][0]
    assert versions.current("m", "cli") == SAME
    done = invoke(
        home,
        *("promote", "m", SHORTER, "--alias", "cli", *why, "--json"),
        *("--allow-breaking", "it is cheaper", *scored, "accuracy=0"),
    )
    (move,) = json.loads(done.stdout)
    assert (move["from"], move["to"], move["who"], move["why"]) == ("1", "4", "ada", "by hand")
    assert move["evaluation"]["examples"] == 3
    done = invoke(home, "rollback", "m", "--alias", "cli", "--why", "too\nshort", "--json")
    assert json.loads(done.stdout)[0]["to"] == SAME
    lines = invoke(home, "history", "m", "--alias", "cli").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["promote", "promote", "rollback"]
    assert "on 3 examples)  (breaking: longest text 100 tokens, was 256 tokens; because: it is cheaper)" in lines[1]
    assert lines[2].endswith("too short")
