"""A front that `front_cost` measures: `python -m bench.front_process RUN [--stages]`.

It is a worker of the server without BentoML: uvicorn with the connections and the data plane of Headwaiter, and the
engines of the routing table in RUN. It prints its port, and a `Reading` for each line that it reads.
"""

import argparse
import asyncio
import gc
import os
import sys
import time
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from bench.stage_sampler import OUTSIDE, StageSampler
from registry.settings import RegistrySettings
from serving.front.app import DataPlane
from serving.front.asgi import Receive, Scope, Send
from serving.front.connection_choice import choose_connection
from serving.front.front import Front
from serving.settings import ServingSettings

HTTP, BODY, WAY, TOKENIZE = "read and parse HTTP", "parse and check the body", "the way through the front", "tokenize"
TO_ENGINE, FROM_ENGINE, DECODE = "rows to the engine", "arrays from the engine", "decode"
JSON, WRITE, ZEROMQ = "the answer as JSON", "write the answer", "ZeroMQ's thread"
STAGES = (HTTP, BODY, WAY, TOKENIZE, TO_ENGINE, FROM_ENGINE, DECODE, JSON, WRITE, OUTSIDE, ZEROMQ)
"""In the order of a request."""


class Reading(msgspec.Struct, frozen=True):
    """Totals since the start. seconds, thread_seconds: processor time of the process, and of the event loop's thread.
    samples: of the stages, if it is divided.
    """

    requests: int
    seconds: float
    thread_seconds: float
    samples: dict[str, int]

    def since(self, before: "Reading") -> "Reading":
        """What was added since `before`."""
        return Reading(
            self.requests - before.requests,
            self.seconds - before.seconds,
            self.thread_seconds - before.thread_seconds,
            {stage: count - before.samples.get(stage, 0) for stage, count in self.samples.items()},
        )

    def micros(self, stage: str) -> float:
        """A stage's microseconds of processor time a request."""
        if stage == ZEROMQ:
            return 1e6 * (self.seconds - self.thread_seconds) / self.requests
        share = self.samples.get(stage, 0) / max(1, sum(self.samples.values()))
        return 1e6 * share * self.thread_seconds / self.requests


def divide(sampler: StageSampler) -> None:
    """Sample the stages of a plain request from now on. Changes its functions for the whole process."""
    from serving.front.connection import Connection
    from serving.front.engine_link import EngineLink
    from serving.front.fast_path import FastRequest
    from serving.front.loaded_version import LoadedVersion
    from serving.front.protocols import huggingface
    from serving.tasks.text_classification import TextClassification

    places: list[tuple[object, str, str]] = [
        (Connection, "data_received", HTTP),
        (huggingface, "_take_stream", BODY),
        (huggingface, "parse_body", BODY),
        (LoadedVersion, "_encode_item", TOKENIZE),
        (EngineLink, "submit", TO_ENGINE),
        (EngineLink, "_flush", TO_ENGINE),
        (EngineLink, "_receive", FROM_ENGINE),
        (TextClassification, "decode", DECODE),
        (huggingface, "encode_answer", JSON),
        (FastRequest, "_write", WRITE),
    ]
    for owner, name, stage in places:
        setattr(owner, name, sampler.of(stage, getattr(owner, name)))
    setattr(FastRequest, "_answer", sampler.of_coroutine(WAY, FastRequest._answer))  # noqa: B010  # mypy refuses an assignment
    sampler.start()


def read_totals(server: uvicorn.Server, sampler: StageSampler | None) -> Reading:
    """What the front has done until now."""
    requests, samples = server.server_state.total_requests, {} if sampler is None else dict(sampler.samples)
    return Reading(requests, time.process_time(), time.thread_time(), samples)


async def serve(run: Path, sampler: StageSampler | None) -> None:
    """Serve until standard input ends."""
    front = Front(ServingSettings(RegistrySettings(run, ""), (), run, timeout_seconds=60, slow_seconds=60))
    plane = DataPlane(front, _no_app)
    if choose_connection(plane.huggingface) is None:
        sys.exit("the installed uvicorn is not the one of this release")
    config = uvicorn.Config(plane, port=0, ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await front.start()
    while not (server.started and front.is_ready()):
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()  # as a worker does
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)

    def answer() -> None:
        if not os.read(0, 100):
            asyncio.get_running_loop().remove_reader(0)
            server.should_exit = True
        else:
            print(msgspec.json.encode(read_totals(server, sampler)).decode(), flush=True)

    asyncio.get_running_loop().add_reader(0, answer)
    await serving
    await front.stop()


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """There is no BentoML."""


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.front_process")
    parser.add_argument("run", type=Path, help="the folder with the routing table")
    parser.add_argument("--stages", action="store_true", help="divide the processor time among stages")
    options = parser.parse_args()
    sampler = StageSampler() if options.stages else None
    if sampler is not None:
        divide(sampler)
    uvloop.run(serve(options.run, sampler))


if __name__ == "__main__":
    main()
