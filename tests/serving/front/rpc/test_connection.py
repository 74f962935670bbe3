"""A connection of HTTP/2 whose client writes its own frames: windows, slow readers, floods, broken rules."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import hpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.front.connection_guard import ConnectionGuard
from serving.front.rpc import frames
from serving.front.rpc.calls import Calls, RpcAnswer, RpcCall
from serving.front.rpc.codes import Code
from serving.front.rpc.connection import RpcConnection
from serving.front.rpc.frames import PREFACE, ErrorCode, Frame, FrameReader, frame, number, settings_frame
from serving.front.rpc.messages import message_class
from serving.front.rpc.methods import Method
from serving.front.rpc.outbox import RECEIVE_WINDOW, Outbox, RpcLimits
from serving.front.rpc.spare_frames import MAX_SPARE
from serving.front.rpc.stream import Stream
from tests.serving.front.attacked import PATIENT
from tests.waiting import WAIT_SECONDS

PATH = b"/a.B/C"
ENDS = frames.END_HEADERS | frames.END_STREAM
LARGE = 300_000


class FakeTransport:
    """Stands where the network does, and takes everything until it is full."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = self.is_reading_paused = self.has_ended = False
        self.waiting = 0

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None


class Client:
    """A client of a server that answers each call with what `answers` gives of its message."""

    def __init__(self, answer: bytes | None = None, **limits: Any) -> None:
        self.guard = ConnectionGuard(msgspec.structs.replace(PATIENT, **limits), counts=False)
        self.connections: set[RpcConnection] = set()
        self.got: list[bytes] = []
        self.cancelled = 0
        self.held = asyncio.Event()
        self._answer, self._encoder, self._at = answer, hpack.Encoder(), 0
        self.transport: Any = FakeTransport()
        methods = {PATH: Method(self._reply, LARGE)}
        self.connection = RpcConnection(methods, self.guard, RpcLimits(4, LARGE, 1.0), self.connections)
        self.connection.connection_made(self.transport)
        self._reader = FrameReader()
        list(self._reader.read(PREFACE))

    async def _reply(self, stream: Stream) -> None:
        try:
            self.got.append(await stream.message())
            if self._answer is None:
                await self.held.wait()
            stream.finish(b"", self._answer or b"")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def send(self, *parts: bytes) -> list[Frame]:
        """What the server has sent since the last time, once it took these."""
        self.connection.data_received(b"".join(parts))
        for _ in range(4):
            await asyncio.sleep(0)
        new = bytes(self.transport.written[self._at :])
        self._at += len(new)
        return list(self._reader.read(new))

    async def greet(self, **given: int) -> None:
        """Begin the connection."""
        values = {frames.INITIAL_WINDOW_SIZE: given["window"]} if given else {}
        await self.send(PREFACE, settings_frame(values))

    def headers(self, stream: int, flags: int = frames.END_HEADERS, **more: str) -> bytes:
        """The headers of a call."""
        fields = [(":method", "POST"), (":path", PATH.decode()), ("content-type", "application/grpc"), *more.items()]
        return frame(frames.HEADERS, flags, stream, self._encoder.encode(fields))

    def call(self, stream: int, message: bytes = b"a message") -> bytes:
        """A whole call."""
        return self.headers(stream) + data(stream, b"\0" + number(len(message)) + message, frames.END_STREAM)

    def is_clean(self) -> bool:
        """Whether nothing is held."""
        return not self.guard.buffered_bytes and not self.connection._streams


def data(stream: int, content: bytes, flags: int = 0) -> bytes:
    return frame(frames.DATA, flags, stream, content)


def answer_of(sent: list[Frame]) -> bytes:
    return b"".join(each.content for each in sent if each.kind == frames.DATA)


def kinds(sent: list[Frame]) -> list[int]:
    return [each.kind for each in sent]


def goodbye(sent: list[Frame]) -> int:
    """The code of a GOAWAY, -1 for none."""
    return next((int.from_bytes(each.content[4:8]) for each in sent if each.kind == frames.GOAWAY), -1)


