"""What pages of other origins may do: `HEADWAITER_CORS_ORIGINS`.

Which answers they may read, the Fetch standard's CORS protocol tells browsers. Some requests they may send without it,
and a server that asks for no key would do what these say. So they are refused there, by what a browser tells of each.
"""

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware

from registry import patterns
from serving.errors import Forbidden
from serving.front.asgi import App, Scope
from serving.front.host_names import name_and_port

ORIGIN, SITE = b"origin", b"sec-fetch-site"
BROWSER_HEADERS = frozenset({ORIGIN, SITE})
"""That browsers alone send, and no page can change."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110, 9.2.1: they change nothing, and no route loads a version for one, see `VisibleModels.known`."""
PORTS = {"http": "80", "https": "443"}
"""Of each scheme that pages come by; an origin and a `Host` leave it out."""

PREFLIGHT_SECONDS = 3600
"""How long a browser may keep the answer to a preflight request; browsers bound it themselves."""
EXPOSED = ("X-Model-Version", "X-Request-Id", "Server-Timing", "Retry-After", "Inference-Header-Content-Length")
"""The headers of an answer that pages may read."""


def allow_origins(app: App, origins: Sequence[str]) -> App:
    """The app, which answers preflight requests and marks its answers for these origins; `app` itself for none.

    Keys travel in headers of a request's own and may be sent; cookies may not.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=list(EXPOSED),
        max_age=PREFLIGHT_SECONDS,
    )


def check_origin(scope: Scope, origins: Sequence[str]) -> None:
    """Raise Forbidden for a request of a page of another origin, unless it is one of `origins`.

    By `Sec-Fetch-Site` (Fetch Metadata), which browsers send over TLS and to addresses of this machine; else by
    `Origin` and `Host`. A request with neither of the two comes from no page.
    """
    if scope["method"] in SAFE_METHODS:
        return
    headers = dict(scope["headers"])
    origin, site = headers.get(ORIGIN, b"").decode("latin-1"), headers.get(SITE, b"")
    if "*" in origins or origin in origins:
        return
    if site:
        is_own = site in (b"same-origin", b"none")
    else:
        is_own = not origin or _is_own(origin, headers.get(b"host", b""), scope["scheme"])
    if not is_own:
        raise Forbidden(
            f"a page of {origin or 'another origin'} sent this, and without keys only pages of this server may: let "
            "HEADWAITER_CORS_ORIGINS name its origin, or ask for keys"
        )


def _is_own(origin: str, host: bytes, scheme: str) -> bool:
    """Whether a page of this origin is one of the server that a request with this `Host` came to.

    scheme: that the server speaks itself. Behind one of plain HTTP a proxy may speak TLS to browsers, so both are its
    own; what speaks TLS has no pages of HTTP. A `Host` without a port leaves out the one of the origin's scheme.
    """
    origin, own = origin.lower(), name_and_port(host)
    if not re.fullmatch(patterns.ORIGIN, origin) or own is None:
        return False
    asked, _, rest = origin.partition("://")
    given = name_and_port(rest.encode())
    port = PORTS[asked]
    return (
        given is not None
        and (asked == scheme or scheme == "http")
        and (own[0], own[1] or port) == (given[0], given[1] or port)
    )
