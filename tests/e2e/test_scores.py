"""A fine-tuned model scores the same by transformers itself, by the gate that promotes it, and as served.

One MiniLM a task, or for summaries a small BART, is fine-tuned on a generated set. Its held-out set is scored three
times: from the predictions of transformers or sentence-transformers, one text at a time; by `Versions.promote`; and
from a server's answers to all sets at once, short texts among long ones.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from transformers.pipelines.document_question_answering import select_starts_ends

from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.evaluation import Evaluator, Labelled
from tests.e2e.conftest import ask_together
from tests.e2e.server import Server
from tests.fine_tuning import fine_tune
from tests.score_sets import make_set

pytestmark = pytest.mark.long

EXAMPLES = 40
THREE_DIGITS = 0.0005
WINDOW_TOKENS, SHARED_TOKENS = 384, 128
"""Of the former question answering pipeline."""


@dataclass(frozen=True)
class Case:
    """A task's training and score.

    steps: of the training. floor: a score that says that the model has learnt something, so that the comparison means
    something. predict: from a checkpoint and examples to predictions. read: from a served answer to a prediction.
    scores: metric, by the name that the gate has for it → its function of predictions and labels. is_gated: whether the
    gate scores the task.
    """

    steps: int
    floor: float
    predict: Callable[[Path, Sequence[Labelled]], list[Any]]
    read: Callable[[Any], Any]
    scores: dict[str, Callable[[list[Any], list[Any]], float]]
    is_gated: bool = True


def predict_topics(folder: Path, examples: Sequence[Labelled]) -> list[Any]:
    classify = pipeline_of("text-classification", folder)
    return [classify(example.inputs)[0]["label"] for example in examples]


def predict_entities(folder: Path, examples: Sequence[Labelled]) -> list[Any]:
    tag = pipeline_of("token-classification", folder, aggregation_strategy="simple")
    return [read_entities(tag(example.inputs)) for example in examples]


def predict_answers(folder: Path, examples: Sequence[Labelled]) -> list[Any]:
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [find_answer(model, tokenizer, **example.inputs) for example in examples]


def predict_similarities(folder: Path, examples: Sequence[Labelled]) -> list[Any]:
    model = SentenceTransformer(str(folder), device="cpu")
    vectors = [model.encode(example.inputs, batch_size=1, show_progress_bar=False) for example in examples]
    return [model.similarity_pairwise(first, second).item() for first, second in vectors]


@torch.inference_mode()
def predict_summaries(folder: Path, examples: Sequence[Labelled]) -> list[Any]:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    made = [model.generate(torch.tensor([tokenizer(example.inputs)["input_ids"]]))[0] for example in examples]
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in made]


def pipeline_of(task: str, folder: Path, **parameters: Any) -> Any:
    return transformers.pipeline(task, model=str(folder), dtype=torch.float32, device="cpu", **parameters)


@torch.inference_mode()
def find_answer(model: Any, tokenizer: Any, question: str, context: str) -> str:
    """The rule of transformers' former question answering pipeline, whose function for a window is still there."""
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=WINDOW_TOKENS,
        stride=SHARED_TOKENS,
        return_overflowing_tokens=True,
    )
    found = []
    for window in encoded.encodings:
        output = model(torch.tensor([window.ids]), token_type_ids=torch.tensor([window.type_ids]))
        hidden = numpy.array([[sequence != 1 for sequence in window.sequence_ids]], int)
        hidden[0, 0] = 0  # the first token counts in the softmax
        starts, ends, scores, _ = select_starts_ends(
            output.start_logits.numpy(), output.end_logits.numpy(), hidden, numpy.array([window.attention_mask])
        )
        for start, end, score in zip(starts, ends, scores, strict=True):
            first, last = window.token_to_word(int(start)), window.token_to_word(int(end))
            found.append((score, window.word_to_chars(first, 1)[0], window.word_to_chars(last, 1)[1]))
    _, start, end = max(found)
    return context[start:end]


def read_entities(answer: Sequence[dict[str, Any]]) -> set[tuple[int, int, str]]:
    return {(entity["start"], entity["end"], entity["entity_group"]) for entity in answer}


def read_similarity(vectors: list[list[float]]) -> float:
    first, second = numpy.array(vectors)
    return float(first @ second / numpy.linalg.norm(first) / numpy.linalg.norm(second))


def accuracy(predictions: list[Any], labels: list[Any]) -> float:
    return float(accuracy_score(labels, predictions))


def exact_match(predictions: list[Any], labels: list[Any]) -> float:
    """SQuAD's: capitals, punctuation and articles do not count."""
    pairs = zip(predictions, labels, strict=True)
    return float(numpy.mean([words_of(found) == words_of(right) for found, (right,) in pairs]))


