"""Processes that render chat templates: each does one job at a time, and is replaced once a template has ended it.

They have neither credentials nor files of the server, and end with the process that started them, as their input does.
"""

import atexit
import signal
import struct
import subprocess
import threading
from contextlib import suppress
from typing import IO, Any, Literal

import msgspec

from registry.child_process import child_environ, module_command

MAX_IDLE = 2
"""Processes that wait for the next job: as many as render at a time."""
ANSWER_SECONDS = 60.0
"""A process that has not answered by then is ended. Its own limit is of processor time, which others may take."""
SLOW = "too long"
_SIZE = struct.Struct("<I")


class TemplateFailed(Exception):
    """The template cannot be compiled, or refuses its variables; the message says why."""


class Broken(TemplateFailed):
    """The template was ended; the message says what it took, such as "too long"."""


class Oversized(TemplateFailed):
    """The text is longer than it may be."""


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A template and its variables, which are plain data; without them it is only compiled."""

    source: str
    variables: dict[str, Any] | None
    max_characters: int = 0
    max_seconds: float = 0.0


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """text: rendered, or why not."""

    outcome: Literal["done", "failed", "broken", "oversized"] = "done"
    text: str = ""


def run_job(job: Job) -> str:
    """Render a template in a process of its own. Blocks. Raises TemplateFailed, and OSError where none can start."""
    frame = msgspec.msgpack.encode(job)
    process = _take()
    try:
        reply = process.ask(frame)
    except BaseException:
        process.close()
        raise
    _give_back(process)
    match reply.outcome:
        case "done":
            return reply.text
        case "oversized":
            raise Oversized
        case "broken":
            raise Broken(reply.text)
        case "failed":
            raise TemplateFailed(reply.text)


class RenderingProcess:
    """One process. For one thread at a time."""

    def __init__(self) -> None:
        """Raises OSError."""
        command = module_command("serving.processors.template_renderer")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=child_environ(), cwd="/")

    @property
    def has_ended(self) -> bool:
        """Whether it was killed while it waited."""
        return self._process.poll() is not None

    def ask(self, frame: bytes) -> Reply:
        """The reply to a job. Raises Broken where the process ends."""
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        answer = None
        deadline = threading.Timer(ANSWER_SECONDS, self._process.kill)
        deadline.start()
        try:
            with suppress(BrokenPipeError):
                write_frame(target, frame)
                answer = read_frame(source)
        finally:
            deadline.cancel()
        if answer is not None:
            return msgspec.msgpack.decode(answer, type=Reply)
        self._process.kill()
        is_slow = self._process.wait() in (-signal.SIGPROF, -signal.SIGKILL)
        raise Broken(SLOW if is_slow else "too much memory")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                with suppress(OSError):  # what was not written
                    end.close()


def read_frame(source: IO[bytes]) -> bytes | None:
    """The next frame; None at the end."""
    head = source.read(_SIZE.size)
    if len(head) < _SIZE.size:
        return None
    (size,) = _SIZE.unpack(head)
    frame = source.read(size)
    return frame if len(frame) == size else None


def write_frame(target: IO[bytes], frame: bytes) -> None:
    """Write a frame."""
    target.write(_SIZE.pack(len(frame)) + frame)
    target.flush()


_idle: list[RenderingProcess] = []
_lock = threading.Lock()


def _take() -> RenderingProcess:
    while True:
        with _lock:
            process = _idle.pop() if _idle else None
        if process is None:
            return RenderingProcess()
        if not process.has_ended:
            return process
        process.close()


def _give_back(process: RenderingProcess) -> None:
    with _lock:
        if len(_idle) < MAX_IDLE:
            _idle.append(process)
            return
    process.close()


def _close_all() -> None:
    while _idle:
        _idle.pop().close()


atexit.register(_close_all)
