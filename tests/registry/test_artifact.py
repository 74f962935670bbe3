"""An artifact's `MLmodel` can hold neither a contract that is too large nor one that grows as it is read."""

import json
import sys
import time
from pathlib import Path

import msgspec
import pytest

from registry.artifact import MAX_CONTRACT_BYTES, MAX_NODES, _safe_loader, read_contract, read_flavors, write_artifact
from registry.contract import Derived, Example
from registry.errors import ContractError, UnsafeArtifact
from registry.layout import FLAVOR
from registry.plain_files import MAX_RECORD_BYTES
from tests.contracts import CLASSIFIER, classifier

LAUGHS = "\n".join(
    ["flavors:", "  headwaiter:", "    contract:", "      a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"      a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 30)]
)


def test_a_contract_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_artifact(tmp_path, CLASSIFIER)
    assert read_contract(tmp_path) == CLASSIFIER


def test_a_contract_that_is_too_large_is_neither_written_nor_read(tmp_path: Path) -> None:
    example = Example(inputs=["a"], parameters={}, output=[0.123456789] * (MAX_CONTRACT_BYTES // 10))
    large = classifier(example=example)
    with pytest.raises(ContractError, match="log the model with a shorter example"):
        write_artifact(tmp_path, large)
    flavors = {FLAVOR: {"contract": msgspec.to_builtins(classifier(labels=("x" * MAX_CONTRACT_BYTES,)))}}
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": flavors}))  # JSON is YAML
    with pytest.raises(ContractError, match="at most 4,194,304 are served"):
        read_contract(tmp_path)
    (tmp_path / "MLmodel").write_bytes(b"#" * (MAX_RECORD_BYTES + 1))
    with pytest.raises(UnsafeArtifact, match="at most 16,777,216 are read"):
        read_contract(tmp_path)


def test_an_example_that_was_written_before_there_was_a_bound_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    example = Example(inputs=["a"], parameters={}, output=["0" * MAX_CONTRACT_BYTES])
    flavors = {FLAVOR: {"contract": classifier(example=example).to_record()}}
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": flavors}))  # JSON is YAML
    assert read_contract(tmp_path) == classifier(example=None)
    assert "log the model again" in caplog.text


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (LAUGHS, "repeats parts of itself"),
        ("flavors:\n  headwaiter: &a\n    contract: *a\n", "repeats parts of itself"),
        ("flavors:\n  headwaiter:\n    contract: &a [*a]\n", "repeats parts of itself"),
        ("flavors: {headwaiter: {contract: " + "[" * 20_000 + "]" * 20_000 + "}}", "nested too deeply"),
    ],
    ids=["laughs", "itself", "a list of itself", "deep"],
)
def test_a_record_that_grows_as_it_is_read_is_refused(tmp_path: Path, record: str, words: str) -> None:
    (tmp_path / "MLmodel").write_text(record)
    began = time.thread_time()
    with pytest.raises(ContractError, match=words):
        read_contract(tmp_path)
    assert time.thread_time() - began < 5.0


def test_aliases_of_the_same_part_are_read(tmp_path: Path) -> None:
    """Python's own writer makes them of objects that occur twice."""
    (tmp_path / "MLmodel").write_text("flavors:\n  a: {x: &id001 [1, 2], y: *id001}\n")
    assert read_flavors(tmp_path) == {"a": {"x": [1, 2], "y": [1, 2]}}


def test_a_record_does_not_say_by_itself_which_digest_it_has(tmp_path: Path) -> None:
    """Whoever can write to the store could else serve other files under the digest that was logged, and signed."""
    forged = msgspec.structs.replace(
        classifier(files={"model/config.json": "0" * 64}), derived=Derived(digest=CLASSIFIER.digest, notes=())
    )
    assert forged.digest == CLASSIFIER.digest
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": {FLAVOR: {"contract": forged.to_record()}}}))
    with pytest.raises(ContractError, match="the field derived"):
        read_contract(tmp_path)


MERGES = "\n".join(
    [
        "m0: &m0 {a: 1}",
        *[f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 10)}]}}" for level in range(1, 9)],
    ]
)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (MERGES, "it merges mappings"),
        ("flavors: [" + "[]," * (MAX_NODES + 1) + "]", "more than 500,000 values"),
        ("flavors: {a: " + "1:" * 5000 + "1}", "a number has 10,001 characters"),
        ("flavors: {a: " + "1:" * 5000 + "1.5}", "a number has 10,003 characters"),
        ("flavors: {a: !!bool foo}", "is damaged"),
        ("flavors: {a: !!int ''}", "is damaged"),
        ("flavors: {a: " + "9" * 5000 + "}", "a number has"),
    ],
    ids=["merge keys", "values", "base 60", "base 60 with a fraction", "no bool", "no int", "digits"],
)
def test_yaml_that_no_json_has_is_refused_before_it_takes_time(tmp_path: Path, record: str, words: str) -> None:
    (tmp_path / "MLmodel").write_text(record)
    with pytest.raises(ContractError, match=words):
        read_flavors(tmp_path)


def test_without_libyaml_records_are_read_and_bounded_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yaml.__with_libyaml__", False)
    monkeypatch.setitem(sys.modules, "yaml.cyaml", None)
    monkeypatch.setattr("registry.artifact._safe_loader", _safe_loader.__wrapped__)
    write_artifact(tmp_path, CLASSIFIER)
    assert read_contract(tmp_path) == CLASSIFIER
    monkeypatch.setattr("registry.artifact.MAX_NODES", 1000)
    for record, words in (
        (MERGES, "it merges mappings"),
        ("flavors: [" + "[]," * 1001 + "]", "more than 1,000 values"),
    ):
        (tmp_path / "MLmodel").write_text(record)
        with pytest.raises(ContractError, match=words):
            read_flavors(tmp_path)
