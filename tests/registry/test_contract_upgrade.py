"""A record of an earlier format is read as today's, and is still known by the digest that it was logged with."""

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry import contract_upgrade
from registry.artifact import read_contract, read_flavors
from registry.contract import FORMAT, Contract
from registry.digests import digest_folder
from registry.errors import ContractError, DigestMismatch, UnreadableArtifact

FIXTURES = Path(__file__).parents[1] / "fixtures"
DIGESTS = {"artifact-of-format-1": "ac61e5908ef4bd4404d7e59dba55dccbd332196b0f86c54f027393298f349dbe"}
"""As the release that logged it wrote them into the registry."""


@pytest.mark.parametrize("name", DIGESTS)
def test_an_earlier_record_keeps_the_digest_that_the_registry_recorded(name: str) -> None:
    contract = read_contract(FIXTURES / name)
    assert contract.format == FORMAT
    assert contract.digest == DIGESTS[name]


def test_a_derived_contract_survives_the_routing_table_with_its_digest_and_its_notes() -> None:
    contract = read_contract(FIXTURES / "artifact-of-format-1")
    again = Contract.parse(json.loads(json.dumps(contract.to_record())))
    assert (again, again.digest) == (contract, contract.digest)


def test_a_step_gets_the_models_files_and_its_notes_are_the_contracts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shorten(record: dict[str, Any], folder: Path) -> tuple[str, ...]:
        record["max_tokens"] = json.loads((folder / "config.json").read_text())["max_position_embeddings"] - 1
        return ("the record has no such limit: log the model again",)

    monkeypatch.setitem(contract_upgrade.STEPS, 1, (shorten,))
    root = shutil.copytree(FIXTURES / "artifact-of-format-1", tmp_path / "artifact")
    positions = json.loads((root / "model" / "config.json").read_text())["max_position_embeddings"]
    contract = read_contract(root)
    assert contract.max_tokens == positions - 1
    assert contract.notes == ("the record has no such limit: log the model again",)
    assert contract.digest == DIGESTS["artifact-of-format-1"]


class PanicException(BaseException):  # named and made as PyO3 does it for a panic of a library in Rust
    pass


@pytest.mark.parametrize("raised", [PanicException("byte index 1 is out of bounds"), RecursionError(), KeyError("x")])
def test_files_that_a_library_fails_at_are_refused(raised: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_record: dict[str, Any], _folder: Path) -> tuple[str, ...]:
        raise raised

    monkeypatch.setitem(contract_upgrade.STEPS, 1, (fail,))
    with pytest.raises(UnreadableArtifact, match=f"up to date failed .{type(raised).__name__}.*: log the model again"):
        read_contract(FIXTURES / "artifact-of-format-1")


@pytest.mark.parametrize("found", [0, FORMAT + 1, "1", None, [1]])
def test_a_record_of_no_known_format_is_refused(found: object) -> None:
    record = read_contract(FIXTURES / "artifact-of-format-1").to_record() | {"format": found}
    with pytest.raises(ContractError, match=f"this release reads formats 1 to {FORMAT}"):
        Contract.parse(contract_upgrade.upgrade(record, Path("none")))


def of_vectors(**processor: Any) -> dict[str, Any]:
    """A record of format 1 of a model whose answers are vectors, as that release logged it."""
    record = read_contract(FIXTURES / "artifact-of-format-1").to_record()
    record |= {"format": 1, "task": "feature-extraction", "auto_class": "AutoModel", "layers": []}
    return record | {"defaults": {"pooling": "last", "prompts": {}}, "processor": record["processor"] | processor}


def test_vectors_of_format_1_are_served_as_before_with_a_note_about_what_it_did_not_record() -> None:
    contract = Contract.parse(contract_upgrade.upgrade(of_vectors(), Path("none")))
    assert contract.layers == ()
    assert contract.defaults == {"pooling": "last", "prompts": {}, "include_prompt": True}
    (note,) = contract.notes
    assert "log that folder again" in note


@pytest.mark.parametrize(("name", "notes"), [("LevitImageProcessorPil", 1), ("ViTImageProcessorPil", 0)])
def test_images_of_format_1_have_a_note_where_a_step_was_left_out(name: str, notes: int) -> None:
    image = {"resize": [8, 8], "resample": 2, "crop": [], "scale": 1.0, "mean": [], "std": [], "height": 8, "width": 8}
    record = of_vectors(class_name=name, image=image)
    assert len(Contract.parse(contract_upgrade.upgrade(record, Path("none"))).notes) == notes


def record_digests(root: Path) -> Path:
    """Make the record that of the files as they are now, as if they had been logged so."""
    content = yaml.safe_load((root / "MLmodel").read_text())
    content["flavors"]["headwaiter"]["contract"]["files"] = digest_folder(root, "model")
    (root / "MLmodel").write_text(yaml.safe_dump(content))
    return root


