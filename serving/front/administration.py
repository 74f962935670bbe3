"""`/admin/models/{name}/…`: what an operator reads and changes in the registry, through the manager.

Changes take an operator's key, also on a server without keys: whoever reaches it could otherwise move aliases in the
registry with the server's rights, and so could any page that the browser of its user visits.
"""

import asyncio
from pathlib import Path

import msgspec

from registry.settings import check_model_name
from serving.errors import (
    DeadlineExceeded,
    Failed,
    Forbidden,
    NotReady,
    Overloaded,
    ServingError,
    UnknownModel,
    Unprocessable,
)
from serving.front.asgi import JsonObject, Receive, Scope, Send, encode_json, refuse
from serving.front.front import Front
from serving.front.protocols.base import Exchange, as_error, no_route
from serving.front.protocols.forms import read_form, read_json
from serving.front.request_context import RequestContext
from serving.wire.registry_orders import (
    BODIES,
    MAX_ORDER_BYTES,
    OrderAction,
    Outcome,
    ReadOrder,
    RegistryOrder,
    address_of,
)

ACTIONS: dict[tuple[str, ...], dict[str, OrderAction]] = {
    ("history",): {"GET": "history"},
    ("promote",): {"POST": "promote"},
    ("rollback",): {"POST": "rollback"},
    ("rollout",): {"GET": "rollout", "POST": "start"},
    ("rollout", "pause"): {"POST": "pause"},
    ("rollout", "resume"): {"POST": "resume"},
    ("rollout", "abort"): {"POST": "abort"},
    ("rollout", "finish"): {"POST": "finish"},
}
"""The segments after the model's name, and by method what they mean."""
ORDER_SECONDS = 600.0
"""How long a change may take: a promotion fetches the version's files and hashes them. Untuned."""
MAX_ORDERS = 16
"""In progress at once in a front: each takes a descriptor of the manager, which does four at a time."""


class Administration:
    """The routes of one front."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._orders = 0

    async def __call__(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. parts: the segments of its path, `admin` included."""
        exchange = Exchange(scope, receive, send, RequestContext.read(scope["headers"]))
        try:
            answer = await self._answer(parts, exchange)
            await exchange.respond(answer, (b"content-type", b"application/json"), (b"cache-control", b"no-store"))
        except Exception as raised:  # the edge, as for every protocol
            error = as_error(raised, exchange.context)
            await refuse(send, error, exchange.context, encode_json(self.describe(error)))

    def describe(self, error: ServingError) -> JsonObject:
        """The body of an error."""
        return {"error": error.message, "error_type": error.reason}

    async def _answer(self, parts: list[str], exchange: Exchange) -> bytes:
        methods = ACTIONS.get(tuple(parts[3:])) if parts[1:2] == ["models"] and len(parts) > 3 else None
        if methods is None:
            raise no_route("GET /admin/models/{name}/history, or GET and POST /admin/models/{name}/rollout")
        exchange.expect(*methods)
        action = methods["GET" if exchange.scope["method"] == "HEAD" else exchange.scope["method"]]
        access, name = self._front.access, parts[2]
        access.check_model(name)
        access.check_admin(f"/{'/'.join(parts[:2])}")
        if BODIES[action] is not ReadOrder and access.is_open:
            raise Forbidden(
                "this server has no keys, so that it cannot tell who asks: start it with HEADWAITER_KEYS_FILE and show "
                "a key that was made with --admin, or use the headwaiter command"
            )
        if name not in self._front.models.all():
            raise UnknownModel(f"this server has no model {name!r}; GET /models lists them")
        body = await self._body(action, exchange)
        order = RegistryOrder(
            action=action, name=check_model_name(name), who=access.caller().name, body=msgspec.Raw(body)
        )
        return bytes(_answer_of(await self._ask_manager(order)))

    async def _ask_manager(self, order: RegistryOrder) -> Outcome:
        if self._orders >= MAX_ORDERS:
            raise Overloaded(
                f"{MAX_ORDERS} operators' requests are in progress, as many as may be: try again", retry_seconds=1.0
            )
        settings = self._front.settings
        self._orders += 1
        try:
            seconds = settings.timeout_seconds if BODIES[order.action] is ReadOrder else ORDER_SECONDS
            return await ask_manager(settings.run, order, seconds)
        finally:
            self._orders -= 1

    async def _body(self, action: OrderAction, exchange: Exchange) -> bytes:
        """The checked body. Raises Malformed, Unprocessable, TooLarge."""
        if BODIES[action] is ReadOrder:
            return b"{}"
        if exchange.header(b"content-type").split(";")[0].strip().lower() != "application/json":
            raise Unprocessable("content-type: send application/json", field="content-type")
        found = read_form(read_json(await exchange.body(MAX_ORDER_BYTES // 2)), BODIES[action])
        return encode_json(found)


async def ask_manager(run: Path, order: RegistryOrder, seconds: float = ORDER_SECONDS) -> Outcome:
    """Let the manager do an order, which goes on where the client leaves. Raises NotReady, DeadlineExceeded."""
    gone = NotReady("the manager is not there now: try again", retry_seconds=1.0)
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(address_of(run))
            try:
                writer.write(encode_json(order))
                writer.write_eof()
                answer = await reader.read()
            finally:
                writer.close()
    except TimeoutError as error:
        raise DeadlineExceeded(f"it takes longer than {seconds:g} s and goes on: see the history") from error
    except OSError as error:
        raise gone from error
    if not answer:
        raise gone
    return msgspec.json.decode(answer, type=Outcome)


def _answer_of(outcome: Outcome) -> msgspec.Raw:
    """The answer as JSON. Raises UnknownModel, Unprocessable, NotReady, Failed."""
    match outcome.trouble:
        case "":
            return outcome.answer
        case "unknown":
            raise UnknownModel(outcome.message)
        case "refused":
            raise Unprocessable(outcome.message)
        case "unavailable":
            raise NotReady(outcome.message, retry_seconds=5.0)
        case _:
            raise Failed(outcome.message)