def word_f1(predictions: list[Any], labels: list[Any]) -> float:
    """SQuAD's, and ROUGE-1 of summaries: the overlap of the two bags of words."""
    pairs = zip(predictions, labels, strict=True)
    bags = [(Counter(words_of(found)), Counter(words_of(right))) for found, (right,) in pairs]
    return float(numpy.mean([2 * (one & other).total() / (one.total() + other.total()) for one, other in bags]))


def entity_f1(predictions: list[Any], labels: list[Any]) -> float:
    """CoNLL's: an entity is right if its label and both of its ends are."""
    right = [{(span["start"], span["end"], span["label"]) for span in spans} for spans in labels]
    binary = MultiLabelBinarizer().fit([*predictions, *right])
    return float(f1_score(binary.transform(right), binary.transform(predictions), average="micro"))


def spearman(predictions: list[Any], labels: list[Any]) -> float:
    return float(spearmanr(labels, predictions).statistic)


words_of = CountVectorizer(token_pattern=r"\w+", stop_words=["a", "an", "the"]).build_analyzer()
CASES = {
    "text-classification": Case(40, 0.6, predict_topics, lambda answer: answer[0][0]["label"], {"accuracy": accuracy}),
    "token-classification": Case(50, 0.4, predict_entities, read_entities, {"f1": entity_f1}),
    "question-answering": Case(
        50, 0.25, predict_answers, lambda answer: answer["answer"], {"exact_match": exact_match, "f1": word_f1}
    ),
    "feature-extraction": Case(20, 0.6, predict_similarities, read_similarity, {"spearman": spearman}, is_gated=False),
    "summarization": Case(
        100, 0.5, predict_summaries, lambda answer: answer[0]["summary_text"], {"rouge1": word_f1}, is_gated=False
    ),
}
HELD_OUT = {task: make_set(task, EXAMPLES, held_out=True) for task in CASES}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The fine-tuned checkpoint of each task."""
    root = tmp_path_factory.mktemp("fine-tuned")
    return {task: fine_tune(task, root / task, case.steps) for task, case in CASES.items()}


@pytest.fixture(scope="module")
def settings_of_all(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> RegistrySettings:
    """A registry with each of them, named like its task."""
    home = tmp_path_factory.mktemp("h")  # sockets need a short path
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    for task, folder in folders.items():
        log_model(folder, task=task, name=task, dtype="float32", settings=settings)
    return settings


@pytest.fixture(scope="module")
def promoted(settings_of_all: RegistrySettings) -> dict[str, dict[str, float]]:
    """The scores with which each was promoted; embeddings and summaries have no standard metric there."""
    versions, found = Versions(settings_of_all), {}
    for task, case in CASES.items():
        required = dict.fromkeys(case.scores, case.floor)
        evaluator = Evaluator.of(HELD_OUT[task], required) if case.is_gated else None
        move = versions.promote(task, "1", why="the first one", evaluate=evaluator)
        found[task] = move.evaluation.values if move.evaluation is not None else {}
    return found


@pytest.fixture(scope="module")
def answers(settings_of_all: RegistrySettings, promoted: object) -> dict[str, list[Any]]:
    """A server's answer to each held-out example, in order; the requests of all tasks were sent together, shuffled."""
    asked = [(task, place) for task, examples in HELD_OUT.items() for place in range(len(examples))]
    random.Random(0).shuffle(asked)
    with Server(settings_of_all.home, tuple(CASES)) as server:
        responses = ask_together(server, [(task, {"inputs": HELD_OUT[task][place].inputs}) for task, place in asked])
        for task in CASES:
            batches, rows = (server.sample(f"batch_rows_{part}", model=task) for part in ("count", "sum"))
            assert batches < rows, f"{task}: each row was alone in its batch"
    assert {response.status_code for response in responses} == {200}
    found = {key: response.json() for key, response in zip(asked, responses, strict=True)}
    return {task: [found[task, place] for place in range(len(HELD_OUT[task]))] for task in CASES}


@pytest.mark.parametrize("task", CASES)
def test_the_served_score_is_that_of_transformers(
    task: str, folders: dict[str, Path], promoted: dict[str, dict[str, float]], answers: dict[str, list[Any]]
) -> None:
    case, labels = CASES[task], [example.label for example in HELD_OUT[task]]
    predictions = case.predict(folders[task], HELD_OUT[task])
    served = [case.read(answer) for answer in answers[task]]
    for metric, score in case.scores.items():
        expected = score(predictions, labels)
        assert case.floor < expected < 1, metric
        assert score(served, labels) == pytest.approx(expected, abs=THREE_DIGITS), metric
        if case.is_gated:
            assert promoted[task][metric] == pytest.approx(expected, abs=THREE_DIGITS), metric
