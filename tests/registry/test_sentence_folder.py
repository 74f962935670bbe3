"""What a sentence-transformers folder says is read whole or refused, by file and key; nothing of it is overlooked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling

from registry.errors import ArtifactError, IncompleteArtifact, UnreadableArtifact, UnsafeArtifact
from registry.flavor import log_model
from registry.sentence_folder import read_sentence_folder
from registry.settings import RegistrySettings
from tests.sentence_folders import edit, make_old, read, save

TODAY = "sentence_transformers.sentence_transformer.modules"


@pytest.fixture(scope="module")
def saved(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of release 6.2."""
    modules = (Pooling(32), Dense(32, 16), LayerNorm(16), Normalize())
    prompts = {"query": "q: "}
    return save(models["base"], tmp_path_factory.mktemp("saved") / "m", *modules, prompts=prompts, truncate_dim=8)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "m"))


CHANGES: list[tuple[str, Any, str]] = [
    ("1_Pooling/config.json", {"pooling_mode": "attention"}, "'attention'.*pooling_mode"),
    ("1_Pooling/config.json", {"pooling_mode": []}, "pooling_mode"),
    ("1_Pooling/config.json", {"pooling_mode_cls_token": "yes"}, "pooling_mode_cls_token"),
    ("1_Pooling/config.json", {"pooling_mode_median": True}, "pooling_mode_median"),
    ("1_Pooling/config.json", {"embedding_dimension": None}, "embedding_dimension"),
    ("1_Pooling/config.json", {"include_prompt": 1}, "include_prompt"),
    ("2_Dense/config.json", {"activation_function": "mine.Swish"}, "'mine.Swish'.*Tanh"),
    ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.PReLU"}, "PReLU"),
    ("2_Dense/config.json", {"activation_function": "torch.save"}, "torch.save"),
    ("2_Dense/config.json", {"in_features": 64}, "in_features is 64.*32"),
    ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
    ("2_Dense/config.json", {"dropout": 0.1}, "dropout"),
    ("3_LayerNorm/config.json", {"dimension": 17}, "dimension is 17.*16"),
    ("3_LayerNorm/config.json", {"eps": 0.1}, "eps"),
    ("4_Normalize/config.json", {"p": 1}, "`p`"),
    ("sentence_bert_config.json", {"max_seq_length": "256"}, "max_seq_length"),
    ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length"),
    ("sentence_bert_config.json", {"max_tokens": 256}, "max_tokens"),
    ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task"),
    ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "modality_config"),
    ("sentence_bert_config.json", {"query_length": 32}, "query_length"),
    ("sentence_bert_config.json", {"query_expansion": {"length": 32}}, "query_expansion"),
    ("sentence_bert_config.json", {"processing_kwargs": {"text": {"padding": "max_length"}}}, "processing_kwargs"),
    ("sentence_bert_config.json", {"tokenizer_args": {"padding_side": "left"}}, "tokenizer_args"),
    ("config_sentence_transformers.json", {"default_prompt_name": "passage"}, "default_prompt_name 'passage'"),
    ("config_sentence_transformers.json", {"prompts": {"query": 1}}, "prompts"),
    ("config_sentence_transformers.json", {"truncate_dim": -1}, "truncate_dim"),
    ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "similarity_fn_name"),
    ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "model_type"),
    ("config_sentence_transformers.json", {"requirements": {"transformers": ">=99"}}, "requirements"),
    ("config_sentence_transformers.json", {"post_process": "abs"}, "post_process"),
    ("modules.json", lambda modules: modules[:1], "no Pooling"),
    ("modules.json", lambda modules: [modules[0], *modules[2:]], r"\[1\].type.*Dense.*not served"),
    ("modules.json", lambda modules: [*modules, modules[1]], r"\[5\].type.*Pooling.*not served"),
    ("modules.json", lambda modules: [*modules, modules[1] | {"type": f"{TODAY}.LSTM"}], r"\[5\].type.*LSTM"),
    ("modules.json", lambda modules: [modules[0] | {"type": f"{TODAY}.CLIPModel"}, *modules[1:]], r"\[0\].type.*CLIP"),
    ("modules.json", lambda modules: [*modules[:4], modules[4] | {"kwargs": ["task"]}], r"\[4\].kwargs"),
    ("modules.json", lambda modules: [*modules[:4], modules[4] | {"path": "../elsewhere"}], r"\[4\].path"),
    ("modules.json", lambda modules: [*modules[:4], modules[4] | {"path": "/"}], r"\[4\].path"),
    ("modules.json", lambda modules: [*modules[:4], modules[4] | {"path": ""}], r"\[4\].path"),
    ("modules.json", lambda modules: [*modules[:4], modules[4] | {"weight": 2}], r"weight.*\[4\]|\[4\].*weight"),
    ("modules.json", lambda modules: {"modules": modules}, "array"),
]


