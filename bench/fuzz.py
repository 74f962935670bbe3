"""100,000 requests drawn from the OpenAPI document to a real server, and as many bodies to each of its decoders.

`fuzz_cases` draws the requests with schemathesis. `fuzz_bytes` has the decoders; atheris drives them (`fuzz_search`)
where it is installed (the extra `fuzz`), else they are left out. A fault of any kind is an error of the
command.
"""

import contextlib
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import requests

from bench.fuzz_cases import TRACE, Json, Ledger, fuzz
from bench.headwaiter_server import environment_of
from bench.models import encoder_folder, small_llama, tiny_bert
from bench.processes import BenchError, free_port, run_module, serving
from bench.report import table
from registry.heads import get_head
from serving.runtime.limits import read_limits

REQUESTS, QUICK_REQUESTS = 100_000, 1_000
SHARE = 500
"""Requests that are drawn together: the longer hypothesis draws, the longer each request takes it."""
TASKS = ("text-classification", "token-classification", "question-answering", "fill-mask")
CLI = "serving.commands.main"


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5 for 1/100 of the requests."""
    count = int(os.environ.get("HEADWAITER_FUZZ_CASES") or (REQUESTS if seconds >= 5 else QUICK_REQUESTS))
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as home:
        ledger = _fuzz_server(Path(home), count)
    decoders = _fuzz_decoders(count)
    return "\n".join([f"## Fuzz: {ledger.count:,} requests", "", *_describe(ledger, decoders)])


def models() -> dict[str, Path]:
    """Checkpoints by the task that each is served for, which is the model's name, too."""
    found = {task: tiny_bert(get_head(task).auto_class) for task in TASKS}
    return found | {"feature-extraction": encoder_folder(), "text-generation": small_llama()}


@dataclass(frozen=True)
class Asked:
    """The server. headers: an operator's key, without which no request may change anything."""

    url: str
    headers: Mapping[str, str]


@contextlib.contextmanager
def served(home: Path, models: Mapping[str, Path]) -> Iterator[Asked]:
    """Serve the models while the block runs. The server's log is `serve.log`."""
    environment = environment_of(home) | {"HEADWAITER_KEYS_FILE": str(home / "keys.json")}
    key = json.loads(run_module([CLI, "keys", "add", "fuzz", "--admin", "--json"], environment))["key"]
    for task, folder in models.items():
        options = ["--default", "pooling=mean"] if task == "feature-extraction" else []
        run_module([CLI, "log", str(folder), "--task", task, "--name", task, *options], environment)
        run_module([CLI, "promote", task, "1", "--why", "bench"], environment)
    port = free_port()
    asked = Asked(f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {key}"})
    command, ready = [CLI, "serve", *models, "--port", str(port)], f"{asked.url}/readyz"
    with serving(command, environment, ready, home / "serve.log", ready_headers=asked.headers):
        yield asked


def _fuzz_server(home: Path, count: int) -> Ledger:
    folders = models()
    with served(home, folders) as asked:
        document = httpx.get(f"{asked.url}/openapi.json", headers=asked.headers, timeout=60).json()
        ledger = _ask_in_shares(asked, document, {name: name for name in folders}, count)
    log = (home / "serve.log").read_text(errors="replace")
    if trace := TRACE.search(log):
        ledger.faults["a traceback in the log"] = log[max(0, trace.start() - 500) : trace.end() + 3000]
    if ledger.faults:
        raise BenchError("\n\n".join(f"{kind}\n{what}" for kind, what in ledger.faults.items()))
    return ledger


def _ask_in_shares(asked: Asked, document: Json, models: Mapping[str, str], count: int) -> Ledger:
    """Draw and send the requests in a process per core, as drawing one takes longer than answering it."""
    ledger, shares = Ledger(), [min(SHARE, count - start) for start in range(0, count, SHARE)]
    ask = partial(_ask_share, asked, document, models)
    with ProcessPoolExecutor(read_limits().cores, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(ask, share, seed) for seed, share in enumerate(shares)]):
            ledger.take(done.result())
            print(f"{ledger.count:,} requests, {len(ledger.faults)} faults", file=sys.stderr, flush=True)
    return ledger


def _ask_share(asked: Asked, document: Json, models: Mapping[str, str], count: int, seed: int) -> Ledger:
    with httpx.Client(timeout=60) as client:

        def send(sent: requests.PreparedRequest) -> httpx.Response:
            address = (sent.url or "").replace("http://here", asked.url, 1)
            drawn = {name: value for name, value in sent.headers.items() if isinstance(value, str)}
            content = sent.body if isinstance(sent.body, str | bytes) else None
            ask = partial(
                client.request, sent.method or "", address, headers=drawn | dict(asked.headers), content=content
            )
            try:
                return ask()
            except httpx.RemoteProtocolError:  # the server may close an idle connection while a request is under way
                return ask()

        return fuzz(document, models, send, count, seed)


def _fuzz_decoders(count: int) -> str:
    """Let atheris search for bodies that a decoder does not refuse as it should, and say which. Raises BenchError."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: the decoders are left out", file=sys.stderr)
        return "Without atheris."
    from bench.fuzz_bytes import TARGETS  # with the extra of gRPC, which not every benchmark needs

    for name in TARGETS:
        run_module(["bench.fuzz_search", name, f"-runs={count}", "-max_len=4096", "-seed=1"], dict(os.environ))
    return f"Decoders: {', '.join(TARGETS)}."


def _describe(ledger: Ledger, decoders: str) -> list[str]:
    statuses = sorted({status for _, status in ledger.answers})
    counts = [sum(times for (_, each), times in ledger.answers.items() if each == status) for status in statuses]
    header = ["", *map(str, statuses)]
    return [table(header, [["answers", *(f"{count:,}" for count in counts)]]), "", f"No fault. {decoders}"]
