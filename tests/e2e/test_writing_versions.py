"""Models that write texts beside others: versions change under running streams, and nobody starves."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.overlap import has_answer, held_amid_texts, sent
from tests.e2e.server import Server, has_ended, wait_until
from tests.families import build
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.surroundings

PROMPT = "the quick"
LONG = {"max_new_tokens": 280, "do_sample": False}
STREAMS = 12
FLOOD = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, seeds: list[Path]) -> tuple[Path, Versions]:
    """A registry with `w`, two versions that write differently, and `m`, a classifier; the first ones are live."""
    home, folders = tmp_path_factory.mktemp("h"), tmp_path_factory.mktemp("writers")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    first = build(folders / "1", "gpt2", "AutoModelForCausalLM")
    second = shutil.copytree(first, folders / "2")
    model = transformers.AutoModelForCausalLM.from_pretrained(first)
    torch.manual_seed(1)
    with torch.no_grad():
        model.transformer.wpe.weight += torch.randn_like(model.transformer.wpe.weight)
    model.save_pretrained(second)
    for folder in (first, second):  # of float32: in bfloat16 the likeliest token may depend on what shares its batch
        log_model(folder, task="text-generation", name="w", settings=settings, dtype="float32")
    log_model(seeds[0], task="text-classification", name="m", settings=settings)
    versions = Versions(settings)
    versions.promote("m", "1", why="start")
    return home, versions


@dataclass
class Streams:
    """`count` clients, each of which reads one long stream after the other until the block ends.

    seen: (version, text) of each stream that has ended. begun: streams by the version that has sent their first token.
    """

    server: Server
    count: int
    seen: list[tuple[str, str]] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    errors: list[BaseException] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Streams"]:
        threads = [threading.Thread(target=self._read_on) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: self.begun.total() >= self.count, "every stream has begun")
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(WAIT_SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a stream that never ended"
        assert self.errors == []

    def ended(self, version: str) -> int:
        """Streams of a version that have ended."""
        return [written for written, _ in self.seen].count(version)

    def _read_on(self) -> None:
        try:
            while not self._stop.is_set():
                self._read()
        except BaseException as error:
            self.errors.append(error)

    def _read(self) -> None:
        body = {"inputs": PROMPT, "parameters": LONG, "stream": True}
        with self.server.http.stream("POST", "/models/w", json=body, timeout=WAIT_SECONDS) as answer:
            assert answer.status_code == 200, answer.read()
            lines = (line for line in answer.iter_lines() if line)
            events = [next(lines)]
            self.begun[answer.headers["x-model-version"]] += 1
            events += lines
        found: list[Any] = [json.loads(line.removeprefix("data: ")) for line in events]
        assert found[-1]["details"]["generated_tokens"] == LONG["max_new_tokens"], found[-1]
        text = found[-1]["generated_text"]
        assert "".join(event["token"]["text"] for event in found) == text
        self.seen.append((answer.headers["x-model-version"], text))


def whole(server: Server, version: str) -> str:
    text: str = server.ask("w", PROMPT, version=version, **LONG)[0]["generated_text"]
    return text


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--keep-previous", "0")], ids=["kept", "unloaded"])
def test_streams_end_on_the_version_that_began_them(shop: tuple[Path, Versions], options: tuple[str, ...]) -> None:
    home, versions = shop
    versions.promote("w", "1", why="start")
    with Server(home, ("w",), {"HEADWAITER_TIMEOUT_SECONDS": "600"}, options) as server:
        expected = {"1": whole(server, "1")}
        with Streams(server, STREAMS).running() as streams:
            with held_amid_texts(server, "w") as old:
                versions.promote("w", "2", why="better")
                wait_until(lambda: server.live("w") == "2", "version 2 is live")
                expected["2"] = whole(server, "2")
                before = streams.ended("1")
            wait_until(lambda: streams.ended("1") > before, "what version 1 had begun, it ended after that")
            if options:
                wait_until(lambda: has_ended(old), "the old version has left")
            wait_until(lambda: streams.begun["2"], "a stream of version 2 has begun")
            versions.rollback("w", why="worse after all")
            before = streams.ended("1")
            wait_until(lambda: streams.ended("1") > before, "version 1 writes again")
        assert expected["1"] != expected["2"], "the texts must prove which version wrote them"
        assert set(streams.seen) == set(expected.items())
        assert server.sample("swap_total", model="w", outcome="success") == 3


@pytest.mark.long
def test_short_texts_and_a_classifier_are_answered_while_long_texts_are_written(shop: tuple[Path, Versions]) -> None:
    home, versions = shop
    versions.promote("w", "1", why="start")
    with Server(home, ("w", "m")) as server, ExitStack() as stack:
        streams = stack.enter_context(Streams(server, FLOOD).running())
        for path, parameters in [("/models/m", {}), ("/models/w", {"max_new_tokens": 1})] * 5:
            last = len(streams.seen) + FLOOD
            with sent(server, path, {"inputs": PROMPT, "parameters": parameters}) as short:
                wait_until(lambda: has_answer(short) or len(streams.seen) >= last, "an answer")  # noqa: B023  # now
                assert has_answer(short), "nobody waits until all that were there have ended"
                assert short.recv(15) == b"HTTP/1.1 200 OK"
        assert server.sample("rejected_total", model="m") == 0