def test_an_answer_goes_out_as_far_as_its_windows_are_open() -> None:
    async def work() -> None:
        client = Client(LARGE * b"x")
        await client.greet(window=1000)
        got = answer_of(await client.send(client.call(1)))
        assert len(got) == 1000
        got += answer_of(await client.send(frame(frames.WINDOW_UPDATE, 0, 1, number(10 * LARGE))))
        assert len(got) == frames.DEFAULT_WINDOW, "that of the connection"
        assert client.guard.buffered_bytes > LARGE
        sent = await client.send(frame(frames.WINDOW_UPDATE, 0, 0, number(10 * LARGE)))
        got += answer_of(sent)
        assert got == b"\0" + number(LARGE) + LARGE * b"x"
        assert max(len(each.content) for each in sent) == frames.MAX_FRAME_BYTES
        assert (sent[-1].kind, sent[-1].flags) == (frames.HEADERS, ENDS)
        assert client.is_clean()

    asyncio.run(work())


def test_the_initial_window_changes_those_of_calls_in_progress() -> None:
    async def work() -> None:
        client = Client(b"x" * 2000)
        await client.greet(window=1000)
        await client.send(client.call(1))
        assert not answer_of(await client.send(settings_frame({frames.INITIAL_WINDOW_SIZE: 500})))
        got = answer_of(await client.send(settings_frame({frames.INITIAL_WINDOW_SIZE: 1100})))
        assert len(got) == 100

    asyncio.run(work())


def test_a_network_that_takes_no_more_stops_answers_and_reading() -> None:
    async def work() -> None:
        client = Client(LARGE * b"x")
        await client.greet(window=10 * LARGE)
        await client.send(frame(frames.WINDOW_UPDATE, 0, 0, number(10 * LARGE)))
        client.transport.waiting = 5000
        client.connection.pause_writing()
        assert client.transport.is_reading_paused
        assert not answer_of(await client.send(client.call(1)))
        client.connection.resume_writing()
        assert not client.transport.is_reading_paused
        assert len(answer_of(await client.send())) == LARGE + 5
        assert client.is_clean()

    asyncio.run(work())


def test_who_reads_too_slowly_loses_the_call_or_the_connection() -> None:
    async def work() -> None:
        client = Client(LARGE * b"x", client_seconds=10.0)
        await client.greet(window=1000)
        await client.send(client.call(1))
        client.connection.look(11.0)
        assert kinds(await client.send())[-1:] == [frames.RST_STREAM]
        assert client.is_clean()
        client.transport.waiting = 5000
        client.connection.pause_writing()
        client.connection.look(22.0)
        assert client.transport.is_closed

    asyncio.run(work())


@pytest.mark.parametrize("is_probe", [False, True])
def test_a_connection_with_nothing_but_probes_may_be_dropped(is_probe: bool) -> None:
    async def work() -> None:
        client = Client(b"an answer", client_seconds=10.0)
        client.connection._methods = {PATH: Method(client._reply, LARGE, is_probe)}
        await client.greet(window=0)
        assert not answer_of(await client.send(client.call(1)))
        assert client.connection.waits_since() == (0.0 if is_probe else None)
        client.connection.look(11.0)
        assert kinds(await client.send())[-1:] == [frames.RST_STREAM]
        assert client.is_clean()

    asyncio.run(work())


@pytest.mark.parametrize("ends", ["sent", "overdue", "lost"])
def test_a_call_counts_as_a_request_until_its_answer_is_sent(ends: str) -> None:
    visit = SimpleNamespace(begin=lambda: None, leave=lambda: None)
    access: Any = SimpleNamespace(admit=lambda headers: visit, audit=None)

    async def tell(message: bytes, call: RpcCall) -> RpcAnswer:
        return RpcAnswer(message_class("HealthCheckResponse")(status=1))

    async def work() -> None:
        client = Client(client_seconds=10.0)
        client.connection._methods = {PATH: Calls(access, client.guard, LARGE).method("C", tell)}
        await client.greet(window=0)
        await client.send(client.call(1, b""))
        assert client.guard.requests == 1
        if ends == "sent":
            assert answer_of(await client.send(frame(frames.WINDOW_UPDATE, 0, 1, number(1000))))
        elif ends == "overdue":
            client.connection.look(11.0)
        else:
            client.connection.connection_lost(None)
        assert client.guard.requests == 0
        assert client.is_clean()

    asyncio.run(work())


