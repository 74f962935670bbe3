"""Folders that sentence-transformers saved give the vectors that its own `encode` gives."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest
from openai import AsyncOpenAI
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize, Pooling
from torch import nn

from registry.cache import fetch
from registry.contract import Contract
from registry.flavor import log_model
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.engine.predictor import Predictor
from serving.errors import Unprocessable
from serving.front.app import DataPlane
from tests.alike import assert_alike
from tests.families import texts_of
from tests.local import Local
from tests.sentence_folders import edit, encode, make_old, save, write
from tests.serving.front.task_fronts import no_other_app

pytestmark = pytest.mark.sweep

TEXTS = [" A short text.", "Mixed CASE, naïve café", *texts_of(4, 5, 60)]
LONG = " ".join(texts_of(20, 6))
SINGLE = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def log(folder: Path, settings: RegistrySettings) -> Path:
    """The verified artifact of the folder."""
    logged = log_model(folder, task="feature-extraction", name="m", settings=settings)
    return fetch(Versions(settings).resolve(Reference("m", version=logged.version)), settings)[0]


def serve(folder: Path, settings: RegistrySettings) -> Predictor:
    return Predictor(log(folder, settings))


def check(folder: Path, settings: RegistrySettings, texts: list[str] = TEXTS, **parameters: Any) -> Contract:
    """The folder's vectors, and those of the artifact as a folder of its own, are those that are served."""
    root = log(folder, settings)
    served = Predictor(root)
    expected = encode(folder, texts, **parameters)
    request = {**parameters, "truncate": True}
    for answer, vector in zip(served.answer(texts, request), expected, strict=True):
        assert_alike(answer, vector)
    for again, vector in zip(encode(root / "model", texts, **parameters), expected, strict=True):
        numpy.testing.assert_allclose(again, vector, atol=1e-6)
    return served.contract


@pytest.mark.parametrize("mode", [*SINGLE, ("cls", "mean"), ("weightedmean", "lasttoken", "max")], ids=str)
def test_every_pooling_of_todays_files(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings, mode: Any
) -> None:
    check(save(models["base"], tmp_path / "m", Pooling(32, mode), Normalize()), settings)


FLAGS = [
    *[(f"{mode}_tokens",) for mode in ("max", "mean", "mean_sqrt_len", "weightedmean")],
    *[("cls_token",), ("lasttoken",), ("mean_tokens", "cls_token", "max_tokens"), ()],
]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_flags_of_older_files(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings, flags: tuple[str, ...]
) -> None:
    check(make_old(save(models["base"], tmp_path / "m", Pooling(32), Normalize()), flags), settings)


@pytest.mark.parametrize(
    "modules",
    [
        [Dense(32, 16)],
        [Dense(32, 16, bias=False, activation_function=nn.Identity()), Normalize()],
        [Dense(32, 64, activation_function=nn.GELU(), use_residual=True), Dense(64, 64, use_residual=True)],
        [Normalize(), Dropout(0.5), Dense(32, 8, activation_function=nn.ReLU())],
        [LayerNorm(32), Dense(32, 48, activation_function=nn.SiLU()), Normalize()],
    ],
    ids=["dense", "no bias", "residual", "normalised before", "layer norm"],
)
def test_modules_after_the_pooling(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings, modules: list[nn.Module]
) -> None:
    for module in modules:
        if isinstance(module, LayerNorm):
            nn.init.normal_(module.norm.weight)
            nn.init.normal_(module.norm.bias)
    folder = save(models["base"], tmp_path / "m", Pooling(32), *modules)
    contract = check(folder, settings)
    assert [name for name in contract.files if "_Dense" in name]
    check(make_old(folder), settings)


def test_openais_client_gets_the_vectors_of_a_folder_with_modules(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings
) -> None:
    folder = save(models["base"], tmp_path / "m", Pooling(32), Dense(32, 16), Normalize())
    (tmp_path / "run").mkdir()
    local = Local(log(folder, settings), tmp_path / "run")

    async def ask() -> Any:
        async with local.running() as front:
            transport = httpx.ASGITransport(DataPlane(front, no_other_app))
            async with AsyncOpenAI(
                base_url="http://here/v1", api_key="none", http_client=httpx.AsyncClient(transport=transport)
            ) as client:
                return await client.embeddings.create(model="m", input=TEXTS)

    answer = asyncio.run(ask())
    expected = encode(folder, TEXTS)
    assert expected[0].shape == (16,)
    for entry, vector in zip(answer.data, expected, strict=True):
        assert_alike(entry.embedding, vector)


def test_another_pooling_than_the_one_that_layers_follow_is_refused(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings
) -> None:
    served = serve(save(models["base"], tmp_path / "m", Pooling(32), Dense(32, 16)), settings)
    assert len(served.answer("a text", {"pooling": "mean"})) == 16
    assert len(served.answer("a text", {"pooling": "raw"})[0]) == 32
    with pytest.raises(Unprocessable, match="follow its pooling 'mean'"):
        served.answer("a text", {"pooling": "cls"})


