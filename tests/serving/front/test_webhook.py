import asyncio
import hmac
import logging
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from registry.references import Reference
from registry.settings import RegistrySettings
from serving.front.webhook import MAX_BODY_BYTES, WINDOW_SECONDS, Hooks
from serving.settings import ServingSettings
from serving.wire.routing_table import TableFile

SECRET = "a secret that only MLflow knows"
MOVED = b'{"entity": "model_version_alias", "action": "created", "data": {"name": "m", "alias": "champion"}}'


def sign(body: bytes, *, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """The headers as MLflow's own code makes them."""
    timestamp = str(int(time.time() if at is None else at))
    signature = _generate_hmac_signature(secret, "an-id", timestamp, body.decode())
    return {"X-MLflow-Signature": signature, "X-MLflow-Delivery-Id": "an-id", "X-MLflow-Timestamp": timestamp}


class Receiver:
    """The route on a server of the model "m", and what the manager would see of it."""

    def __init__(self, run: Path, **settings: Any) -> None:
        settings = {"webhook_secret": SECRET, **settings}
        models = (Reference("m", alias="champion"),)
        self._file = TableFile(run)
        hooks = Hooks(ServingSettings(RegistrySettings(run, ""), models, run, **settings), self._file.nudge)
        self._app: Any = partial(hooks, ["hooks", "mlflow"])

    def send(self, body: bytes = MOVED, headers: dict[str, str] | None = None, method: str = "POST") -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                own = sign(body) if headers is None else headers
                return await client.request(method, "/hooks/mlflow", content=body, headers=own)

        return asyncio.run(run())

    def was_nudged(self) -> bool:
        return self._file.was_nudged()


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path)


def test_a_signed_hook_makes_the_manager_look(receiver: Receiver) -> None:
    assert not receiver.was_nudged()
    answer = receiver.send()
    assert (answer.status_code, answer.json()) == (202, {"model": "m", "served": True})
    assert receiver.was_nudged()
    assert not receiver.was_nudged()


def test_each_of_two_nudges_in_one_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    file = TableFile(tmp_path)
    for _ in range(100):
        file.nudge()
        assert file.was_nudged()


@pytest.mark.parametrize(
    ("make_headers", "cause"),
    [
        (dict, "X-MLflow-Signature"),
        (lambda: sign(MOVED, secret="another"), "X-MLflow-Signature"),
        (lambda: sign(MOVED.replace(b'"m"', b'"n"')), "X-MLflow-Signature"),
        (lambda: sign(MOVED) | {"X-MLflow-Timestamp": "1"}, "X-MLflow-Signature"),
        (lambda: sign(MOVED) | {"X-MLflow-Delivery-Id": "other"}, "X-MLflow-Signature"),
        (lambda: sign(MOVED, at=time.time() - WINDOW_SECONDS - 5), "X-MLflow-Timestamp"),
        (lambda: sign(MOVED, at=time.time() + WINDOW_SECONDS + 60), "X-MLflow-Timestamp"),
        (lambda: sign(MOVED, at=10**30), "X-MLflow-Timestamp"),
    ],
    ids=["none", "secret", "body", "timestamp", "id", "replayed", "from the future", "no time"],
)
def test_an_unsigned_altered_or_replayed_hook_gets_401(
    receiver: Receiver, make_headers: Callable[[], dict[str, str]], cause: str
) -> None:
    answer = receiver.send(headers=make_headers())
    assert (answer.status_code, answer.json()["error_type"]) == (401, "unauthorized")
    assert cause in answer.json()["error"]
    assert not receiver.was_nudged()


def test_a_timestamp_that_is_no_number_gets_401(receiver: Receiver) -> None:
    signed = hmac.new(SECRET.encode(), b"an-id.soon." + MOVED, sha256).digest()
    headers = {"X-MLflow-Signature": f"v1,{b64encode(signed).decode()}", "X-MLflow-Delivery-Id": "an-id"}
    assert receiver.send(headers=headers | {"X-MLflow-Timestamp": "soon"}).status_code == 401


def test_a_model_that_is_not_served_is_no_reason_to_look(receiver: Receiver, tmp_path: Path) -> None:
    other = MOVED.replace(b'"m"', b'"example_model"')
    answer = receiver.send(other)
    assert (answer.status_code, answer.json()["served"]) == (202, False)
    assert not receiver.was_nudged()
    follower = Receiver(tmp_path, deployments=True)
    assert follower.send(other).json()["served"] is True
    assert follower.was_nudged()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b'{"entity": "x", "action": "y", "data": {}}', b"[" * 50_000]
)
def test_a_signed_body_of_another_form_gets_400(receiver: Receiver, body: bytes) -> None:
    answer = receiver.send(body)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "malformed")
    assert not receiver.was_nudged()


def test_a_body_past_the_bound_gets_413_and_another_method_405(receiver: Receiver) -> None:
    assert receiver.send(b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert receiver.send(method="GET").status_code == 405


def test_without_a_secret_there_is_no_such_route(tmp_path: Path) -> None:
    answer = Receiver(tmp_path, webhook_secret="").send()
    assert (answer.status_code, answer.json()["error_type"]) == (404, "unknown_model")
    assert "HEADWAITER_WEBHOOK_SECRET" in answer.json()["error"]


def test_without_a_manager_the_sender_is_told_to_try_again(tmp_path: Path) -> None:
    answer = Receiver(tmp_path / "gone").send()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_refusals_are_logged_once_a_while_and_never_with_the_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("headwaiter.front")
    logger.addHandler(caplog.handler)
    try:
        for _ in range(3):
            receiver.send(headers=sign(MOVED, secret="another"))
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.text.count("a webhook was refused with 401") >= 1
    assert len({record.created for record in caplog.records}) == 1
    assert SECRET not in caplog.text
    assert SECRET not in repr(ServingSettings(RegistrySettings(Path(), ""), (), Path(), webhook_secret=SECRET))
