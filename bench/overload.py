"""Benchmark: ten times as many requests as the server can answer come at random moments: how many it still answers, how
soon it refuses the others, and when it is back to normal.
"""

import json
import time
import urllib.request
from statistics import median

from bench.headwaiter_server import headwaiter
from bench.models import encoder_folder, minilm_classifier
from bench.processes import Server
from bench.report import errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import LengthMix, describe_lengths, make_texts, read_words

LONG = LengthMix("long", median=200, p90=240, low=150, high=256)
"""Texts that cost the engine far more than the front and the clients, which share the machine's cores with it."""
CONNECTIONS = 64
OVERLOAD = 10
CLIENTS = 1024
"""More than the queue holds: every request that comes finds a client that is free to send it."""
NORMAL = 1.5
"""The server is back to normal when one request takes at most this many times the median before."""
LATE_SECONDS = 60.0


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each load; the overload lasts six times as long."""
    texts = make_texts(LONG, read_words(encoder_folder() / "vocab.txt"))
    with headwaiter(minilm_classifier()) as (server, engine):
        peak = run_load(server, texts, CONNECTIONS, seconds)
        quiet = median(_ask(server, text) for text in texts[:20])
        offered = OVERLOAD * peak.requests_per_second
        flooded = run_load(server, texts, CLIENTS, 6 * seconds, per_second=offered, drain_seconds=0)
        back = _until_normal(server, texts, NORMAL * quiet)
        after = run_load(server, texts, CONNECTIONS, seconds)
    share = flooded.requests_per_second / max(peak.requests_per_second, after.requests_per_second)
    told = sorted((int(said) if said.isdigit() else 0, count) for said, count in flooded.retry_after.items())
    header = ["MiniLM, one long text", "requests/s", "p50 ms", "p99 ms", "errors"]
    return "\n".join(
        [
            f"## Overload: MiniLM sequence classification, {engine.dtype} on {engine.device}",
            "",
            f"Long texts ({describe_lengths(LONG)}); {rate(offered)} requests/s come for {6 * seconds:.0f} s.",
            "",
            table(header, [_row("before", peak), _row("overload", flooded), _row("after", after)]),
            "",
            f"Answered in overload: {share:.2f} of the best rate (bound: 0.95). Refused within "
            f"{flooded.refused_p99_ms:.1f} ms in 99 % of cases (bound: 10), with Retry-After "
            f"{f'{told[0][0]} to {told[-1][0]} s' if told else '-'}. Once the clients have left one request takes the "
            f"usual {1000 * quiet:.0f} ms again after {back:.1f} s (bound: 2).",
        ]
    )


def _row(name: str, result: LoadResult) -> list[str]:
    return [
        name,
        rate(result.requests_per_second),
        f"{result.p50_ms:.0f}",
        f"{result.p99_ms:.0f}",
        errors([result]),
    ]


def _until_normal(server: Server, texts: list[str], normal_seconds: float) -> float:
    """Seconds from now until the first request that takes the usual time was sent."""
    began = time.perf_counter()
    for text in texts:
        sent = time.perf_counter()
        try:
            if _ask(server, text) <= normal_seconds:
                return sent - began
        except OSError:
            time.sleep(0.05)
        if sent - began > LATE_SECONDS:
            break
    return float("inf")


def _ask(server: Server, text: str) -> float:
    """Seconds until one text is answered; raises OSError where it is refused."""
    body = json.dumps(server.request(text)).encode()
    request = urllib.request.Request(server.url, body, {"Content-Type": "application/json"})
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=LATE_SECONDS) as answer:
        answer.read()
    return time.perf_counter() - began
