"""What texts of other software must not carry to clients and logs: passwords, tokens and keys.

An exception of a library quotes what it was given, such as MLflow its tracking address. `redact` takes the secrets out
of such a text where it becomes one of ours: in the errors of this package, in the log, in what is reported of engines.
Two rules find them: the forms in which secrets are written, and the very values in this process' environment.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"

_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|PAT|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|ACCOUNT_?KEY|"
    r"ENCRYPTION_?KEY|CONNECTION_STRING)(?:_|$)",
    re.IGNORECASE,
)
"""Names of variables whose values are secrets. Whole words only: TOKENIZERS_PARALLELISM and QUEUE_TOKENS are none."""
_NO_SECRET = re.compile(r"_(?:PATH|FILE|FOLDER|DIR|URL|URI)\Z", re.IGNORECASE)
_CREDENTIALS_OF_URL = re.compile(r"[a-z][\w+.-]*://(?P<user>[^:/?#@]*):(?P<password>.*)@", re.IGNORECASE | re.DOTALL)
MAX_TEXT, CUT_EDGE = 1 << 16, 1 << 12
"""Characters of a text that are looked at, since `re` holds the GIL; what is left out on both sides of a cut."""
MIN_LENGTH = 4
"""Shorter values of variables are not looked for: they would hide parts of words."""
WORD_LENGTH = 8
"""Shorter values are hidden where they stand as a word, longer ones wherever they stand."""

_KEY = (
    r"[\w-]*(?:password|passwd|passphrase|secret|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|"
    r"private[_-]?key|(?:access|refresh|auth|bearer|session|security|tracking|api|id|hf)[_-]?token)"
)
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s&;,"'(){}\[\]<>]+)"""
_FORMS = (
    # user information of a URL: to the last @ before the path, or with a password that has slashes, but for a port
    (
        re.compile(
            r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)"
            r"(?:[^\s/?#]{0,2000}@|[^\s:/?#@]{0,500}:(?!\d+(?:[/?#]|$))[^\s@]{0,2000}@)"
        ),
        rf"\1{HIDDEN}@",
    ),
    # a header, also as a mapping or a pair prints it: all of its value, as schemes and cookies have parameters
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]{0,64}(?:token|key|secret|password))"
            r"""(\\?["']?\s*[:=]\s*|\\?["']\s*,\s*)(?:b?\\?"[^"\\]*\\?"|b?\\?'[^'\\]*\\?'|[^\s"'][^\r\n"']*)"""
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\bhw_[\w-]{43}(?![\w-])"), HIDDEN),  # a key of this server, as `headwaiter keys add` makes it
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{HIDDEN}"),
    # a pair of a name that says it, as in a query, a connection string, a mapping or an assignment
    (re.compile(rf"(?i)(?<![\w-])({_KEY})(=)(?!=){_VALUE}"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?i)(\\?[\"']{_KEY}\\?[\"']\s*[:,]\s*){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)([?&;](?:[\w-]*(?:token|signature)|sig|auth|pwd|pass|key)=)[^\s&#\"'<>]+"), rf"\1{HIDDEN}"),
)


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with each secret that is found in it hidden. Costs some 0.1 ms: not for every request.

    Without its middle where it is longer than MAX_TEXT.
    """
    secrets = _longest_first(environ)
    if len(text) <= MAX_TEXT:
        return _hide(text, secrets)
    head, tail = (_hide(part, secrets) for part in (text[: MAX_TEXT // 2], text[-MAX_TEXT // 2 :]))
    return f"{head[:-CUT_EDGE]} … {tail[CUT_EDGE:]}"  # a secret that was cut in two is in neither


def redact_texts(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """A JSON value with each text in it redacted, but for the names of fields. Costs little more than one text."""
    return _redact_texts(value, _longest_first(environ))


def _longest_first(environ: Mapping[str, str]) -> list[str]:
    return sorted(set(_secrets(environ)), key=len, reverse=True)


def _redact_texts(value: Any, secrets: Sequence[str]) -> Any:
    match value:
        case str():
            return _hide(value, secrets)
        case dict():
            return {key: _redact_texts(each, secrets) for key, each in value.items()}
        case list() | tuple():
            return [_redact_texts(each, secrets) for each in value]
        case _:
            return value


def _hide(text: str, secrets: Sequence[str]) -> str:
    for value in secrets:
        if value not in text:
            continue
        if len(value) >= WORD_LENGTH:
            text = text.replace(value, HIDDEN)
        else:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
    for form, hidden in _FORMS:
        text = form.sub(hidden, text)
    return text


def describe_error(error: BaseException) -> str:
    """An exception of any library as a text of ours: its class and its message without secrets."""
    return redact(f"{type(error).__name__}: {error}")


def is_secret_variable(name: str) -> bool:
    """Whether the name of a variable says that its value is a secret."""
    return bool(_SECRET_VARIABLE.search(name)) and not _NO_SECRET.search(name)


class RedactedError(Exception):
    """Base class of errors that quote other software: their message has no secrets."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """The secrets in the environment, each in the forms in which libraries write it."""
    users = [environ.get("MLFLOW_TRACKING_USERNAME", "")]
    passwords = [environ.get("MLFLOW_TRACKING_PASSWORD", "")]
    for name, value in environ.items():
        if "://" in value and (found := _CREDENTIALS_OF_URL.match(value)):
            users.append(found["user"])
            passwords.append(found["password"])
            yield from _written(found["password"])
        elif is_secret_variable(name):
            yield from _written(value)
    for user, password in zip(users, passwords, strict=True):
        if password:
            for pair in (f"{user}:{password}", f"{unquote(user)}:{unquote(password)}"):
                yield base64.b64encode(pair.encode(errors="surrogateescape")).decode()


def _written(value: str) -> Iterator[str]:
    for form in (value, unquote(value)):
        if len(form) >= MIN_LENGTH:
            encoded = form.encode(errors="surrogateescape")
            yield from (form, quote(encoded), quote(encoded, safe=""), quote_plus(encoded))
            yield from (repr(form)[1:-1], json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1])
