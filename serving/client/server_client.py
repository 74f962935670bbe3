"""A running server, as the command line and MLflow's deployments see it: over HTTP, with every wait bounded."""

import json
import reprlib
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request

from serving.client.client_settings import ClientSettings
from serving.errors import RemoteError
from serving.runtime.foreign_http import read_answer

Described = Mapping[str, Any]
"""What a server tells of itself: plain data to be shown."""
ASK_SECONDS = 10.0
PREDICT_SECONDS = 120.0
"""Longer than a server's own deadline for a request, unless that was changed."""
MAX_ANSWER_BYTES = 1 << 26
"""Of an answer's body that are read. Untuned: 32 rows with an embedding for each token take less."""
MAX_MESSAGE_CHARACTERS = 2000


class Remote:
    """The server at `url`, an http:// or https:// address; raises RemoteError for any other.

    key: is shown to it; default: `HEADWAITER_API_KEY`.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise RemoteError(f"{url!r} is no http:// or https:// address: write it as http://HOST:3000")
        self.url = url.rstrip("/")
        self._key = ClientSettings.from_environment().api_key if key is None else key

    def status(self) -> Described:
        """`GET /models`: everything that is served."""
        found = self._ask("/models", None, ASK_SECONDS)
        models = found.get("models") if isinstance(found, dict) else None
        if (
            not isinstance(found, dict)
            or not isinstance(models, list)
            or not all(isinstance(model, dict) and isinstance(model.get("name"), str) for model in models)
        ):
            shown = f"its /models is {reprlib.repr(found)[:80]!r}"
            raise RemoteError(f"what answers at {self.url} is no Headwaiter ({shown}): give the URL of one")
        if "registry_error" not in found:
            raise RemoteError(
                f"{self.url} tells its state to operators only: give HEADWAITER_API_KEY a key with --admin"
            )
        return found

    def model(self, name: str) -> Described | None:
        """The model's part of `status`, None if the server does not know it."""
        return next((model for model in self.status()["models"] if model["name"] == name), None)

    def predict(self, name: str, body: dict[str, object]) -> object:
        """`POST /models/{name}`: the answer. A refusal is a RemoteError with the server's message and status."""
        try:
            data = json.dumps(body).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RemoteError(
                f"the inputs are not JSON ({error}): give texts, numbers, lists and dicts", 422
            ) from error
        return self._ask(f"/models/{quote(name, safe='')}", data, PREDICT_SECONDS)

    def _ask(self, path: str, body: bytes | None, seconds: float) -> object:
        request = Request(self.url + path, data=body, headers={"Content-Type": "application/json"})
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")  # for this server alone
        try:
            return json.loads(read_answer(request, seconds, MAX_ANSWER_BYTES))
        except HTTPError as error:
            hint = ", or set HEADWAITER_API_KEY" if error.code == HTTPStatus.UNAUTHORIZED else ""
            raise RemoteError(f"{self.url}{path} answered {error.code}: {_message(error)}{hint}", error.code) from error
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise RemoteError(
                f"no Headwaiter answers at {self.url} ({getattr(error, 'reason', error)}): see that it runs, or give "
                "its URL"
            ) from error


def _message(error: HTTPError) -> str:
    """The message in a Headwaiter error body, or else the HTTP reason."""
    try:
        with error:
            return str(json.loads(error.read())["error"])[:MAX_MESSAGE_CHARACTERS]
    except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError):
        return error.reason