@pytest.mark.parametrize(
    ("file", "change", "match"), CHANGES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_would_change_the_vectors_is_refused_by_file_and_key(
    folder: Path, file: str, change: Any, match: str
) -> None:
    edit(folder / file, change)
    with pytest.raises(IncompleteArtifact, match=rf"^{file}: .*{match}") as refused:
        read_sentence_folder(folder)
    assert "\n" not in str(refused.value)


def test_code_and_pickles_are_refused(folder: Path) -> None:
    weights = folder / "2_Dense" / "model.safetensors"
    weights.rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UnsafeArtifact, match=r"^2_Dense/pytorch_model.bin is pickled"):
        read_sentence_folder(folder)
    edit(folder / "modules.json", lambda modules: [*modules[:2], modules[2] | {"type": "custom_st.Head"}])
    with pytest.raises(UnsafeArtifact, match=r"^modules.json: \[2\].type 'custom_st.Head' is code"):
        read_sentence_folder(folder)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(IncompleteArtifact, match=f"^{file}: "):
        read_sentence_folder(folder)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/model.safetensors"])
def test_a_pointer_of_git_lfs_is_named(folder: Path, file: str) -> None:
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(UnreadableArtifact, match=f"^{file} is a pointer of Git LFS"):
        read_sentence_folder(folder)


def test_files_of_such_a_folder_without_its_list_of_modules_are_refused(folder: Path) -> None:
    (folder / "modules.json").unlink()
    with pytest.raises(IncompleteArtifact, match=r"^config_sentence_transformers.json: there is no modules.json"):
        read_sentence_folder(folder)


def test_weights_of_another_shape_than_their_description_are_refused_at_logging(
    folder: Path, settings: RegistrySettings
) -> None:
    edit(folder / "2_Dense" / "config.json", {"bias": False})
    with pytest.raises(IncompleteArtifact, match=r"^2_Dense/model.safetensors does not hold .*linear.bias"):
        log_model(folder, task="feature-extraction", name="m", settings=settings)


def damage(content: Any) -> list[Any]:
    """The content with each of its keys gone, renamed, or holding another type."""
    damaged: list[Any] = []
    entries = content if isinstance(content, list) else [content]
    for number, entry in enumerate(entries):
        for key, value in entry.items():
            without = {name: each for name, each in entry.items() if name != key}
            changed = [without, without | {f"{key}_2": value}]
            changed += [without | {key: other} for other in (None, [], {}, "x", -1, 1e300, True, [[]], {"a": {"b": 1}})]
            damaged += [[*entries[:number], each, *entries[number + 1 :]] for each in changed]
    return damaged if isinstance(content, list) else [each[0] for each in damaged]


@pytest.mark.slow
@pytest.mark.parametrize("is_old", [False, True])
def test_no_damaged_key_raises_anything_but_a_refusal_of_one_line(folder: Path, is_old: bool) -> None:
    if is_old:
        make_old(folder)
    refused = 0
    described = read_sentence_folder(folder)
    assert described is not None
    for path in [folder / name for name in described.files if name.endswith(".json")]:
        whole = path.read_text()
        texts = [json.dumps(each) for each in damage(read(path))]
        for text in [*texts, "", "[]", "{}", "null", whole[: len(whole) // 2], "\udcff"]:
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            try:
                read_sentence_folder(folder)
            except ArtifactError as error:
                refused += 1
                assert "\n" not in str(error)
        path.write_text(whole)
    assert refused > 150
    assert read_sentence_folder(folder) == described
