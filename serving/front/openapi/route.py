"""What a route is: method, path, protocol, and the contents of its body and its answer. `routes` declares them all."""

from typing import Any, Literal

import msgspec

Method = Literal["GET", "POST"]
Which = Literal["all", "files", "generates", "embeds"]
"""Tasks: all, those that take files, that write texts, or that make embeddings."""
JSON, HTML, EVENTS, BYTES = "application/json", "text/html", "text/event-stream", "application/octet-stream"
TEXT = "text/plain; charset=utf-8"


class Shaped(msgspec.Struct, frozen=True):
    """A content that has one of these types."""

    types: tuple[Any, ...]


class TaskBodies(msgspec.Struct, frozen=True):
    """The body of each task: inputs and parameters."""


class TaskAnswers(msgspec.Struct, frozen=True):
    """The answer of each task, to one input or to a list."""


class Beside(msgspec.Struct, frozen=True):
    """A form whose further fields are the parameters of some tasks."""

    form: type[msgspec.Struct]
    tasks: Which


class Opaque(msgspec.Struct, frozen=True):
    """A content that JSON Schema does not describe, such as events, of which a schema is taken to be one (OpenAPI 3.1).

    tasks: those that have it.
    """

    is_text: bool = False
    tasks: Which = "all"


Schema = Shaped | TaskBodies | TaskAnswers | Beside | Opaque
Contents = dict[str, Schema]
"""Media type → what it holds."""


class Family(msgspec.Struct, frozen=True):
    """Routes of one origin. name: as docs/http.md has it. error: the type of its errors, None for plain text."""

    name: str
    error: Any


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. refusals: statuses of its own errors, beside those of any connection.

    `{name}` is a model, or `name@alias`. status: of the answer. headers: of the answer, beside those of every answer.
    """

    method: Method
    path: str
    protocol: Family
    summary: str
    answer: Contents
    body: Contents | None = None
    status: int = 200
    refusals: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()

    @property
    def operation(self) -> str:
        """A name for clients that are generated."""
        words = "".join(each if each.isalnum() else " " for each in self.path).split()
        return "_".join((self.method.lower(), *words))