@pytest.mark.parametrize("includes", [True, False])
@pytest.mark.parametrize("mode", SINGLE)
def test_a_default_prompt_is_applied_and_may_be_left_out_of_the_pooling(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings, mode: Any, includes: bool
) -> None:
    prompts = {"query": "search for it: ", "document": "", "long": "this is a longer one, of a few words: "}
    pooling = Pooling(32, mode, include_prompt=includes)
    folder = save(models["base"], tmp_path / "m", pooling, prompts=prompts, default_prompt_name="query")
    served = serve(folder, settings)
    for name in (None, "query", "document", "long"):
        for answer, vector in zip(
            served.answer(TEXTS, {"prompt_name": name} if name else None),
            encode(folder, TEXTS, **({"prompt_name": name} if name else {})),
            strict=True,
        ):
            assert_alike(answer, vector)


def test_vectors_are_the_same_in_batches(tmp_path: Path, models: dict[str, Path], settings: RegistrySettings) -> None:
    """By the real engine, packed and as a graph: rows of all lengths, with prompts and without, share batches."""
    pooling = Pooling(32, ("weightedmean", "lasttoken", "cls", "max"), include_prompt=False)
    folder = save(
        models["base"], tmp_path / "m", pooling, Dense(128, 16), prompts={"query": "search for it: ", "document": ""}
    )
    run = tmp_path / "run"
    run.mkdir()
    local = Local(log(folder, settings), run)
    texts = texts_of(12, 8)
    asked = [{"inputs": text, "parameters": {"prompt_name": name}} for text in texts for name in ("query", "document")]
    expected = zip(*(encode(folder, texts, prompt_name=name) for name in ("query", "document")), strict=True)
    for answer, vector in zip(local.answers(asked), [each for pair in expected for each in pair], strict=True):
        assert_alike(answer, vector)
    assert max(local.model.batches) > 1


@pytest.mark.parametrize("modules", [[], [Normalize()], [Dense(32, 24), Normalize()]], ids=["", "unit", "dense"])
def test_shorter_vectors_are_cut_as_the_folder_says(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings, modules: list[nn.Module]
) -> None:
    check(save(models["base"], tmp_path / "m", Pooling(32), *modules, truncate_dim=8), settings)
    edit(tmp_path / "m" / "config_sentence_transformers.json", {"truncate_dim": 500})
    check(tmp_path / "m", settings)


def test_the_folders_limit_of_a_row(tmp_path: Path, models: dict[str, Path], settings: RegistrySettings) -> None:
    folder = make_old(save(models["base"], tmp_path / "m", Pooling(32)), transformer={"max_seq_length": 100})
    assert check(folder, settings, [LONG, *TEXTS]).max_tokens == 100
    edit(folder / "tokenizer_config.json", {"model_max_length": 50})  # which the folder's limit overrides
    assert check(folder, settings, [LONG, *TEXTS]).max_tokens == 100
    write(folder / "sentence_bert_config.json", {"do_lower_case": False})
    assert check(folder, settings, [LONG, *TEXTS]).max_tokens == 50


def test_texts_are_lowercased_where_the_folder_says_so(tmp_path: Path, settings: RegistrySettings) -> None:
    from tests.families import build

    base = build(tmp_path / "base", "roberta", "AutoModel")
    folder = make_old(save(base, tmp_path / "m", Pooling(32)), transformer={"do_lower_case": True})
    check(folder, settings, ["Ada in PARIS", "ada in paris", *TEXTS])


def test_a_transformer_in_a_folder_of_its_own(
    tmp_path: Path, models: dict[str, Path], settings: RegistrySettings
) -> None:
    folder = make_old(
        save(models["base"], tmp_path / "m", Pooling(32), Normalize()), transformer={"max_seq_length": 64}
    )
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    edit(folder / "modules.json", lambda modules: [modules[0] | {"path": "0_Transformer"}, *modules[1:]])
    assert check(folder, settings, [LONG, *TEXTS]).max_tokens == 64


@pytest.mark.parametrize("family", ["t5", "distilbert", "roberta"])
def test_other_families(tmp_path: Path, settings: RegistrySettings, family: str) -> None:
    import transformers

    from tests.families import build

    base = build(tmp_path / "base", family, "AutoModel")
    if family == "t5":  # sentence-t5 and gtr have the encoder's weights alone
        transformers.T5EncoderModel.from_pretrained(base).save_pretrained(base)
    contract = check(save(base, tmp_path / "m", Pooling(32), Dense(32, 16), Normalize()), settings)
    assert contract.model_class == {"t5": "T5EncoderModel", "distilbert": "DistilBertModel"}.get(family, "RobertaModel")
