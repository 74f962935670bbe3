"""The JSON results of the load generator and of the limit, and the calls that run them."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.processes import Server, run_module


class LoadResult(msgspec.Struct, frozen=True):
    """One run of the load generator. Only answers with status 200 count in rate and percentiles.

    requests: answered in the measured time. p50_ms, p90_ms, p99_ms: milliseconds from request to whole answer, 0 where
    nothing was answered. errors: status, or "lost" for a broken connection, to count. client_cpu_share: of one core.
    refused_p99_ms: from sending to an answer with status 429 or 503. retry_after: what these answers say → how many.
    ever: status → how many, "200" included, of the whole run and not of the measured time only.
    """

    connections: int
    seconds: float
    requests: int
    requests_per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    errors: dict[str, int]
    client_cpu_share: float
    refused_p99_ms: float = 0.0
    retry_after: dict[str, int] = {}  # msgspec copies it
    ever: dict[str, int] = {}


class LimitResult(msgspec.Struct, frozen=True):
    """The bare forward limit. sequences_per_second: by token budget. padding: by token budget, share of all tokens."""

    threads: int
    sequences_per_second: dict[int, float]
    padding: dict[int, float]


class StreamResult(msgspec.Struct, frozen=True):
    """One run of the streaming client. tokens: new ones of all texts. first_token_p50_ms, …: from request to text.

    whole_p50_ms, …: from request to the end of the text.
    """

    streams: int
    tokens: int
    tokens_per_second: float
    first_token_p50_ms: float
    first_token_p99_ms: float
    whole_p50_ms: float
    whole_p99_ms: float


def run_load(
    server: Server,
    texts: Sequence[str | list[str]],
    connections: int,
    seconds: float,
    per_second: float = 0.0,
    *,
    drain_seconds: float | None = None,
) -> LoadResult:
    """Load `server` with one text, or several, per request for `seconds` after a warm-up. Blocks; raises BenchError.

    per_second: how many requests come, over as many connections at most; 0 for a closed loop. drain_seconds: after
    which all clients leave at the end; default: enough for what was sent.
    """
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as folder:
        bodies = Path(folder) / "bodies.jsonl"
        bodies.write_text("".join(json.dumps(server.request(text)) + "\n" for text in texts), encoding="utf-8")
        arguments = ["bench.load", "--url", server.url, "--bodies", str(bodies)]
        arguments += ["--connections", str(connections), "--seconds", str(seconds)]
        arguments += ["--rate", str(per_second)]
        arguments += ["--drain-seconds", str(drain_seconds)] if drain_seconds is not None else []
        return msgspec.json.decode(run_module(arguments, os.environ), type=LoadResult)


def run_streams(url: str, bodies: Sequence[dict[str, object]], streams: int) -> StreamResult:
    """Stream the answers of all bodies over `streams` connections. Blocks; raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as folder:
        return msgspec.json.decode(
            run_module(streams_command(Path(folder), url, bodies, streams), os.environ), type=StreamResult
        )


def streams_command(folder: Path, url: str, bodies: Sequence[dict[str, object]], streams: int) -> list[str]:
    """The command line of the streaming client, with its bodies in a file in `folder`."""
    file = folder / "bodies.jsonl"
    file.write_text("\n".join(map(json.dumps, bodies)), encoding="utf-8")
    return ["bench.streams", "--url", url, "--bodies", str(file), "--streams", str(streams)]


def run_limit(
    folder: Path,
    texts: Sequence[str],
    dtype: str,
    device: str,
    budgets: Sequence[int],
    wait_policy: str,
    seconds: float,
) -> LimitResult:
    """Measure the bare forward limit for at least `seconds` per token budget. Blocks; raises BenchError.

    wait_policy: how OpenMP's threads wait for each other, "PASSIVE" or "" for its default, which spins.
    """
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as scratch:
        lines = Path(scratch) / "texts.txt"
        lines.write_text("\n".join(texts), encoding="utf-8")
        arguments = ["bench.limit", "--model", str(folder), "--texts", str(lines), "--dtype", dtype, "--device", device]
        arguments += ["--budgets", ",".join(map(str, budgets)), "--seconds", str(seconds)]
        environment = os.environ | {"OMP_WAIT_POLICY": wait_policy}
        if not wait_policy:
            del environment["OMP_WAIT_POLICY"]
        return msgspec.json.decode(run_module(arguments, environment), type=LimitResult)
