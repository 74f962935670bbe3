"""The page at `/ui`: static files of the folder `ui`, held in memory.

A request names one of the files that were read at the start, so no path of a request reaches the file system. The page
is public and holds no data: its calls to the other routes carry the key that the user types.
"""

from importlib.resources import files

import msgspec

from serving.errors import ServingError, UnknownModel, WrongMethod
from serving.front.asgi import Header, JsonObject, Receive, Scope, Send, respond
from serving.front.request_context import RequestContext

INDEX = "index.html"
FOLDER = "ui"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Ending of a file's name → its content type. Files of other endings are not served."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # blob: the preview of a chosen image
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content Security Policy Level 3: own files only, nothing inline, no frame, no text that becomes markup."""
HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)
"""Of each file. no-cache: a browser asks again, so a page of an earlier release never meets this release's routes."""


class File(msgspec.Struct, frozen=True):
    """A content type and the content."""

    kind: str
    content: bytes


def read_files() -> dict[str, File]:
    """The files of the page by name."""
    found = {}
    for entry in files(__package__).joinpath(FOLDER).iterdir():
        kind = TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None:
            found[entry.name] = File(kind, entry.read_bytes())
    return found


class UiPage:
    """`GET /ui` and `GET /ui/{file}`."""

    def __init__(self) -> None:
        self.files = read_files()
        page = self.files.pop(INDEX)
        beside = page.content.replace(f'="{FOLDER}/'.encode(), b'="')
        self._pages = {False: page, True: File(page.kind, beside)}
        """Whether the path ends with a slash → the page. Links are relative, so that a proxy may add a prefix."""

    async def __call__(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        file = self._pages[scope["path"].endswith("/")] if len(parts) == 1 else self.files.get("/".join(parts[1:]))
        if file is None:
            missing = "the page has no such file" if len(parts) == 2 else "there is no such route"
            raise UnknownModel(f"{missing}; GET /ui")
        if scope["method"] not in ("GET", "HEAD"):
            raise WrongMethod(scope["method"], "GET")
        context = RequestContext.read(scope["headers"])
        headers = [(b"content-type", file.kind.encode()), context.header, *HEADERS]
        await respond(send, 200, file.content, headers)

    def describe(self, error: ServingError) -> JsonObject:
        """The body of an error."""
        return {"error": error.message, "error_type": error.reason}
