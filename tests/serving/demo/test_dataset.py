"""The demonstration's data set: balanced, repeatable, and apart from the sentences that judge it."""

from collections import Counter

import pytest

from serving.demo.dataset import EVALUATION, EXAMPLES_PER_LABEL, LABELS, TEMPLATES, normalised, training_examples
from serving.demo.held_out import HELD_OUT

SEEDS = (0, 1, 2)


def test_labels_are_those_of_the_templates_and_of_the_held_out_requests() -> None:
    assert set(LABELS) == set(TEMPLATES) == set(HELD_OUT)
    assert list(LABELS) == sorted(LABELS)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_label_has_the_same_number_of_training_examples(seed: int) -> None:
    counts = Counter(example.label for example in training_examples(seed))
    assert counts == dict.fromkeys(LABELS, EXAMPLES_PER_LABEL)


def test_every_label_has_the_same_number_of_evaluation_examples() -> None:
    counts = Counter(example.label for example in EVALUATION)
    assert set(counts) == set(LABELS)
    assert len(set(counts.values())) == 1
    assert len(EVALUATION) >= 100


def test_a_seed_always_gives_the_same_list_and_another_seed_another() -> None:
    assert training_examples(3) == training_examples(3)
    assert training_examples(3) != training_examples(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_training_examples_are_alike(seed: int) -> None:
    counts = Counter(normalised(example.text) for example in training_examples(seed))
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_no_evaluation_sentence_is_trained_on(seed: int) -> None:
    judged = {normalised(example.text) for example in EVALUATION}
    assert len(judged) == len(EVALUATION)
    assert judged.isdisjoint(normalised(example.text) for example in training_examples(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_evaluation_sentence_is_part_of_a_training_example(seed: int) -> None:
    trained = [f" {normalised(example.text)} " for example in training_examples(seed)]
    judged = [f" {normalised(example.text)} " for example in EVALUATION]
    assert [text for text in judged if any(text in longer for longer in trained)] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_templates_leave_no_mark_in_the_text(seed: int) -> None:
    for example in training_examples(seed):
        assert not set("[]{}|") & set(example.text)
        assert example.text == " ".join(example.text.split())
        assert normalised(example.text)


def test_every_prefix_is_a_fair_sample_of_the_labels() -> None:
    half = training_examples(0)[: len(LABELS) * EXAMPLES_PER_LABEL // 2]
    counts = Counter(example.label for example in half)
    assert all(0.7 * EXAMPLES_PER_LABEL / 2 < counts[label] < 1.3 * EXAMPLES_PER_LABEL / 2 for label in LABELS)


def test_normalised_ignores_case_and_punctuation() -> None:
    assert normalised("  Refund, PLEASE!! ") == normalised("refund please")
