"""Any mix of good and bad requests, lengths and parameters: each gets its own answer or its own error, in order."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.flavor import log_model
from registry.heads import get_head
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.errors import Malformed, ServingError, Unprocessable
from tests.alike import assert_alike
from tests.families import WORDS, build
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.slow]

TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join)
BAD_TEXT = st.sampled_from(["", "word " * 3000, 7, None, ["a"], [[1, 2], [3]]])
ITEMS: dict[str, st.SearchStrategy[Any]] = {
    "text-classification": TEXT | st.fixed_dictionaries({"text": TEXT, "text_pair": TEXT}),
    "token-classification": TEXT,
    "question-answering": st.fixed_dictionaries({"question": TEXT, "context": TEXT}),
    "multiple-choice": st.fixed_dictionaries({"prompt": TEXT, "choices": st.lists(TEXT, min_size=2, max_size=4)}),
}
GOOD = {
    task: st.fixed_dictionaries({"inputs": item | st.lists(item, min_size=1, max_size=3)})
    for task, item in ITEMS.items()
}
BAD = (
    st.fixed_dictionaries({"inputs": BAD_TEXT})
    | st.fixed_dictionaries({"inputs": TEXT, "parameters": st.just({"nonsense": 1})})
    | st.sampled_from([b"", b"nonsense", b'{"inputs": "\\ud800"}', b"[]"])
)


@pytest.fixture(scope="module")
def local_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The served version of a task."""
    home = tmp_path_factory.mktemp("mixed")
    registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})

    @cache
    def make(task: str) -> Local:
        from registry.cache import fetch

        folder = build(home / task, "bart" if task == "text-classification" else "bert", get_head(task).auto_class)
        logged = log_model(folder, task=task, name=task, settings=registry)
        root, _ = fetch(Versions(registry).resolve(Reference(task, version=logged.version)), registry)
        run = home / f"run-{task}"
        run.mkdir()
        return Local(root, run)

    return make


@pytest.mark.sweep
@pytest.mark.parametrize("task", ITEMS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_request_gets_its_own_answer_or_its_own_error(local_of: Any, task: str, data: st.DataObject) -> None:
    local = local_of(task)
    mixed = data.draw(
        st.lists(GOOD[task].map(lambda body: (body, True)) | BAD.map(lambda body: (body, False)), max_size=14)
    )
    bodies = [body for body, _ in mixed]
    together = local.answers(bodies)
    alone = [answer for body in bodies for answer in local.answers([body])]
    assert len(together) == len(bodies)
    for found, expected, (body, is_good) in zip(together, alone, mixed, strict=True):
        if isinstance(expected, ServingError):
            assert isinstance(expected, Malformed | Unprocessable)
            assert (type(found), found.message) == (type(expected), expected.message)
        else:
            assert is_good or msgspec.json.encode(body) is not None
            assert_alike(found, expected)


def test_the_windows_of_one_request_are_spread_over_batches(local_of: Any) -> None:
    from serving.engine.predictor import Predictor

    local = local_of("question-answering")
    item = {"question": "where is the fox", "context": " ".join(WORDS * 150)}
    local.model.batches.clear()
    (answer,) = local.answers([{"inputs": item, "parameters": {"doc_stride": 32}}])
    assert len(local.model.batches) > 1
    assert max(local.model.batches) > 1
    assert_alike(answer, Predictor(local.root).answer(item, {"doc_stride": 32}))


def test_case_stays_as_the_tokenizer_has_it(tmp_path: Path) -> None:
    from registry.contract import Contract
    from serving.processors.tokenizer import TextEncoder

    for family, keeps_case in (("roberta", True), ("bart", True), ("bert", False)):
        folder = build(tmp_path / family, family, "AutoModelForSequenceClassification")
        registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(tmp_path / f"home-{family}")})
        contract: Contract = log_model(folder, task="text-classification", name="m", settings=registry).contract
        encoder = TextEncoder(folder, contract)
        same = encoder.encode("Paris")[0].tokens == encoder.encode("paris")[0].tokens
        assert same != keeps_case
