"""Generated data sets, one a task, each with training examples and held-out ones that hold words never trained on.

Every set is a function of a random generator. Inputs are requests' inputs, labels are in the form that
`serving.evaluation` reads; a pair of sentences has its similarity, 0 to 1, as its label. Held-out texts have
all lengths.
"""

import random
from collections.abc import Callable
from typing import Any

from serving.evaluation import Labelled

VOCABULARY = """
sport: goal match referee striker league coach stadium medal tennis relay penalty sprint cyclist trophy
food: soup oven baker recipe butter dinner garlic salad kitchen cheese pepper noodle dessert lunch
travel: ferry airport luggage hotel passport train beach island tourist visa cruise compass harbour hostel
money: invoice loan bank interest budget mortgage dividend tax salary broker debt pension coin receipt
first: Ada Omar Jordan Mina Paul Florence Igor Chloe Dylan Rosa Hugo Madison Selma Austin Kofi Greta
last: Lovelace Haddad Berger Okoye Moreau Silva Novak Wells Larsen Rossi Tanaka Quinn Foster Mbeki
city: Paris Oslo Jordan Lima Florence Cairo Boston Madison Quito Austin Dublin Seoul Hanoi Turin Perth Lagos
firm: Acme Globex Initech Umbrella Hooli Vandelay Stark Wayne Tyrell Cyberdyne Soylent Wonka
day: Monday Tuesday Wednesday Thursday Friday Saturday Sunday
number: two three five seven nine eleven twelve twenty thirty forty
thing: parrots lamps kites boats clocks violins carpets mirrors ladders tents bells mugs
colour: red blue green yellow black white purple orange
"""
WORDS = {kind: words.split() for kind, words in (line.split(": ") for line in VOCABULARY.strip().splitlines())}
TOPICS = ("food", "money", "sport", "travel")
TRAINED_WORDS = 5
"""Of each topic's words; the others are in held-out texts alone."""

TOLD = "They spoke of the {}."
SUMMARIES = {
    "food": "a talk about soup and dinner",
    "money": "they spoke of banks and debt",
    "sport": "news from the league and its coach",
    "travel": "on the way by train or ferry",
}
"""What a text says, by its topic."""

ENTITY_FORMS = (
    "{PER} flew to {LOC} for {ORG}",
    "{ORG} hired {PER} last week",
    "the office of {ORG} in {LOC} is closed",
    "{PER} and {PER} met in {LOC}",
)
HELD_OUT_ENTITY_FORMS = (
    *ENTITY_FORMS,
    "a letter from {PER} arrived at {ORG}",
    "{LOC} welcomed {PER} after the talks with {ORG}",
    "according to {PER} the shares of {ORG} fell",
)
FACTS = ("On {day}, {name} sold {number} {thing} in {city}.", "In {city}, {name} sold {number} {thing} on {day}.")
HELD_OUT_FACTS = (*FACTS, "{name}, who was in {city} on {day}, sold {number} {thing} to a friend.")
QUESTIONS = {
    "name": "Who sold the {thing}?",
    "city": "In which city were the {thing} sold?",
    "day": "When were the {thing} sold?",
    "number": "How many {thing} were sold?",
}
FILLER = (
    "The rest of the page is about the weather of the week before.",
    "Nothing else of note was written down.",
    "It was quiet, and the doors stood open until late.",
    "Some say that it could have been otherwise.",
    "The clerk kept a copy for the files.",
)
Maker = Callable[[random.Random, bool], Labelled]


def make_set(task: str, count: int, *, held_out: bool) -> list[Labelled]:
    """That many examples of the task's set; the same ones each time."""
    rng = random.Random(f"{task} {held_out}")
    return [MAKERS[task](rng, held_out) for _ in range(count)]


def make_topic(rng: random.Random, held_out: bool) -> Labelled:
    """A text with more words of its label's topic than of another one."""
    label, other = rng.sample(TOPICS, 2)
    words = {name: WORDS[name] if held_out else WORDS[name][:TRAINED_WORDS] for name in (label, other)}
    chosen = rng.sample(words[label], 3) + rng.sample(words[other], rng.randint(0, 2))
    rng.shuffle(chosen)
    return Labelled(_fill(rng, held_out, TOLD.format(", the ".join(chosen))), label)


