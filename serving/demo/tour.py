"""The demo: fine-tune, log, register, serve, ask, look at the metrics, promote, roll back. All of it for real.

Everything lies in one folder, which is removed at the end if the demo made it; the server is a process of its own,
started by the command line that a user would type.
"""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx

from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.demo.dataset import EVALUATION
from serving.demo.latency import read_latencies
from serving.demo.server import SWAP_SECONDS, Say, demo_folder, serve_model, use_home, wait
from serving.demo.training import fine_tune, pretrained_encoder

NAME = "support-desk"
QUESTIONS = (
    "where is my parcel, it should have been here on Monday",
    "you charged my card twice for one order!",
    "I can't log in, the reset mail never arrives",
    "honestly the nicest staff I have ever dealt with",
)
BURST_REQUESTS = 400
BURST_CONNECTIONS = 16


def run_demo(*, port: int, once: bool, home: Path | None, say: Say) -> None:
    """Run it and print its progress with `say`. Blocks until Ctrl-C, or until it is done if `once`.

    home: a folder to keep; None for one that is removed. Raises EngineError if the server does not come up.
    """
    began = time.perf_counter()
    with demo_folder(home) as folder:
        settings = use_home(folder)
        _make_versions(folder, settings, say)
        with serve_model(folder, NAME, port, say) as client:
            _show(client, settings, say)
            say(f"\nDone in {time.perf_counter() - began:.0f} s.")
            if not once:
                _stay(folder, port, say)


def _make_versions(home: Path, settings: RegistrySettings, say: Say) -> None:
    say("1. Fine-tuning a pretrained MiniLM to sort a support desk's messages …")
    trained = fine_tune(pretrained_encoder(), home / "trained", progress=lambda line: say(f"   {line}"))
    say("\n2. Logging two versions to MLflow, each with its contract …")
    for candidate in trained:
        logged = log_model(candidate.folder, task="text-classification", name=NAME, settings=settings)
        say(
            f"   {NAME}/{logged.version}: {logged.contract.model_class}, {len(logged.contract.labels)} labels, "
            f"{candidate.accuracy:.0%} right on {len(EVALUATION)} sentences it never saw"
        )
    Versions(settings).promote(NAME, "1", why="the first one")
    say(f"   {NAME}@champion is version 1")


def _show(client: httpx.Client, settings: RegistrySettings, say: Say) -> None:
    engine = client.get(f"/models/{NAME}").json()["versions"]["1"]["engines"][0]
    say(f"   on {engine['device']} in {engine['dtype']}, batches of up to {engine['budget_tokens']} tokens")
    say(f"\n4. POST /models/{NAME}")
    for question in QUESTIONS:
        _ask(client, question, say)
    say(f"\n5. {BURST_REQUESTS} requests over {BURST_CONNECTIONS} connections, then GET /metrics")
    _burst(client)
    for line in read_latencies(client.get("/metrics").text):
        say(f"   {line}")
    versions = Versions(settings)
    for number, action, expected in ((6, "promote", "2"), (7, "rollback", "1")):
        shown = f"promote {NAME} {expected}" if action == "promote" else f"rollback {NAME}"
        say(f"\n{number}. headwaiter {shown} --why demo")
        began = time.perf_counter()
        if action == "promote":
            versions.promote(NAME, expected, why="demo")
        else:
            versions.rollback(NAME, why="demo")
        wait(partial(_is_live, client, expected), f"version {expected} to be live", SWAP_SECONDS)
        say(
            f"   version {expected} answers after {time.perf_counter() - began:.2f} s; no request was refused meanwhile"
        )
        _ask(client, QUESTIONS[0], say)


def _ask(client: httpx.Client, question: str, say: Say) -> None:
    answer = client.post(f"/models/{NAME}", json={"inputs": question})
    best = answer.json()[0][0]
    say(f"   {question!r}\n     → {best['label']} ({best['score']:.2f})  version {answer.headers['x-model-version']}")
    say(f"       {answer.headers['server-timing']} (ms)")


def _burst(client: httpx.Client) -> None:
    texts = [EVALUATION[index % len(EVALUATION)].text for index in range(BURST_REQUESTS)]
    with ThreadPoolExecutor(BURST_CONNECTIONS) as pool:
        for answer in pool.map(lambda text: client.post(f"/models/{NAME}", json={"inputs": text}), texts):
            answer.raise_for_status()


def next_steps(home: Path, port: int) -> list[str]:
    """The lines that say what can be done with the server that stays up: commands, and addresses to look at."""
    url = f"http://127.0.0.1:{port}"
    return [
        "The server stays up until Ctrl-C. In another terminal:",
        "",
        f"  export HEADWAITER_HOME={home}",
        f"""  curl {url}/models/{NAME} -d '{{"inputs": "my order arrived broken"}}'""",
        f"  headwaiter status {url}",
        f"  headwaiter promote {NAME} 2 --why 'by hand'",
        f"  headwaiter history {NAME}",
        f"  curl {url}/metrics",
        f"  headwaiter monitoring export {home}/monitoring",
        "",
        f"The API's page is {url}/ ; the last command writes the dashboards and alerting rules.",
    ]


def _stay(home: Path, port: int, say: Say) -> None:
    say("\n" + "\n".join(next_steps(home, port)))
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("\nStopping …")


def _is_live(client: httpx.Client, version: str) -> bool:
    answer = client.post(f"/models/{NAME}", json={"inputs": "hello"}).raise_for_status()
    return answer.headers["x-model-version"] == version
