"""MLflow's webhooks: a signed `POST /hooks/mlflow` says that the registry changed, and the manager looks at once.

Only signed hooks are accepted. A hook only triggers a poll of the registry, which stays the source of truth: a lost,
late, repeated or reordered hook does no harm.
"""

import hmac
import logging
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256

import msgspec

from serving.errors import Malformed, NotReady, ServingError, Unauthorized, UnknownModel, WrongMethod
from serving.front.asgi import JSON, JsonObject, Receive, Scope, Send, encode_json, read_body, refuse, respond
from serving.front.request_context import RequestContext
from serving.settings import ServingSettings

logger = logging.getLogger("headwaiter.front")

MAX_BODY_BYTES = 64 * 1024
WINDOW_SECONDS = 300
"""How much a hook's timestamp may differ from this clock. MLflow (3.17) signs once and retries for three minutes."""
LOG_SECONDS = 60.0
"""How often refused hooks are logged at most, because anybody can send them."""


class Subject(msgspec.Struct):
    """The event's subject. name: of the registered model."""

    name: str


class Event(msgspec.Struct):
    """The fields of a webhook's body that are read (MLflow 3.17, `mlflow/webhooks/types.py`)."""

    entity: str
    action: str
    data: Subject


class Hooks:
    """The route of one front worker."""

    def __init__(self, settings: ServingSettings, nudge: Callable[[], None]) -> None:
        """nudge: makes the manager look at the registry; raises OSError where no manager is."""
        self._settings = settings
        self._nudge = nudge
        self._log_at = 0.0

    @property
    def are_signed(self) -> bool:
        """Whether hooks are received; their signature lets them in, as MLflow sends no key."""
        return bool(self._settings.webhook_secret)

    def describe(self, error: ServingError) -> JsonObject:
        """The body of an error."""
        return {"error": error.message, "error_type": error.reason}

    async def __call__(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 202 for a signed hook, whether or not this server has the model."""
        context = RequestContext.read(scope["headers"])
        try:
            event = _parse(await self._read(parts, scope, receive))
            is_served = self._concerns(event.data.name)
            if is_served:
                self._nudge()
            await respond(
                send, 202, encode_json({"model": event.data.name, "served": is_served}), [JSON, context.header]
            )
        except ServingError as error:
            await self._refuse(send, error, context)
        except OSError:
            gone = NotReady("the manager is not there now; its next poll follows the change", retry_seconds=1.0)
            await self._refuse(send, gone, context)

    async def _read(self, parts: list[str], scope: Scope, receive: Receive) -> bytes:
        """Read the body and check its signature."""
        if parts != ["hooks", "mlflow"]:
            raise UnknownModel("there is no such route; POST /hooks/mlflow")
        secret = self._settings.webhook_secret
        if not secret:
            raise UnknownModel("webhooks are not received here: set HEADWAITER_WEBHOOK_SECRET to the webhook's secret")
        if scope["method"] != "POST":
            raise WrongMethod(scope["method"], "POST")
        headers = dict(scope["headers"])
        check_signature_is_there(headers)
        body = await read_body(scope, receive, MAX_BODY_BYTES)
        check_signature(secret, headers, body, time.time())
        return body

    def _concerns(self, name: str) -> bool:
        """Whether the hook's model is served; if deployments are followed, any model may be."""
        models = self._settings.models
        return self._settings.deployments or any(reference.name == name for reference in models)

    async def _refuse(self, send: Send, error: ServingError, context: RequestContext) -> None:
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            logger.warning("a webhook was refused with %d: %s", error.status, error.message)
        await refuse(send, error, context, encode_json(self.describe(error)))


WRONG_SIGNATURE = (
    "the webhook's X-MLflow-Signature is missing or wrong: give the webhook in MLflow the secret that this "
    "server has in HEADWAITER_WEBHOOK_SECRET"
)


def check_signature_is_there(headers: dict[bytes, bytes]) -> None:
    """Raise Unauthorized for a hook without a signature, whose body nobody needs to read."""
    if not headers.get(b"x-mlflow-signature"):
        raise Unauthorized(WRONG_SIGNATURE)


def check_signature(secret: str, headers: dict[bytes, bytes], body: bytes, now: float) -> None:
    """Raise Unauthorized unless the hook is signed with the secret and recent.

    headers: names in lower case. now: seconds since the epoch. The scheme is MLflow's (3.17, `mlflow/webhooks/
    delivery.py`): HMAC-SHA256 over `delivery id.timestamp.body`, in base64 after `v1,`. Takes constant time.
    """
    signature = headers.get(b"x-mlflow-signature", b"")
    delivery = headers.get(b"x-mlflow-delivery-id", b"")
    timestamp = headers.get(b"x-mlflow-timestamp", b"")
    signed = hmac.new(secret.encode(errors="surrogateescape"), b".".join((delivery, timestamp, body)), sha256).digest()
    if not hmac.compare_digest(b"v1," + b64encode(signed), signature):
        raise Unauthorized(WRONG_SIGNATURE)
    sent = int(timestamp) if timestamp.isdigit() and len(timestamp) < 20 else 0
    if abs(now - sent) > WINDOW_SECONDS:
        raise Unauthorized(
            f"the webhook's X-MLflow-Timestamp is more than {WINDOW_SECONDS} s from this server's time: "
            "if this is no replay, set both machines' clocks"
        )


def _parse(body: bytes) -> Event:
    try:
        return msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(
            f'the body is no webhook of MLflow\'s ({error}): it is {{"entity": …, "action": …, "data": {{"name": …}}}}'
        ) from error