def test_a_message_comes_in_any_pieces() -> None:
    async def work() -> None:
        client = Client(b"an answer")
        await client.greet()
        whole = client.call(1)
        for place in range(len(whole)):
            sent = await client.send(whole[place : place + 1])
        assert client.got == [b"a message"]
        assert kinds(sent) == [frames.HEADERS, frames.DATA, frames.HEADERS]
        pieces = [client.headers(3), *(data(3, bytes((each,))) for each in b"\0" + number(3) + b"abc")]
        await client.send(*pieces, data(3, b"", frames.END_STREAM))
        assert client.got == [b"a message", b"abc"]
        assert client.is_clean()

    asyncio.run(work())


def test_headers_in_several_frames() -> None:
    async def work() -> None:
        client = Client(b"an answer")
        await client.greet()
        block = client.headers(1, more=500 * "x")[9:]
        first = frame(frames.HEADERS, 0, 1, block[:10])
        rest = (
            frame(frames.CONTINUATION, 0, 1, block[10:20]),
            frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[20:]),
        )
        assert answer_of(await client.send(first, *rest, data(1, bytes(5), frames.END_STREAM)))
        assert goodbye(await client.send(client.headers(3, flags=0), data(1, b""))) == ErrorCode.PROTOCOL_ERROR
        assert client.transport.has_ended
        client.connection.look(0.0)
        assert client.transport.is_closed

    asyncio.run(work())


def test_what_a_client_gets_back_is_its_window() -> None:
    async def work() -> None:
        client = Client(b"")
        await client.greet()
        given = 0
        for stream in range(1, 41, 2):
            sent = await client.send(client.headers(stream), *[data(stream, bytes(10_000))] * 20)
            given += sum(int.from_bytes(each.content) for each in sent if each.kind == frames.WINDOW_UPDATE)
        assert RECEIVE_WINDOW + given >= 40 // 2 * 200_000
        assert client.is_clean()

    asyncio.run(work())


def test_floods_end_the_connection() -> None:
    block = 600 * b"\0\1x\0"
    floods = {
        "pings": lambda client: frame(frames.PING, 0, 0, bytes(8)),
        "settings": lambda client: settings_frame({}),
        "empty data": lambda client: data(1, b""),
        "small parts": lambda client: data(1, b"\0"),
        "priorities": lambda client: frame(frames.PRIORITY, 0, 1, bytes(5)),
        "unknown": lambda client: frame(99, 0, 1, b"x"),
        "windows": lambda client: frame(frames.WINDOW_UPDATE, 0, 1, number(1)),
        "empty continuations": lambda client: frame(frames.CONTINUATION, 0, 3, b""),
        "continuations": lambda client: frame(frames.CONTINUATION, 0, 3, block),
    }

    async def work(name: str) -> None:
        client = Client(b"")
        await client.greet()
        await client.send(client.headers(1))
        if "continuations" in name:
            await client.send(client.headers(3, flags=0))
        sent = await client.send(*[floods[name](client)] * (MAX_SPARE + 1))
        assert goodbye(sent) == ErrorCode.ENHANCE_YOUR_CALM, name
        assert client.is_clean(), name

    for name in floods:
        asyncio.run(work(name))


def test_calls_that_are_given_up_at_once_end_the_connection() -> None:
    async def work() -> None:
        client = Client()
        await client.greet()
        resets = (
            client.headers(stream) + frame(frames.RST_STREAM, 0, stream, number(ErrorCode.CANCEL))
            for stream in range(1, 2 * MAX_SPARE + 9, 2)
        )
        assert goodbye(await client.send(*resets)) == ErrorCode.ENHANCE_YOUR_CALM
        assert client.is_clean()

    asyncio.run(work())


def test_calls_that_are_refused_at_once_are_no_excuse_for_other_frames() -> None:
    async def work() -> None:
        client = Client()
        await client.greet()
        refused = (client.headers(stream, **{"grpc-encoding": "gzip"}) for stream in range(1, 2 * MAX_SPARE + 9, 2))
        assert goodbye(await client.send(*refused)) == ErrorCode.ENHANCE_YOUR_CALM
        assert client.is_clean()

    asyncio.run(work())


