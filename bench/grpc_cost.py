"""Benchmark: what a request of the Open Inference Protocol costs a server over gRPC, compared with HTTP.

The same inference of one text is asked of one server, by turns, with a model of negligible cost. Clients keep their
connections and send a request at once, without waiting between headers and body. Processor time is that of the
server's processes; what the clients take does not count.
"""

import http.client
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from urllib.parse import urlsplit

import msgspec
import psutil

from bench.headwaiter_server import MODEL, headwaiter
from bench.models import tiny_classifier
from bench.processes import BenchError, Server, free_port
from bench.report import table

CLIENTS = 16
ROUNDS = 5
TEXT = "The parcel came two days late."
BODY = msgspec.json.encode({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]})
Ask = Callable[[], None]


@dataclass
class Way:
    """One way to ask. connect: makes a client, which asks once. micros: of front and server, a round each."""

    name: str
    connect: Callable[[], Ask]
    front_micros: list[float] = field(default_factory=list)
    server_micros: list[float] = field(default_factory=list)


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each way, all rounds together."""
    port = free_port()
    with headwaiter(tiny_classifier(), settings={"HEADWAITER_GRPC_PORT": str(port), "HEADWAITER_WORKERS": "1"}) as (
        server,
        _,
    ):
        ways = [Way("HTTP", partial(_http, server)), Way("gRPC", partial(_grpc, port))]
        for way in ways:
            _load(way.connect, 0.5)
        for number in range(ROUNDS):
            for way in ways[:: 1 if number % 2 else -1]:
                _measure(way, server, seconds / ROUNDS)
    heads = [
        "Open Inference Protocol over",
        "front, µs a request",
        "× HTTP",
        "all processes, µs a request",
        "× HTTP",
    ]
    base = ways[0]
    rows = [
        [
            way.name,
            f"{median(way.front_micros):.0f}",
            _times(way.front_micros, base.front_micros),
            f"{median(way.server_micros):.0f}",
            _times(way.server_micros, base.server_micros),
        ]
        for way in ways
    ]
    text = f"Processor time of one text, {CLIENTS} clients, {ROUNDS} rounds by turns, medians; × is that of a round."
    return "\n\n".join(["## gRPC: what a request costs", text, table(heads, rows)])


def _times(micros: list[float], base: list[float]) -> str:
    """How many times as much as in the same round of the other way: the median, and the range."""
    found = sorted(mine / other for mine, other in zip(micros, base, strict=True))
    return f"{median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def _measure(way: Way, server: Server, seconds: float) -> None:
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    fronts = [each for each in processes if any("worker.service" in part for part in each.cmdline())]
    fronts = [each for each in fronts if not any("headwaiter_manager" in part for part in each.cmdline())]
    if len(fronts) != 1:
        raise BenchError(f"the server has {len(fronts)} fronts, not 1")
    before = [_cpu_seconds(fronts), _cpu_seconds(processes)]
    count = _load(way.connect, seconds)
    way.front_micros.append(1e6 * (_cpu_seconds(fronts) - before[0]) / count)
    way.server_micros.append(1e6 * (_cpu_seconds(processes) - before[1]) / count)


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def _load(connect: Callable[[], Ask], seconds: float) -> int:
    """The number of answers that clients got. Raises what the first one that failed did."""
    end, counts, failed = time.monotonic() + seconds, [0] * CLIENTS, []

    def client(place: int) -> None:
        try:
            ask = connect()
            while time.monotonic() < end:
                ask()
                counts[place] += 1
        except Exception as error:  # a thread's own would be lost
            failed.append(error)

    threads = [threading.Thread(target=client, args=(place,)) for place in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise BenchError(f"a request failed: {failed[0]!r}") from failed[0]
    return sum(counts)


def _http(server: Server) -> Ask:
    address = urlsplit(server.url)
    assert address.hostname is not None
    opened = socket.create_connection((address.hostname, address.port or 80))
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY

    def ask() -> None:
        opened.sendall(request)
        answer = http.client.HTTPResponse(opened)
        answer.begin()
        if answer.status != http.HTTPStatus.OK or not answer.read():
            raise BenchError(f"status {answer.status}")

    return ask


def _grpc(port: int) -> Ask:
    import grpc

    from serving.front.rpc.inference import SERVICE
    from serving.front.rpc.messages import message_class

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    size = len(TEXT.encode()).to_bytes(4, "little")
    request = message_class("ModelInferRequest")(model_name=MODEL, raw_input_contents=[size + TEXT.encode()])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    message = request.SerializeToString()
    return lambda: call(message)
