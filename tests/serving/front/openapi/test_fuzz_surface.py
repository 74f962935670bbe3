"""Requests that schemathesis draws from the document: no server error, no traceback, answers as described.

`HEADWAITER_FUZZ_CASES` is the number of requests; `python -m bench fuzz` sends more, to a real server.
"""

import asyncio
import os

import httpx
import pytest
import requests

from bench.fuzz_cases import fuzz
from serving.front.app import DataPlane
from serving.front.front import Front
from tests.serving.front.openapi.surface import DOCUMENT, OWN, Inner
from tests.serving.front.task_fronts import RANKER, TASKS

CASES = int(os.environ.get("HEADWAITER_FUZZ_CASES") or 300)


@pytest.mark.sweep
def test_drawn_requests_are_answered_as_described(front: Front) -> None:
    document = DOCUMENT | {"paths": {route.path: DOCUMENT["paths"][route.path] for route in OWN}}
    transport = httpx.ASGITransport(DataPlane(front, Inner()))
    client = httpx.AsyncClient(transport=transport)
    with asyncio.Runner() as runner:

        def send(sent: requests.PreparedRequest) -> httpx.Response:
            asked = client.request(sent.method or "", sent.url or "", headers=dict(sent.headers), content=sent.body)
            return runner.run(asked)

        ledger = fuzz(document, {task: task for task in TASKS} | {RANKER: "text-classification"}, send, CASES)
    assert ledger.faults == {}
    assert ledger.count == CASES
    reached = sum(times for (label, status), times in ledger.answers.items() if status == 200 and label[:4] == "POST")
    assert reached > CASES // 20  # the others break rules of their own: the answer is a refusal
