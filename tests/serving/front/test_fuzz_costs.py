"""The worst requests for their size: a search for bodies with the most rows, the largest answers and the most memory.

Bodies of up to 1 MB must stay within the bounds of a request, and a front within 200 MiB more. By default both are 1/64
of that, so that a case takes milliseconds. `HEADWAITER_FUZZ_CASES` is the number of cases at full size.
"""

import asyncio
import base64
import gc
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

from serving.front.app import DataPlane
from serving.front.front import Front
from serving.tasks import get_task
from serving.tasks.base.bounds import RequestBounds
from serving.tasks.base.columns import parts_of
from tests.serving.front.local_front import make_front
from tests.serving.front.task_fronts import TASKS, TaskLink, no_other_app, png, serve_tasks

GIVEN = os.environ.get("HEADWAITER_FUZZ_CASES")
CASES = int(GIVEN or 150) // len(TASKS) + 1
"""For each task."""
SCALE = 1 if GIVEN else 64
MAX_BODY_BYTES = 2**20 // SCALE
MAX_GROWTH_BYTES = 200 * 2**20 // SCALE
OWN_BYTES = 2**20
"""What a front allocates for any request, and once: metrics, caches of words, buffers of a task's arrays."""

Json = Any
counts = st.integers(1, 4000).map(lambda count: max(1, count * 64 // SCALE // 8))
units = st.sampled_from(["a ", "[MASK] ", "word ", "x", "\u2603", "\U0001f642 ", "{}", "\n", '"'])
short = st.builds(lambda unit, count: unit * count, units, st.integers(1, 8))
texts = short | st.builds(lambda unit, count: unit * count, units, counts)
sides = st.sampled_from(["left", "right"])
cut = {"truncate": st.booleans() | st.integers(1, 600), "truncation_direction": sides}


def listed(entries: st.SearchStrategy[Json], longest: int) -> st.SearchStrategy[Json]:
    """Draw a list of 1 to `longest` copies of one entry, each with its number appended."""
    return st.builds(
        lambda entry, count: [f"{entry}{number}" for number in range(count)], entries, st.integers(1, longest)
    )


def record(**fields: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries(fields)


numbers = st.integers(1, 600)
ITEMS: dict[str, st.SearchStrategy[Json]] = {
    "text-classification": texts | record(text=texts, text_pair=texts) | record(query=texts, texts=listed(short, 4000)),
    "question-answering": record(question=texts, context=texts),
    "multiple-choice": record(prompt=texts, choices=listed(short, 256)),
    "next-sentence-prediction": record(text=texts, text_pair=texts),
    "feature-extraction": texts | record(source_sentence=texts, sentences=listed(short, 4000)),
    "fill-mask": st.builds(lambda count, text: "[MASK] " * count + text, st.integers(1, 9) | numbers, texts),
    "image-classification": st.builds(
        lambda width, height: base64.b64encode(png(width, height)).decode(),
        st.integers(1, 5000),
        st.sampled_from([1, 2, 16, 500]),
    ),
}
"""Of the other tasks an item is a text."""
generation = {
    "n": st.integers(1, 16),
    "max_new_tokens": numbers,
    "top_n_tokens": st.integers(0, 20),
    "details": st.booleans(),
    "stop": listed(short, 16),
    **cut,
}
PARAMETERS: dict[str, dict[str, st.SearchStrategy[Json]]] = {
    "text-classification": {"top_k": numbers, "return_text": st.booleans(), **cut},
    "token-classification": {
        "aggregation_strategy": st.sampled_from(["none", "simple", "average", "max"]),
        "ignore_labels": st.just([]) | listed(short, 1100),
        "stride": st.integers(0, 600),
        **cut,
    },
    "question-answering": {
        "top_k": st.integers(1, 100),
        "max_answer_len": st.integers(1, 600),
        "max_seq_len": numbers,
        "doc_stride": st.integers(0, 600),
        "handle_impossible_answer": st.booleans(),
    },
    "fill-mask": {"top_k": st.integers(1, 100), "targets": listed(short, 1100), **cut},
    "feature-extraction": {
        "pooling": st.sampled_from(["raw", "mean"]) | st.just(["mean", "cls", "last", "max"]),
        "normalize": st.booleans(),
        "dimensions": st.integers(1, 768),
        **cut,
    },
    "zero-shot-classification": {
        "candidate_labels": listed(short, 9) | listed(texts, 600),
        "hypothesis_template": texts.map(lambda text: text + "{}"),
        "multi_label": st.booleans(),
        **cut,
    },
    "text-generation": {"return_full_text": st.booleans(), **generation},
    "summarization": {"num_beams": st.integers(1, 16), **generation},
    "image-classification": {"top_k": st.integers(1, 1000)},
}


@dataclass
class Asked:
    """A request and how it is sent."""

    path: str
    body: bytes = field(repr=False)


def huggingface(task: str, items: list[Json], parameters: Json) -> Asked:
    return Asked(f"/models/{task}", encode({"inputs": items, "parameters": parameters}))


def single(task: str, items: list[Json], parameters: Json) -> Asked:
    return Asked(f"/models/{task}", encode({"inputs": items[0], "parameters": parameters}))


def mlflow(task: str, items: list[Json], parameters: Json) -> Asked:
    return Asked(f"/invocations/{task}", encode({"instances": items, "params": parameters}))


def columns(task: str, items: list[Json], parameters: Json) -> Asked:
    rows = [item if isinstance(item, dict) else {"text": item} for item in items]
    split = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    return Asked(f"/invocations/{task}", encode({"dataframe_split": split, "params": parameters}))


def kserve(task: str, items: list[Json], parameters: Json) -> Asked:
    tensors = []
    for name in items[0] if isinstance(items[0], dict) else ["text"]:
        values = [item[name] if isinstance(item, dict) else item for item in items]
        shape = [len(values)] + ([len(values[0])] if parts_of(get_task(task)).get(name) else [])
        tensors.append({"name": name, "shape": shape, "datatype": "BYTES", "data": values})
    body = {"inputs": tensors, "parameters": parameters}
    return Asked(f"/v2/models/{task}/infer", encode(body))


def openai(task: str, items: list[Json], parameters: Json) -> Asked:
    beside = {"model": task, **parameters}
    if task == "feature-extraction":
        return Asked("/v1/embeddings", encode({**beside, "input": items}))
    beside["logprobs"] = beside.pop("top_n_tokens", None)
    return Asked("/v1/completions", encode({**beside, "prompt": items, "details": None}))


def chat(task: str, items: list[Json], parameters: Json) -> Asked:
    messages = [{"role": "user", "content": item} for item in items]
    top = parameters.pop("top_n_tokens", None)
    more = {"logprobs": True, "top_logprobs": top} if top is not None else {}
    return Asked("/v1/chat/completions", encode({"model": task, "messages": messages, **parameters, **more}))


def routes(task: str) -> list[Callable[[str, list[Json], Json], Asked]]:
    """The ways to ask a model of the task."""
    found = [huggingface, single, mlflow, columns, kserve]
    if task in ("feature-extraction", "text-generation"):
        found.append(openai)
    return [*found, chat] if task == "text-generation" else found


def encode(body: Json) -> bytes:
    return json.dumps(body).encode()


@st.composite
def requests(draw: st.DrawFn, task: str) -> Asked:
    """A request of a task by any route."""
    route = draw(st.sampled_from(routes(task)))
    item = draw(ITEMS.get(task, texts))
    items = [item] * draw(st.integers(1, 4) | st.integers(1, 1100))
    asked = route(task, items[:1], {})
    items = items[: max(1, MAX_BODY_BYTES // (2 * len(asked.body)))]
    parameters = draw(st.fixed_dictionaries({}, optional=PARAMETERS.get(task, cut)))
    return route(task, items, parameters)


class Measured:
    """A front of all tasks, of which each request is measured."""

    def __init__(self, run: Path) -> None:
        self.front: Front = make_front(run, max_rows=1024 // SCALE, timeout_seconds=3600)
        self.links: dict[str, TaskLink] = serve_tasks(self.front, TASKS)
        whole = RequestBounds.of(self.front.settings)
        self.bounds = self.front.bounds = self.front._attempts._bounds = RequestBounds(
            whole.rows, *(value // SCALE for value in (whole.characters, whole.pixel_bytes, whole.answer_bytes))
        )
        self._app = DataPlane(self.front, no_other_app)

    def ask(self, asked: Asked) -> tuple[int, int, int, int]:
        """Status, bytes of the answer, rows that the engine got, and bytes that the front grew by at most."""
        for link in self.links.values():
            link.rows.clear()
        gc.collect()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        status, size = asyncio.run(self._send(asked))
        _, peak = tracemalloc.get_traced_memory()
        return status, size, sum(len(link.rows) for link in self.links.values()), peak - before

    async def _send(self, asked: Asked) -> tuple[int, int]:
        status = size = 0
        left = asyncio.Event()

        async def receive() -> Any:
            if not bodies:
                await left.wait()
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))

        bodies = [asked.body]
        scope = {"type": "http", "method": "POST", "path": asked.path, "headers": []}
        await self._app(scope, receive, send)
        return status, size


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    found = Measured(tmp_path_factory.mktemp("run"))
    gc.collect()
    gc.freeze()  # what is imported need not be looked at for each request
    tracemalloc.start()
    yield found
    tracemalloc.stop()
    gc.unfreeze()
    found.front.routing.close()


@pytest.mark.sweep
@pytest.mark.parametrize("task", TASKS)
def test_no_body_comes_to_more_than_a_request_may(measured: Measured, task: str) -> None:
    seen: set[int] = set()

    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize=not GIVEN,
        database=None,
        phases=(Phase.generate, Phase.target),  # a bad request says enough as it is, and shrinking it takes long
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(task))
    def check(asked: Asked) -> None:
        if len(asked.body) > MAX_BODY_BYTES:
            return
        status, size, rows, growth = measured.ask(asked)
        seen.add(status)
        target(rows / len(asked.body), label="rows for each byte")
        target(size / len(asked.body), label="bytes of the answer for each byte")
        target(growth / len(asked.body), label="bytes of memory for each byte")
        target(float(growth), label="bytes of memory")
        assert status in (200, 400, 413, 422), asked.path
        assert rows <= measured.bounds.rows
        assert size <= measured.bounds.answer_bytes
        assert growth < MAX_GROWTH_BYTES + OWN_BYTES, (asked.path, asked.body[:300], len(asked.body), rows, size)

    check()
    assert 200 in seen, "the search reaches answers"
