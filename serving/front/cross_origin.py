"""Answers that pages of other origins may read (Fetch standard, CORS protocol): `HEADWAITER_CORS_ORIGINS`."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware

from serving.front.asgi import App

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
