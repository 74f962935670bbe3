"""The errors of a request, and the one table from cause to HTTP status and metric label.

ServingError
├── Malformed          400   not JSON, not the protocol's form
├── Unauthorized       401   the key or the signature is missing or wrong
├── Forbidden          403   the key does not allow this
├── UnknownModel       404   no such model or version here
├── WrongMethod        405   the route exists, the method does not
├── TooSlow            408   headers or body did not come in time
├── TooLarge           413   more bytes, rows, tokens or memory than a request may have
├── WrongHost          421   sent to a name that this server does not answer to
├── HeadTooLarge       431   more headers than a request may have
├── Unprocessable      422   well formed, but wrong for the task: names the field and the rule
├── UnknownCoding      501   a transfer coding of the body other than chunked
├── QueueFull          429   no room in the queue now; Retry-After says when
├── KeyLimitReached    429   the key's rate or concurrency is used up; Retry-After says when
├── Overloaded         503   the front has no room for the request; Retry-After says when
├── NotReady           503   no engine of that version answers now; Retry-After says when
│   ├── EngineLost     503   the engine ended while it had the request
│   └── NotLoaded      503   no engine of that version runs now; one is started for the request
├── ClientGone         499   the client left before the answer; only metrics and logs show it
├── DeadlineExceeded   504   the answer did not come in time
└── Failed             500   the model failed on this very input
"""

from typing import ClassVar

from registry.redaction import RedactedError

MLFLOW_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status → MLflow's error code. Of several that MLflow (3.17) has for a status it is the one that says most."""


def mlflow_code(status: int) -> str:
    """MLflow's error code for a refusal with this HTTP status; 0 where no server answered."""
    if status == 0:
        return "TEMPORARILY_UNAVAILABLE"
    return MLFLOW_CODES.get(status, "INVALID_PARAMETER_VALUE" if 400 <= status < 500 else "INTERNAL_ERROR")


FAILED_ON_INPUT = "the model failed on this input: change it or leave it out; the server's log tells the kind of error"
NOT_FINITE = (
    "the model answered with a number that is not finite, as after an overflow: change the input or leave it out, or "
    "log the model with dtype float32"
)
MAX_MESSAGE = 4000
"""Characters of a message. Of a longer one the middle is left out: it quotes a value, and ends with the way out."""


class ServingError(Exception):
    """Base class. status: HTTP status. reason: a short fixed word for metrics and clients.

    retry_seconds: after which to try again, or None. version: of the model that was asked, once one was chosen.
    field: of the request, where the protocol tells it apart from the message, or "".
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "failed"

    def __init__(self, message: str, *, retry_seconds: float | None = None, field: str = "") -> None:
        if len(message) > MAX_MESSAGE:
            message = f"{message[: MAX_MESSAGE // 2]} … {message[-MAX_MESSAGE // 2 :]}"
        super().__init__(message)
        self.message = message
        self.retry_seconds = retry_seconds
        self.version: str | None = None
        self.field = field


class Malformed(ServingError):
    """The body is not JSON, or not of the protocol's form."""

    status = 400
    reason = "malformed"


class Unauthorized(ServingError):
    """The sender has not shown that it may do this."""

    status = 401
    reason = "unauthorized"


class Forbidden(ServingError):
    """The sender is known, and may not do this."""

    status = 403
    reason = "forbidden"


class UnknownModel(ServingError):
    """This server has no such model, version or route."""

    status = 404
    reason = "unknown_model"


class WrongMethod(ServingError):
    """The route takes another method. allow: the value of the header `Allow`."""

    status = 405
    reason = "wrong_method"

    def __init__(self, given: str, *taken: str) -> None:
        super().__init__(f"this route takes {' and '.join(taken)}, not {given}")
        self.allow = ", ".join(taken).replace("GET", "GET, HEAD")


class TooSlow(ServingError):
    """The client did not send its request, or did not read the answer, as fast as it must."""

    status = 408
    reason = "too_slow"


class HeadTooLarge(ServingError):
    """The request has more headers, or more bytes of them, than one may have."""

    status = 431
    reason = "headers_too_large"


class WrongHost(ServingError):
    """The request was sent to a host name that this server does not answer to."""

    status = 421
    reason = "wrong_host"


class TooLarge(ServingError):
    """The request has, or comes to, more bytes, rows, tokens or memory than one may."""

    status = 413
    reason = "too_large"


class Unprocessable(ServingError):
    """The request is well formed but breaks a rule of the task; the message names the field and the rule."""

    status = 422
    reason = "unprocessable"


class UnknownCoding(ServingError):
    """The body has a transfer coding that this server does not decode."""

    status = 501
    reason = "unknown_coding"


class QueueFull(ServingError):
    """The queue's bound in tokens or bytes is reached; nothing of this request was queued."""

    status = 429
    reason = "queue_full"


class KeyLimitReached(ServingError):
    """The key has asked as often, or asks as much at once, as it may; nothing of this request was read."""

    status = 429
    reason = "key_limit"


class Overloaded(ServingError):
    """The front has as many requests, or as many bytes of them, as it may have; nothing of this one was read."""

    status = 503
    reason = "overloaded"


class NotReady(ServingError):
    """No engine of the version answers now."""

    status = 503
    reason = "not_ready"


class EngineLost(NotReady):
    """The engine ended before it answered. A forward pass changes nothing, so another engine may be asked.

    had_begun: whether it was computing the request, or may have been, so that the request may have been the cause.
    """

    def __init__(self, message: str, *, retry_seconds: float | None = None, had_begun: bool = True) -> None:
        super().__init__(message, retry_seconds=retry_seconds)
        self.had_begun = had_begun


class NotLoaded(NotReady):
    """The version is served and has no engine now: it is loaded once it is asked for.

    key: model and version. load_seconds: how long that took the last time, 0 if unknown.
    """

    def __init__(self, model: str, version: str, load_seconds: float) -> None:
        super().__init__(f"{model}/{version} is not loaded, it is loaded on demand", retry_seconds=load_seconds or 1.0)
        self.key = model, version
        self.load_seconds = load_seconds


class DeadlineExceeded(ServingError):
    """The answer did not come before the request's deadline."""

    status = 504
    reason = "deadline"


class Failed(ServingError):
    """The model failed on this input; its neighbours in the batch are not affected."""


class ClientGone(ServingError):
    """The client left before its answer, so the error is not sent. 499 is nginx's status for it."""

    status = 499
    reason = "client_gone"


class EngineError(RedactedError):
    """An engine could not be brought up; the message is shown in `GET /models/{name}`."""


class EvaluationError(RedactedError):
    """Labelled examples do not fit the model or the file's form; nothing was scored."""


class RemoteError(RedactedError):
    """Another server did not answer, or refused. status: the HTTP status of its refusal, 0 if it did not answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