def test_a_block_changes_the_size_of_the_table_at_most_twice() -> None:
    async def work(changes: int) -> int:
        client = Client(b"an answer")
        await client.greet()
        block = changes * b"\x3f\xe1\x1f" + client.headers(1)[9:]
        return goodbye(await client.send(frame(frames.HEADERS, frames.END_HEADERS, 1, block)))

    assert [asyncio.run(work(changes)) for changes in (0, 2)] == [-1, -1]
    assert asyncio.run(work(3)) == ErrorCode.COMPRESSION_ERROR


def test_clients_that_allow_no_table_read_the_headers() -> None:
    async def work() -> list[bytes]:
        client = Client(b"an answer")
        await client.greet()
        sent = await client.send(client.call(1)) + await client.send(client.call(3))
        return [each.content for each in sent if each.kind == frames.HEADERS and each.content]

    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    blocks = [decoder.decode(block) for block in asyncio.run(work())]
    assert [dict(block).get(":status") for block in blocks] == ["200", "200"]


def test_a_client_that_opens_its_windows_by_little_gets_the_whole_of_a_large_answer() -> None:
    answer = bytes(6 * 2**20)

    async def work() -> None:
        client = Client(answer)
        await client.greet()
        sent = await client.send(client.call(1))
        opened = frame(frames.WINDOW_UPDATE, 0, 0, number(4096)) + frame(frames.WINDOW_UPDATE, 0, 1, number(4096))
        for _ in range(len(answer) // 4096):
            sent += await client.send(opened)
        assert goodbye(sent) == -1
        assert sum(len(each.content) for each in sent if each.kind == frames.DATA) == len(answer) + 5

    asyncio.run(work())


def test_clients_that_answer_pings_and_open_windows_go_on() -> None:
    async def work() -> None:
        client = Client(b"an answer")
        await client.greet()
        for stream in range(1, 2 * MAX_SPARE, 2):
            pings = 4 * frame(frames.PING, 0, 0, bytes(8)) + frame(frames.WINDOW_UPDATE, 0, 0, number(20))
            assert answer_of(await client.send(client.call(stream), pings)) == b"\0" + number(9) + b"an answer"

    asyncio.run(work())


def test_more_calls_than_allowed_are_refused_and_a_reset_makes_room() -> None:
    async def work() -> None:
        client = Client()
        await client.greet()
        sent = await client.send(*(client.call(stream) for stream in (1, 3, 5, 7, 9)))
        assert [(each.kind, each.stream, each.content) for each in sent] == [
            (frames.RST_STREAM, 9, number(ErrorCode.REFUSED_STREAM))
        ]
        await client.send(frame(frames.RST_STREAM, 0, 3, number(ErrorCode.CANCEL)))
        assert client.cancelled == 1
        assert not await client.send(client.call(11))
        client.held.set()
        assert {each.stream for each in await client.send()} == {1, 5, 7, 11}
        assert client.is_clean()

    asyncio.run(work())


def test_a_lost_connection_ends_its_calls() -> None:
    async def work() -> None:
        client = Client()
        await client.greet()
        await client.send(client.call(1), client.headers(3))
        client.connection.connection_lost(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (client.cancelled, client.connections) == (2, set())
        assert client.is_clean()

    asyncio.run(work())


def test_what_is_no_call_is_refused() -> None:
    async def work() -> None:
        client = Client(b"")
        await client.greet()
        given = [
            ({":method": "GET"}, {b":status": b"405"}),
            ({"content-type": "application/json"}, {b":status": b"415"}),
            ({":path": "/x"}, {b":status": b"200", b"grpc-status": b"12"}),
            ({"grpc-encoding": "gzip"}, {b":status": b"200", b"grpc-status": b"12"}),
            ({"x": 20_000 * "x"}, {b":status": b"200", b"grpc-status": b"8"}),
        ]
        decoder = hpack.Decoder(2**16)
        for stream, (more, expected) in enumerate(given):
            fields = {":method": "POST", ":path": PATH.decode(), "content-type": "application/grpc"} | more
            block = client._encoder.encode(list(fields.items()))
            parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
            flags = [frames.END_HEADERS if part is parts[-1] else 0 for part in parts]
            kind = [frames.HEADERS, *[frames.CONTINUATION] * len(parts)]
            number_of = 2 * stream + 1
            sent = await client.send(*(frame(k, f, number_of, p) for k, f, p in zip(kind, flags, parts, strict=False)))
            assert kinds(sent) == [frames.HEADERS, frames.RST_STREAM], more
            assert dict(decoder.decode(sent[0].content, raw=True)).items() >= expected.items()
        assert not client.got
        assert client.is_clean()

    asyncio.run(work())


def test_rules_that_are_broken() -> None:
    broken = {
        "no settings": (False, frame(frames.PING, 0, 0, bytes(8))),
        "an even stream": (True, frame(frames.HEADERS, ENDS, 2)),
        "data of no stream": (True, data(5, b"x")),
        "a window of no stream": (True, frame(frames.WINDOW_UPDATE, 0, 5, number(1))),
        "an endless window": (True, frame(frames.WINDOW_UPDATE, 0, 0, number(frames.MAX_WINDOW))),
        "an empty window": (True, frame(frames.WINDOW_UPDATE, 0, 0, number(0))),
        "an endless initial window": (True, settings_frame({frames.INITIAL_WINDOW_SIZE: 2**31})),
        "half a setting": (True, frame(frames.SETTINGS, 0, 0, b"x")),
        "half a ping": (True, frame(frames.PING, 0, 0, b"x")),
        "half a number": (True, frame(frames.WINDOW_UPDATE, 0, 0, b"x")),
        "nothing to continue": (True, frame(frames.CONTINUATION, 0, 1, b"")),
        "a push": (True, frame(frames.PUSH_PROMISE, 0, 1, b"")),
        "headers that cannot be read": (True, frame(frames.HEADERS, ENDS, 1, b"\xff\xff\xff\xff")),
        "too much padding": (True, frame(frames.HEADERS, ENDS | frames.PADDED, 1, b"\xff")),
    }

    async def work(name: str) -> None:
        client = Client(b"")
        is_greeted, sent = broken[name]
        await client.send(PREFACE, settings_frame({}) if is_greeted else b"")
        assert goodbye(await client.send(sent)) > 0, name
        assert client.is_clean()

    for name in broken:
        asyncio.run(work(name))


ANY_FRAMES = st.lists(
    st.builds(
        frame,
        st.integers(0, 10),
        st.integers(0, 255),
        st.integers(0, 9),
        st.one_of(st.binary(max_size=40), st.just(bytes(8)), st.just(b"\0\0\0\0\1x"), st.just(number(1000))),
    ),
    max_size=30,
)


@pytest.mark.slow
@settings(deadline=None)
@given(ANY_FRAMES, st.booleans())
def test_any_frames_leave_nothing_behind(sent: list[bytes], mixes: bool) -> None:
    async def work() -> None:
        client = Client(b"an answer")
        await client.greet()
        for place, each in enumerate(sent):
            await client.send(client.call(2 * place + 1) if mixes and place % 3 == 0 else b"", each)
        client.connection.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert client.is_clean()

    asyncio.run(work())


def test_windows_that_open_by_little_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    send = Outbox.send
    monkeypatch.setattr(Outbox, "send", lambda outbox, stream: tried.append(stream.number) or send(outbox, stream))

    async def work() -> None:
        client = Client(b"an answer")
        await client.greet(window=0)
        await client.send(*map(client.call, (1, 3, 5, 7)))
        tried.clear()
        await client.send(*[frame(frames.WINDOW_UPDATE, 0, 0, number(1))] * 100)
        await client.send(*[settings_frame({frames.INITIAL_WINDOW_SIZE: 0})] * 100)
        assert not tried
        await client.send(frame(frames.WINDOW_UPDATE, 0, 3, number(1)))
        assert tried == [3]

    asyncio.run(work())


def test_a_frame_of_settings_changes_windows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = []
    widen = Outbox._widen
    monkeypatch.setattr(
        Outbox, "_widen", lambda outbox, stream, more: changed.append(more) or widen(outbox, stream, more)
    )

    async def work() -> None:
        client = Client(b"x" * 300)
        await client.greet(window=0)
        await client.send(client.call(1))
        setting = settings_frame({frames.INITIAL_WINDOW_SIZE: 200})[9:]
        sent = await client.send(frame(frames.SETTINGS, 0, 0, 1000 * setting + setting[:-1] + bytes((100,))))
        assert len(answer_of(sent)) == 100
        assert changed == [100]

    asyncio.run(work())


def test_age_and_idleness_send_a_client_away() -> None:
    async def work(now: float) -> None:
        client = Client()
        await client.greet()
        await client.send(client.call(1))
        client.connection.look(119.0)
        assert not await client.send()
        if now > 600:
            client.connection.look(now)
        else:
            await client.send(frame(frames.RST_STREAM, 0, 1, number(0)))
            client.connection.look(now)
        sent = await client.send()
        assert kinds(sent) == [frames.GOAWAY, frames.PING]
        late = await client.send(frame(frames.PING, frames.ACK, 0, sent[1].content), client.call(3))
        assert goodbye(late) == ErrorCode.NO_ERROR
        client.held.set()
        await client.send()
        assert client.transport.is_closed

    asyncio.run(work(601.0))
    asyncio.run(work(121.0))


def test_no_stream_is_named_after_the_last_one_that_the_client_was_told() -> None:
    async def work() -> None:
        client = Client()
        await client.greet()
        await client.send(client.call(1))
        client.connection.leave()
        asked = await client.send()
        told = await client.send(frame(frames.PING, frames.ACK, 0, asked[1].content), client.call(3))
        broken = await client.send(frame(frames.DATA, 0, 0, b"of no stream"))
        last = [number_of(each) for each in (*told, *broken) if each.kind == frames.GOAWAY]
        assert last == [1, 1]
        client.held.set()

    asyncio.run(work())


def number_of(goaway: Frame) -> int:
    """The last stream that it names."""
    return int.from_bytes(goaway.content[:4])


def test_large_messages_of_grpcs_own_client() -> None:
    async def work() -> None:
        guard, connections = ConnectionGuard(msgspec.structs.replace(PATIENT, buffer_bytes=2**26)), set[RpcConnection]()

        async def echo(stream: Stream) -> None:
            stream.finish(Code.OK.block(), await stream.message())

        methods = {PATH: Method(echo, 2**24)}
        server = await asyncio.get_running_loop().create_server(
            lambda: RpcConnection(methods, guard, RpcLimits(100, 2**24, 1.0), connections), "127.0.0.1", 0
        )
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = [("grpc.max_receive_message_length", 2**24)]
        async with grpc.aio.insecure_channel(address, options) as channel:
            call = channel.unary_unary(PATH.decode())
            messages = [bytes((place,)) * (place * 400_000) for place in range(8)]
            assert await asyncio.gather(*map(call, messages)) == messages
        server.close()
        while connections:  # the server sees later than the client that it has left
            await asyncio.sleep(0.002)

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


def test_windows_of_all_streams_that_change_again_and_again_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change may let each waiting answer send a byte: 13 KB of settings took the event loop three seconds."""
    streams = 640
    tried = []
    send = Outbox.send
    monkeypatch.setattr(Outbox, "send", lambda outbox, stream: tried.append(stream.number) or send(outbox, stream))

    async def work() -> None:
        client = Client(b"x" * 2000)
        client.connection._limits = RpcLimits(streams, LARGE, 1.0)
        await client.greet(window=0)
        await client.send(*[client.call(2 * place + 1) for place in range(streams)])
        tried.clear()
        changes = [settings_frame({frames.INITIAL_WINDOW_SIZE: place + 1}) for place in range(MAX_SPARE)]
        assert goodbye(await client.send(*changes)) == ErrorCode.ENHANCE_YOUR_CALM
        assert len(tried) < 20 * MAX_SPARE

    asyncio.run(work())


def test_a_window_of_the_connection_is_offered_to_no_more_answers_than_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []
    send = Outbox.send
    monkeypatch.setattr(Outbox, "send", lambda outbox, stream: tried.append(stream.number) or send(outbox, stream))

    async def work() -> None:
        client = Client(b"x" * 100_000)
        await client.greet()
        await client.send(*map(client.call, (1, 3, 5, 7)))
        tried.clear()
        await client.send(frame(frames.WINDOW_UPDATE, 0, 0, number(4)))
        assert len(tried) == 1

    asyncio.run(work())
