"""What holds for every call of gRPC: keys, bounds, deadlines, codes, and what is told of it in metadata and logs."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes

import grpc
import hpack
import msgspec
import pytest
from tritonclient.grpc import service_pb2

from serving import errors
from serving.errors import QueueFull, ServingError
from serving.front.connection_guard import ConnectionGuard
from serving.front.rpc import codes
from serving.front.rpc.calls import Calls, RpcAnswer, to_metadata
from serving.front.rpc.codes import CODES, MAX_DETAILS, Code, details
from serving.runtime.key_file import KeyFile
from tests.serving.front.attacked import PATIENT, Whole
from tests.serving.front.local_front import MakeFront, answer, engines
from tests.serving.front.rpc.served import TEXT, Port, infer, on_port
from tests.serving.front.task_fronts import serve_tasks
from tests.waiting import WAIT_SECONDS

LIVE = "inference.GRPCInferenceService/ServerLive"
INFER = "inference.GRPCInferenceService/ModelInfer"


def asked(model: str = "m", text: bytes = b"a text") -> bytes:
    found = service_pb2.ModelInferRequest(model_name=model)
    found.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(text)
    return found.SerializeToString()


def every_error() -> Iterator[type[ServingError]]:
    """The classes of errors that a request may end with."""
    left = [ServingError]
    while left:
        found = left.pop()
        left += found.__subclasses__()
        yield found


class FakeStream:
    """Stands where a call on the wire does."""

    headers = ((b"x-request-id", b"r-17"),)
    connection = SimpleNamespace(address="127.0.0.1")

    def __init__(self) -> None:
        self.ended: dict[bytes, bytes] = {}

    async def message(self) -> bytes:
        return b""

    def time_remaining(self) -> None:
        return None

    def count(self) -> None:
        """Count nowhere."""

    def finish(self, trailers: bytes, message: bytes | None = None) -> None:
        self.ended = dict(hpack.Decoder().decode(trailers, raw=True))


def test_each_error_has_the_code_that_its_status_stands_for(make_front: MakeFront) -> None:
    calls = Calls(make_front().access, ConnectionGuard(PATIENT), 100)
    expected = {500: "INTERNAL", 405: "INTERNAL", 421: "INTERNAL", 431: "INTERNAL"}
    expected |= {status: code.name for status, code in CODES.items()}
    seen = set()
    for kind in every_error():
        given = {errors.WrongMethod: ("GET", "POST"), errors.NotLoaded: ("m", "1", 2.0)}.get(kind, ("the reason",))
        error = kind(*given)
        stream: Any = FakeStream()

        async def fail(message: bytes, call: Any, error: ServingError = error) -> RpcAnswer:
            raise error

        asyncio.run(calls._answer("A", fail, stream))
        assert Code(int(stream.ended[b"grpc-status"])).name == expected[error.status]
        assert unquote_to_bytes(stream.ended[b"grpc-message"]).decode() == error.message
        assert stream.ended[b"x-request-id"] == b"r-17"
        seen.add(error.status)
    assert seen >= CODES.keys()


def test_an_error_says_when_to_try_again_and_which_version_it_was() -> None:
    error = QueueFull("full", retry_seconds=1.2)
    error.version = "7"
    from serving.front.asgi import refusal
    from serving.front.request_context import RequestContext

    _, _, headers = refusal(error, RequestContext("r"), b"")
    assert dict(to_metadata(headers)) == {
        b"x-request-id": b"r",
        b"x-model-version": b"7",
        b"retry-after": b"2",
        b"grpc-retry-pushback-ms": b"2000",
    }


def test_a_long_text_of_an_error_keeps_its_beginning_and_its_end() -> None:
    assert details("short: é") == "short: é"
    for letter in "a", "é", "🙂":
        found = details(f"the rule {4000 * letter} the way out")
        assert found.startswith("the rule")
        assert found.endswith("the way out")
        assert len(found.encode()) * (1 if letter == "a" else 3) <= 4096 + 100
        assert "…" in found or letter == "a"


def test_a_bug_is_told_by_its_request_id_alone(make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> None:
    front = make_front(task=Whole())

    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter22 at /srv/models")

    monkeypatch.setattr(front.routing, "find", fail)

    async def work(port: Port) -> None:
        code, text = await port.call(INFER, asked(), ("x-request-id", "r-17"))
        assert code.name == "INTERNAL"
        assert text == b"the server failed on this request; its log says why, under request_id r-17"

    on_port(front, work)


def test_an_answer_tells_request_version_and_stages(make_front: MakeFront) -> None:
    front = make_front(task=Whole())
    engines(front, "1", answer("an answer"))

    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            call = channel.unary_unary(f"/{INFER}")(asked(), metadata=(("x-request-id", "mine"),))
            await call
            told = dict(await call.trailing_metadata())
        assert (told["x-request-id"], told["x-model-version"]) == ("mine", "1")
        assert [part.partition(";")[0].strip() for part in told["server-timing"].split(",")] == [
            "tokenize",
            "queue",
            "forward",
            "decode",
        ]

    on_port(front, work)


def test_keys_are_asked_for_before_the_message_and_scoped_and_counted(tmp_path: Path, make_front: MakeFront) -> None:
    file = KeyFile(tmp_path / "keys.json")
    some, slow = file.add("some", models=("m",)), file.add("slow", rate=0.001)
    front = make_front(task=Whole(), keys_file=tmp_path / "keys.json", audit_file=tmp_path / "audit.log")
    front.access.start(tmp_path, 1, 0)
    engines(front, "1", *[answer("an answer")] * 9)

    async def work(port: Port) -> None:
        async def code(model: str = "m", *metadata: tuple[str, str]) -> str:
            found, _ = await port.call(INFER, asked(model), *metadata)
            return str(found.name)

        assert await code() == "UNAUTHENTICATED"
        assert await code("m", ("authorization", "Bearer hw_wrong")) == "UNAUTHENTICATED"
        assert await code("m", ("authorization", f"Bearer {some}"), ("x-api-key", some)) == "UNAUTHENTICATED"
        for header in ("authorization", f"Bearer {some}"), ("x-api-key", some):
            assert await code("m", header) == "OK"
            assert await code("other", header) == "PERMISSION_DENIED"
        assert await code("m", ("x-api-key", slow)) == "OK"
        assert await code("m", ("x-api-key", slow)) == "RESOURCE_EXHAUSTED"
        async with grpc.aio.insecure_channel(port.address) as channel:
            unsent = channel.stream_unary(f"/{INFER}")()
            assert (await unsent.code()).name == "UNAUTHENTICATED", "before any message came"
        await port.until_idle()

    on_port(front, work)
    front.access.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    shown = [(line.get("who", ""), line["status"], line.get("model", "")) for line in lines]
    assert shown == [
        *[("", 401, "")] * 3,
        *[("some", 200, "m"), ("some", 403, "other")] * 2,
        ("slow", 200, "m"),
        ("", 429, ""),
        ("", 401, ""),
    ]
    assert {line["what"] for line in lines} == {f"gRPC {INFER}"}
    assert {line["address"] for line in lines} == {"127.0.0.1"}


def test_a_full_front_takes_no_more_calls(make_front: MakeFront) -> None:
    front = make_front(task=Whole())
    link = engines(front, "1")
    guard = ConnectionGuard(msgspec.structs.replace(PATIENT, max_requests=1))

    async def work(port: Port) -> None:
        link.on_submit = lambda waiter: None
        first = asyncio.create_task(port.call(INFER, asked()))
        while not link.waiters:
            await asyncio.sleep(0.002)
        code, text = await port.call(INFER, asked())
        assert (code.name, b"as many requests as it may" in text) == ("UNAVAILABLE", True)
        answer("an answer")(link.waiters[0])
        assert (await first)[0].name == "OK"
        link.on_submit = answer("an answer")
        assert (await port.call(INFER, asked()))[0].name == "OK"

    on_port(front, work, guard)


def test_what_is_too_large_is_refused(make_front: MakeFront) -> None:
    front = make_front(task=Whole(), max_body_bytes=20_000)
    engines(front, "1").on_submit = answer("an answer")
    guard = ConnectionGuard(msgspec.structs.replace(PATIENT, buffer_bytes=15_000))

    async def work(port: Port) -> None:
        assert (await port.call(INFER, asked(text=b"x" * 10_000)))[0].name == "OK"
        code, text = await port.call(INFER, asked(text=b"x" * 16_000))
        assert (code.name, b"buffers as much as it may" in text) == ("UNAVAILABLE", True)
        assert (await port.call(INFER, asked(text=b"x" * 30_000)))[0].name == "INVALID_ARGUMENT"
        code, text = await port.call(INFER, asked(), ("x", 20_000 * "x"))
        assert code.name == "RESOURCE_EXHAUSTED", text
        assert (await port.call(INFER, asked()))[0].name == "OK"
        await port.until_idle()

    on_port(front, work, guard)


def test_a_client_that_sends_too_slowly_is_refused(make_front: MakeFront) -> None:
    front = make_front(task=Whole())
    engines(front, "1").on_submit = answer("an answer")
    guard = ConnectionGuard(PATIENT)

    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            await channel.unary_unary(f"/{INFER}")(asked())
            guard.limits = msgspec.structs.replace(PATIENT, client_seconds=0.2)  # for this call alone
            slow = channel.stream_unary(f"/{INFER}")()
            assert (await slow.code()).name == "DEADLINE_EXCEEDED"
            assert "0.2 s" in await slow.details()
            guard.limits = PATIENT
            empty = channel.stream_unary(f"/{INFER}")()
            await empty.done_writing()
            assert (await empty.code()).name == "INVALID_ARGUMENT"
        assert (await port.call(INFER, asked()))[0].name == "OK"

    on_port(front, work, guard)


def test_the_clients_deadline_and_its_leaving_end_the_request(make_front: MakeFront) -> None:
    front = make_front(task=Whole())
    link = engines(front, "1")
    link.on_submit = lambda waiter: None

    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            await channel.unary_unary(f"/{LIVE}")(b"")
            seconds = 0.2
            while not link.waiters:  # on a busy machine a call may not get here in its time
                late = channel.unary_unary(f"/{INFER}")(asked(), timeout=seconds)
                assert (await late.code()).name == "DEADLINE_EXCEEDED"
                seconds *= 2
        while len(link.abandoned) < len(link.waiters):
            await asyncio.sleep(0.002)
        assert link.waiters[0].deadline < asyncio.get_running_loop().time() + seconds, "it is the request's own, too"
        known = len(link.waiters)
        leaving = asyncio.create_task(port.call(INFER, asked()))
        while len(link.waiters) == known:
            await asyncio.sleep(0.002)
        leaving.cancel()
        while len(link.abandoned) == known:
            await asyncio.sleep(0.002)
        await port.until_idle()

    on_port(front, work)


def test_what_is_not_there_is_unimplemented(make_front: MakeFront) -> None:
    async def work(port: Port) -> None:
        for method in (
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "inference.GRPCInferenceService/ModelConfig",
            "inference.GRPCInferenceService/ModelStreamInfer",
            "x/y",
        ):
            assert (await port.call(method, b""))[0].name == "UNIMPLEMENTED", method
        assert (await port.call(LIVE, b""))[0].name == "OK"
        assert (await port.call(INFER, b"\xff\xff"))[0].name == "INVALID_ARGUMENT"

    on_port(make_front(), work)


def test_calls_are_counted_as_grpc(make_front: MakeFront) -> None:
    front = make_front()
    serve_tasks(front, [TEXT])
    ended = []
    meter = front.routing._loaded[TEXT, "1"].meter
    count = meter.end
    meter.end = lambda protocol, *given: (ended.append((protocol, given[0])), count(protocol, *given))[-1]  # type: ignore

    async def work(port: Port) -> None:
        await port.ask(infer())
        await port.refused(infer(texts=[""]))

    on_port(front, work)
    assert ended == [("grpc", 200), ("grpc", 422)]


def test_accepted_calls_are_answered_when_the_server_ends(make_front: MakeFront) -> None:
    front = make_front(task=Whole())
    link = engines(front, "1")
    link.on_submit = lambda waiter: None

    async def work(port: Port) -> None:
        front.companions.append(port.opened)
        asking = asyncio.create_task(port.call(INFER, asked()))
        while not link.waiters:
            await asyncio.sleep(0.002)
        front.leave()  # at the signal, while HTTP has not drained
        assert port.opened._health.is_closing
        while not all(each._closing.is_acknowledged for each in port.opened._connections):  # calls are answered before
            await asyncio.sleep(0.002)
        assert (await port.call(INFER, asked(), timeout=WAIT_SECONDS))[0].name == "UNAVAILABLE"
        answer("an answer")(link.waiters[0])
        assert (await asking)[0].name == "OK"
        while port.opened._connections:
            await asyncio.sleep(0.002)
        await port.opened.close()

    on_port(front, work)


def test_the_grace_of_calls_begins_when_the_server_is_told_to_end(make_front: MakeFront) -> None:
    front = make_front(task=Whole(), grace_seconds=30.0)
    link = engines(front, "1")
    link.on_submit = lambda waiter: None

    async def work(port: Port) -> None:
        asking = asyncio.create_task(port.call(INFER, asked()))
        while not link.waiters:
            await asyncio.sleep(0.002)
        port.opened.leave()
        assert port.opened._left_at is not None
        port.opened._left_at -= 30.0  # so long ago
        await port.opened.close()
        assert (await asking)[0].name == "UNAVAILABLE"
        assert link.abandoned

    on_port(front, work)


def test_a_call_on_a_connection_that_is_asked_to_leave_goes_through(make_front: MakeFront) -> None:
    front = make_front(task=Whole())
    engines(front, "1").on_submit = answer("an answer")

    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            call = channel.unary_unary(f"/{INFER}")
            for _ in range(20):
                await call(asked())
                for connection in list(port.opened._connections):
                    connection.leave()
            assert await asyncio.gather(*[call(asked()) for _ in range(20)])

    on_port(front, work)


def test_an_error_of_any_length_is_cut_before_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    encode = codes._percent_encoded
    monkeypatch.setattr(codes, "_percent_encoded", lambda text: lengths.append(len(text)) or encode(text))
    found = details(f"there is no model {10**6 * 'é'}: ask GET /v2")
    assert found.startswith("there is no model é")
    assert found.endswith("é: ask GET /v2")
    assert max(lengths) <= MAX_DETAILS + 3