def artifact_that_says(tmp_path: Path, **settings: object) -> Path:
    root = shutil.copytree(FIXTURES / "artifact-of-format-1", tmp_path / "artifact")
    path = root / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return record_digests(root)


def test_the_sides_of_an_earlier_record_are_the_tokenizers(tmp_path: Path) -> None:
    contract = read_contract(artifact_that_says(tmp_path, padding_side="left", truncation_side="left"))
    assert (contract.processor.padding_side, contract.processor.truncation_side) == ("left", "left")
    assert contract.example is not None, "the example is a short text, which is read as before"
    assert contract.notes == ()


def test_an_example_that_was_read_without_its_token_types_is_not_compared(tmp_path: Path) -> None:
    root = artifact_that_says(tmp_path)
    path = root / "model" / "tokenizer.json"
    said = json.loads(path.read_text())
    said["post_processor"]["single"][0]["SpecialToken"]["type_id"] = 1
    path.write_text(json.dumps(said))
    record = read_flavors(root)["headwaiter"]["contract"]
    assert contract_upgrade._add_sides(dict(record), root / "model") == (), "the model takes no token types"
    record["processor"]["inputs"] = ["input_ids", "token_type_ids"]
    (note,) = contract_upgrade._add_sides(record, root / "model")
    assert record["example"] is None
    assert "logging the model again" in note


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_tokenizer_configuration_that_cannot_be_read_changes_nothing(tmp_path: Path, text: str) -> None:
    root = artifact_that_says(tmp_path)
    (root / "model" / "tokenizer_config.json").write_text(text)
    assert read_contract(record_digests(root)).processor.padding_side == "right"


@pytest.mark.parametrize(
    ("own", "wanted"),
    [({"max_length": 100}, "max_length 100"), ({"max_new_tokens": 5, "max_length": 9}, "max_new_tokens 5"), ({}, "20")],
)
def test_a_generating_record_keeps_its_length_and_notes_the_checkpoints(
    tmp_path: Path, own: dict[str, int], wanted: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "generation_config.json").write_text(json.dumps(own))
    record = {"format": 1, "defaults": {"max_new_tokens": 64, "limit_new_tokens": 2048}}
    upgraded = contract_upgrade.upgrade(record | {"files": digest_folder(tmp_path, "model")}, folder)
    assert upgraded["defaults"]["max_new_tokens"] == 64
    (note,) = upgraded["derived"]["notes"]
    assert "gets 64 new tokens" in note
    assert wanted in note
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ContractError, match="is not JSON"):
        contract_upgrade.upgrade(record | {"files": digest_folder(tmp_path, "model")}, folder)


@pytest.mark.parametrize("name", contract_upgrade.SOURCES)
def test_no_step_reads_a_file_that_changed_after_logging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    used: list[Path] = []
    monkeypatch.setitem(contract_upgrade.STEPS, 1, (lambda _, folder: used.append(folder) or (),))
    root = shutil.copytree(FIXTURES / "artifact-of-format-1", tmp_path / "artifact")
    read_contract(root)
    path = root / "model" / name
    path.write_bytes((path.read_bytes() if path.exists() else b"{}") + b" ")
    with pytest.raises(DigestMismatch, match=f"model/{name}"):
        read_contract(root)
    assert used == [root / "model"], "of the files that were logged"


def test_steps_read_no_file_but_those_that_are_hashed(tmp_path: Path) -> None:
    read = set(re.findall(r'folder / "([^"]+)"', inspect.getsource(contract_upgrade)))
    assert read == set(contract_upgrade.SOURCES)


def test_a_length_that_the_tokenizer_pads_to_takes_no_memory(tmp_path: Path) -> None:
    path = shutil.copy(FIXTURES / "artifact-of-format-1" / "model" / "tokenizer.json", tmp_path)
    padding = {"strategy": {"Fixed": 10**6}, "direction": "Right", "pad_id": 0, "pad_type_id": 1, "pad_token": "[PAD]"}
    said = json.loads(Path(path).read_text()) | {"padding": padding | {"pad_to_multiple_of": None}}
    Path(path).write_text(json.dumps(said))
    assert not contract_upgrade._marks_single_texts({"inputs": ["token_type_ids"]}, tmp_path), "padding was made"


def test_the_record_is_checked_before_any_other_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(digest: str) -> None:
        raise DigestMismatch(digest)

    monkeypatch.setattr(contract_upgrade, "digest_file", lambda *_: pytest.fail("a file was read"))
    with pytest.raises(DigestMismatch, match=DIGESTS["artifact-of-format-1"]):
        read_contract(FIXTURES / "artifact-of-format-1", refuse)
