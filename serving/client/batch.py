"""Many inputs from a file through a running server: `headwaiter batch`. Answers are in the order of the inputs.

Enough requests are on their way for the engine to fill its batches. Answers go to a file beside the output, line by
line, so a batch that was killed goes on where it was.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol

from registry.environment import InvalidSetting
from serving.client.batch_files import InputRow, kind_of, read_rows, write_answers
from serving.errors import RemoteError

ROWS = 32
"""Of a request."""
REQUESTS = 32
"""On their way at once. Untuned: 1,024 rows are several full batches."""
LATER = (0, 429, 502, 503, 504)
"""Statuses after which the same request is tried again; 0 for no answer."""
NEVER = (401, 403, 404)
"""Statuses that no other row would change."""
FIRST_PAUSE, LAST_PAUSE = 0.2, 10.0
"""Seconds between two tries."""


class BatchServer(Protocol):
    """What is asked: `serving.client.server_client.Remote`."""

    def predict(self, name: str, body: dict[str, object]) -> object:
        """The answers to `{"inputs": [...]}`, or RemoteError."""


class BatchRun:
    """One file of inputs, `source`, whose answers go to `target`.

    patience_seconds: how long a server may not answer, or be full, before the batch ends with its RemoteError.
    """

    def __init__(
        self, server: BatchServer, name: str, source: Path, target: Path, patience_seconds: float = 600.0
    ) -> None:
        kind_of(source)
        kind_of(target)
        if target.exists():
            raise InvalidSetting(f"{target} is there already: remove it, or name another file")
        self._server, self._name, self._source, self._target = server, name, source, target
        self._patience_seconds = patience_seconds
        self._part = target.with_name(f"{target.name}.part")
        self.errors = target.with_name(f"{target.name}.errors.jsonl")

    def run(self, announce: Callable[[int], object] = int) -> tuple[int, int]:
        """Answer all rows; returns how many rows there are and how many of them are bad.

        announce: is told how many are done. A bad row has the answer null, and stands in the file `errors` with its
        number and the reason. Blocks. Raises RemoteError, OSError, InvalidSetting.
        """
        done = self._resume()
        rows = islice(read_rows(self._source), done, None)
        with self._part.open("ab") as part, self.errors.open("ab") as errors, ThreadPoolExecutor(REQUESTS) as pool:
            waiting: deque[tuple[list[InputRow], Future[list[tuple[object, str]]]]] = deque()
            try:
                while True:
                    while len(waiting) < 2 * REQUESTS and (chunk := list(islice(rows, ROWS))):
                        waiting.append((chunk, pool.submit(self._answer, chunk)))
                    if not waiting:
                        break
                    chunk, answers = waiting.popleft()
                    found = answers.result()
                    errors.write(b"".join(_problems(chunk, found)))
                    errors.flush()  # first: what is in the other file counts as done
                    part.write(b"".join(_line(answer) for answer, _ in found))
                    part.flush()
                    done += len(chunk)
                    announce(done)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        bad = _cut(self.errors, lambda _: True)
        write_answers(self._part, self._target)
        if not bad:
            self.errors.unlink()
        return done, bad

    def _resume(self) -> int:
        """How many rows an earlier run has done. What it left half written is taken back."""
        done = _cut(self._part, lambda _: True)
        _cut(self.errors, lambda line: json.loads(line)["row"] < done)
        return done

    def _answer(self, rows: Sequence[InputRow]) -> list[tuple[object, str]]:
        """Each row's answer and problem; one of the two is empty. A request that is refused is asked in halves."""
        asked = [row for row in rows if not row.problem]
        answers = iter(self._ask([row.input for row in asked]) if asked else ())
        return [(None, row.problem) if row.problem else next(answers) for row in rows]

    def _ask(self, inputs: list[object]) -> list[tuple[object, str]]:
        try:
            answers = self._ask_patiently(inputs)
        except RemoteError as error:
            if error.status in (*LATER, *NEVER):
                raise
            if len(inputs) == 1:
                return [(None, str(error))]
            half = len(inputs) // 2
            return self._ask(inputs[:half]) + self._ask(inputs[half:])
        if not isinstance(answers, list) or len(answers) != len(inputs):
            raise RemoteError(
                f"{len(inputs)} inputs of {self._name} got what is no list of as many answers: see that the URL is a "
                "Headwaiter's"
            )
        return [(answer, "") for answer in answers]

    def _ask_patiently(self, inputs: list[object]) -> object:
        """The answer to the request. Tries again while the server is full or away."""
        deadline, pause = time.monotonic() + self._patience_seconds, FIRST_PAUSE
        while True:
            try:
                return self._server.predict(self._name, {"inputs": inputs})
            except RemoteError as error:
                if error.status not in LATER or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)


def _line(answer: object) -> bytes:
    """The line of JSON. A lone surrogate, which UTF-8 cannot have, becomes its escape, which JSON reads as the same."""
    return json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _problems(rows: Sequence[InputRow], found: Sequence[tuple[object, str]]) -> Iterator[bytes]:
    for row, (_, problem) in zip(rows, found, strict=True):
        if problem:
            yield _line({"row": row.number, "reason": problem, "input": row.input})


def _cut(path: Path, is_kept: Callable[[bytes], bool]) -> int:
    """Keep the whole lines of a file up to the first one that is not kept; returns their number, 0 without a file."""
    if not path.exists():
        return 0
    kept = end = 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n") or not is_kept(line):
                break
            kept, end = kept + 1, end + len(line)
        file.truncate(end)
    return kept