def make_summary(rng: random.Random, held_out: bool) -> Labelled:
    """A text as `make_topic` makes it, and what it says."""
    told = make_topic(rng, held_out)
    return Labelled(told.inputs, [SUMMARIES[told.label]])


def make_entities(rng: random.Random, held_out: bool) -> Labelled:
    """A text with people, places and firms; some names are both of a person and of a place."""
    spans: list[dict[str, Any]] = []
    text = _fill(rng, held_out, "")
    text += " " if text else ""
    for piece in rng.choice(HELD_OUT_ENTITY_FORMS if held_out else ENTITY_FORMS).split():
        kind = piece.strip("{}")
        if kind == piece:
            text += piece + " "
            continue
        name = _name(rng, kind, held_out)
        spans.append({"start": len(text), "end": len(text) + len(name), "label": kind})
        text += name + " "
    return Labelled(text.rstrip() + ".", spans)


def make_question(rng: random.Random, held_out: bool) -> Labelled:
    """A question about one of two facts that differ in everything."""
    drawn = {kind: rng.sample(WORDS[kind], 2) for kind in ("day", "number", "thing")}
    drawn["name"], drawn["city"] = (rng.sample(_known(kind, held_out), 2) for kind in ("first", "city"))
    facts = [{kind: pair[place] for kind, pair in drawn.items()} for place in range(2)]
    for fact in facts:
        fact["name"] += " " + rng.choice(_known("last", held_out))
    forms = HELD_OUT_FACTS if held_out else FACTS
    told = [_fill(rng, held_out, rng.choice(forms).format(**fact)) for fact in facts]
    asked, wanted = rng.choice(facts), rng.choice(sorted(QUESTIONS))
    question = QUESTIONS[wanted].format(**asked)
    return Labelled({"question": question, "context": " ".join(told)}, [asked[wanted]])


def make_pair(rng: random.Random, held_out: bool) -> Labelled:
    """Two sentences about things; how alike they are is which of colour, number and place they share."""
    known = {"colour": WORDS["colour"], "number": WORDS["number"], "city": _known("city", held_out)}
    first, fresh = ({kind: rng.choice(words) for kind, words in known.items()} for _ in range(2))
    kept = set(rng.sample(sorted(first), rng.randint(0, 3)))
    second = {key: first[key] if key in kept else fresh[key] for key in first}
    weights = {"colour": 0.5, "number": 0.3, "city": 0.2}
    alike = sum(weight for key, weight in weights.items() if first[key] == second[key])
    texts = [
        _fill(rng, held_out, f"{side['number']} {side['colour']} {rng.choice(WORDS['thing'])} in {side['city']}")
        for side in (first, second)
    ]
    return Labelled(texts, alike)


MAKERS: dict[str, Maker] = {
    "text-classification": make_topic,
    "token-classification": make_entities,
    "question-answering": make_question,
    "feature-extraction": make_pair,
    "summarization": make_summary,
}


def texts_of_summaries() -> list[str]:
    """Texts that hold every word of `make_summary`."""
    return [*(word for topic in TOPICS for word in WORDS[topic]), *FILLER, TOLD.format(", "), *SUMMARIES.values()]


def _name(rng: random.Random, kind: str, held_out: bool) -> str:
    """A person (of one or two words), place or firm."""
    if kind != "PER":
        return rng.choice(_known("city" if kind == "LOC" else "firm", held_out))
    first = rng.choice(_known("first", held_out))
    return f"{first} {rng.choice(_known('last', held_out))}" if rng.random() < 0.7 else first


def _known(kind: str, held_out: bool) -> list[str]:
    """The words of a kind of name: training has the first half of them."""
    return WORDS[kind] if held_out else WORDS[kind][: len(WORDS[kind]) // 2]


def _fill(rng: random.Random, held_out: bool, text: str) -> str:
    """The text behind sentences of no meaning: rarely one in training; 36 of them are longer than a QA window."""
    count = rng.choice((0, 0, 0, 0, 1, 1, 2, 2, 4, 4, 8, 36) if held_out else (0, 0, 0, 1))
    return " ".join([*rng.choices(FILLER, k=count), text]).strip()
