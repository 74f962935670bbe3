"""The process that renders chat templates: `python -m serving.processors.template_renderer`; see template_process.

The environment is that of transformers' `render_jinja_template` (5.23). Templates come with a checkpoint, so they run
in Jinja's immutable sandbox and see plain data only. The process may take MEMORY_BYTES more than it has at the start;
the kernel ends it once a job has used its time of the processor.
"""

import json
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from registry.redaction import describe_error
from serving.processors.template_process import SLOW, Job, Reply, read_frame, write_frame

MEMORY_BYTES = 256 * 2**20
"""Untuned: the largest prompt has 8 million characters."""
SPARE_SECONDS = 0.5
"""Processor time after which the kernel ends a job that does not notice that its time is over."""
COMPILED = 16
"""Templates that are kept."""


class OverTime(Exception):
    """A template takes too long."""


class Deadline:
    """Of the job. at: seconds of this process' processor time; others may keep it from running for seconds."""

    at = math.inf

    def check(self) -> None:
        """Raise OverTime once it has passed."""
        if time.process_time() >= self.at:
            raise OverTime


deadline = Deadline()


class Generation(Extension):
    """Ignores `{% generation %}`, which marks the assistant's messages for training."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        """The block's body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        return str(caller())


class Namespace(jinja2.utils.Namespace):
    """Refuses names that begin with an underscore, which would reach Python's internals."""

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set {name!r}")
        super().__setitem__(name, value)


def namespace(*args: Mapping[str, object], **given: object) -> Namespace:
    """An object whose fields a template may set."""
    found = Namespace()
    for name, value in dict(*args, **given).items():
        found[name] = value
    return found


def refuse(message: str) -> None:
    """Let a template refuse its messages."""
    raise jinja2.exceptions.TemplateError(message)


class Sandbox(ImmutableSandboxedEnvironment):
    """Looks at the deadline whenever a template reads or calls something, as every loop that works does."""

    def getattr(self, obj: object, attribute: str) -> object:
        """As in Jinja."""
        deadline.check()
        return super().getattr(obj, attribute)

    def getitem(self, obj: object, argument: object) -> object:
        """As in Jinja."""
        deadline.check()
        return super().getitem(obj, argument)

    def call(self, /, *args: Any, **given: Any) -> object:
        """As in Jinja."""
        deadline.check()
        return super().call(*args, **given)


def _environment() -> jinja2.Environment:
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=refuse,
        strftime_now=lambda form: datetime.now().strftime(form),  # noqa: DTZ005  # the local day, as in transformers
        dict=lambda *args, **given: dict(*args, **given),
        namespace=namespace,
    )
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Renderer:
    """Does jobs one after the other."""

    def __init__(self) -> None:
        self._compile = lru_cache(COMPILED)(_environment().from_string)

    def work(self, job: Job) -> Reply:
        """Do a job. Never raises."""
        deadline.at = time.process_time() + job.max_seconds
        try:
            template = self._compile(job.source)
            return Reply() if job.variables is None else self._render(template, job.variables, job.max_characters)
        except OverTime:
            return Reply("broken", SLOW)
        except MemoryError:
            return Reply("broken", "too much memory")
        except BaseException as error:  # a template is a program: on odd messages it may raise anything
            return Reply("failed", describe_error(error))

    def _render(self, template: jinja2.Template, variables: Mapping[str, object], max_characters: int) -> Reply:
        parts, size = [], 0
        for part in template.generate(variables):
            deadline.check()
            parts.append(part)
            size += len(part)
            if size > max_characters:
                return Reply("oversized")
        return Reply("done", "".join(parts))


def main() -> None:
    """Do the jobs that come in at standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the server, which closes the input
    renderer = Renderer()
    with suppress(OSError, ValueError):  # only Linux tells the size
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while (frame := read_frame(source)) is not None:
        job = msgspec.msgpack.decode(frame, type=Job)
        signal.setitimer(signal.ITIMER_PROF, job.max_seconds + SPARE_SECONDS)
        reply = renderer.work(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        try:
            write_frame(target, msgspec.msgpack.encode(reply))
        except UnicodeEncodeError as error:  # half of a character
            write_frame(target, msgspec.msgpack.encode(Reply("failed", describe_error(error))))


if __name__ == "__main__":
    main()
