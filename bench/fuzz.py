"""100,000 requests drawn from the OpenAPI document to a real server, and as many bodies to each of its decoders.

`fuzz_cases` draws the requests with schemathesis. `fuzz_bytes` has the decoders; atheris drives them (`fuzz_search`)
where it is installed (`pip install headwaiter[fuzz]`), else they are left out. A fault of any kind is an error of the
command.
"""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import requests

from bench.fuzz_bytes import TARGETS
from bench.fuzz_cases import TRACE, Ledger, fuzz
from bench.headwaiter_server import environment_of
from bench.models import encoder_folder, small_llama, tiny_bert
from bench.processes import BenchError, free_port, run_module, serving
from bench.report import table
from registry.heads import get_head

REQUESTS, QUICK_REQUESTS = 100_000, 1_000
TASKS = ("text-classification", "token-classification", "question-answering", "fill-mask")
CLI = "serving.commands.main"


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5 for 1/100 of the requests."""
    count = int(os.environ.get("HEADWAITER_FUZZ_CASES") or (REQUESTS if seconds >= 5 else QUICK_REQUESTS))
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as home:
        ledger = _fuzz_server(Path(home), count)
    _fuzz_decoders(count)
    return "\n".join([f"## Fuzz: {ledger.count:,} requests", "", *_describe(ledger)])


def _models() -> dict[str, Path]:
    """Checkpoints by the task that each is served for, which is the model's name, too."""
    found = {task: tiny_bert(get_head(task).auto_class) for task in TASKS}
    return found | {"feature-extraction": encoder_folder(), "text-generation": small_llama()}


@contextlib.contextmanager
def _served(home: Path, models: Mapping[str, Path]) -> Iterator[str]:
    """Serve the models while the block runs; the server's URL. Its log is `serve.log`."""
    environment = environment_of(home)
    for task, folder in models.items():
        options = ["--default", "pooling=mean"] if task == "feature-extraction" else []
        run_module([CLI, "log", str(folder), "--task", task, "--name", task, *options], environment)
        run_module([CLI, "promote", task, "1", "--why", "bench"], environment)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving([CLI, "serve", *models, "--port", str(port)], environment, f"{url}/readyz", home / "serve.log"):
        yield url


def _fuzz_server(home: Path, count: int) -> Ledger:
    models = _models()
    with _served(home, models) as url, httpx.Client(timeout=60) as client:
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=60) as answer:
            document = json.load(answer)

        def send(sent: requests.PreparedRequest) -> httpx.Response:
            address = (sent.url or "").replace("http://here", url, 1)
            headers = {name: value for name, value in sent.headers.items() if isinstance(value, str)}
            content = sent.body if isinstance(sent.body, str | bytes) else None
            ask = partial(client.request, sent.method or "", address, headers=headers, content=content)
            try:
                return ask()
            except httpx.RemoteProtocolError:  # the server may close an idle connection while a request is under way
                return ask()

        ledger = fuzz(document, {name: name for name in models}, send, count)
    log = (home / "serve.log").read_text(errors="replace")
    if trace := TRACE.search(log):
        ledger.faults["a traceback in the log"] = log[max(0, trace.start() - 500) : trace.end() + 3000]
    if ledger.faults:
        raise BenchError("\n\n".join(f"{kind}\n{what}" for kind, what in ledger.faults.items()))
    return ledger


def _fuzz_decoders(count: int) -> None:
    """Let atheris search for a body that a decoder does not refuse as it should. Raises BenchError for one."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: the decoders are left out", file=sys.stderr)
        return
    for name in TARGETS:
        run_module(["bench.fuzz_search", name, f"-runs={count}", "-max_len=4096", "-seed=1"], dict(os.environ))


def _describe(ledger: Ledger) -> list[str]:
    statuses = sorted({status for _, status in ledger.answers})
    counts = [sum(times for (_, each), times in ledger.answers.items() if each == status) for status in statuses]
    header = ["", *map(str, statuses)]
    decoders = f"Decoders: {', '.join(TARGETS)}." if importlib.util.find_spec("atheris") else "Without atheris."
    return [table(header, [["answers", *(f"{count:,}" for count in counts)]]), "", f"No fault. {decoders}"]
