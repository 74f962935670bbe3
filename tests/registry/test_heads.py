import pytest
from safetensors.torch import save_file

from registry.checks import check_config, check_files
from registry.errors import UnknownTask, UnsafeArtifact, UnsupportedHead, WrongHead
from registry.heads import HEADS, architectures, get_head, model_class, tasks_of


def test_every_head_is_a_class_of_the_installed_transformers() -> None:
    import transformers

    for head in HEADS.values():
        assert hasattr(transformers, head.auto_class)
        assert architectures(head.task), head


def test_an_unknown_task_is_told_the_tasks() -> None:
    with pytest.raises(UnknownTask, match="text-classification"):
        get_head("sentiment")


def test_a_missing_head_is_told_the_tasks_that_the_architecture_has() -> None:
    with pytest.raises(UnsupportedHead, match="the tasks that it does have: feature-extraction, image-classification"):
        model_class("text-classification", "vit")
    with pytest.raises(UnsupportedHead, match="no architecture 'nonsense'"):
        model_class("text-classification", "nonsense")


def test_bert_has_every_text_head_but_the_seq2seq_one() -> None:
    assert set(HEADS) - set(tasks_of("bert")) == {
        "text2text-generation",
        "summarization",
        "translation",
        "image-classification",
    }


def test_a_config_of_another_head_is_refused() -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    with pytest.raises(WrongHead, match=r"needs BertForSequenceClassification.*saved as BertForMaskedLM"):
        check_config(config, "text-classification")
    with pytest.raises(WrongHead, match="names no architectures"):
        check_config({"model_type": "bert"}, "text-classification")
    assert check_config(config, "fill-mask") == "BertForMaskedLM"


def test_remote_code_is_refused() -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "auto_map": {"AutoModel": "x.Y"}}
    with pytest.raises(UnsafeArtifact, match="auto_map"):
        check_config(config, "fill-mask")


def test_pickled_weights_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeArtifact, match="pickled"):
        check_files(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "modeling.py").write_text("")
    check_files(tmp_path)  # code beside the weights is never loaded
