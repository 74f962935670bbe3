"""The file of keys, `HEADWAITER_KEYS_FILE`: who may come in, what each may ask and how often.

A key is 256 random bits, so its SHA-256 is enough at rest: salts and slow hashes are made against guesses from a
dictionary, and nobody guesses 256 bits. A key is looked up by the first half of its digest, then the whole digest is
compared in constant time.
"""

import fcntl
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG, S_IWGRP, S_IWOTH
from typing import Annotated

import msgspec
from msgspec import Meta

from registry.environment import InvalidSetting
from registry.patterns import whole

PREFIX = "hw_"
"""Of a key, by which scanners of source code may find one that was left there."""
KEY_BYTES = 32
ALL_MODELS = "*"
MAX_FILE_BYTES = 16 * 2**20
MIN_RATE, MAX_RATE = 1 / 86_400, 1e6
"""Requests a second of a key whose rate is bounded: at least one a day, so that no refusal asks to wait for longer."""
MAX_CONCURRENCY = 10**6
YEAR_10000 = 253_402_300_800.0
"""In seconds since the epoch: dates have four digits."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
SETTLED_SECONDS = 2.0
"""A file that was written since is read again: it may be replaced by one of the same inode, size and time, as the
kernel's clock advances in steps of some milliseconds."""
_LOOKUP_BYTES = 16
"""Of a digest, by which a key is looked up. Two keys that share them would need 2**64 keys."""


class AccessKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, without the key itself.

    name: of who holds it, for logs. sha256: of the key, in hexadecimal. models: the names that it may ask, `*` for all.
    admin: whether it may see what operators see. rate: requests a second, on average over a second; concurrency:
    requests in progress; 0 for no bound, and both hold for all fronts together. created: seconds since the epoch.
    Raises ValueError for a rate that is none.
    """

    name: str
    sha256: Annotated[str, Meta(pattern=whole("[0-9a-f]{64}"))]
    models: tuple[str, ...] = (ALL_MODELS,)
    admin: bool = False
    rate: float = 0.0
    concurrency: Annotated[int, Meta(ge=0, le=MAX_CONCURRENCY)] = 0
    created: Annotated[float, Meta(ge=0, lt=YEAR_10000)] = 0.0

    def __post_init__(self) -> None:
        if self.rate != 0 and not MIN_RATE <= self.rate <= MAX_RATE:
            raise ValueError(
                f"the rate of {self.name!r} is {self.rate:g}: give 0 for no bound, or {MIN_RATE:.2g} (one a day) to "
                f"{MAX_RATE:g} requests a second"
            )

    def may_ask(self, model: str) -> bool:
        """Whether it may ask this model, whose name has no alias and no version."""
        return ALL_MODELS in self.models or model in self.models

    @property
    def is_limited(self) -> bool:
        """Whether its requests are counted."""
        return bool(self.rate or self.concurrency)


ANYBODY = AccessKey(name="", sha256="0" * 64, admin=True)
"""Whoever asks a server without keys."""
NOBODY = AccessKey(name="", sha256="0" * 64, models=())
"""Stands for a request whose key was not looked at."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: tuple[AccessKey, ...] = ()


class Keys:
    """The keys of one reading of the file."""

    def __init__(self, keys: Sequence[AccessKey] = ()) -> None:
        self.keys = tuple(keys)
        self._found: Mapping[bytes, tuple[bytes, AccessKey]] = {
            digest[:_LOOKUP_BYTES]: (digest, key) for key in keys for digest in (bytes.fromhex(key.sha256),)
        }

    def find(self, token: bytes) -> AccessKey | None:
        """The key that `token` is. How long it takes tells nothing of another key."""
        digest = sha256(token).digest()
        expected, key = self._found.get(digest[:_LOOKUP_BYTES], (bytes(len(digest)), None))
        return key if hmac.compare_digest(digest, expected) else None


class KeyFile:
    """The file at `path`. Everything raises InvalidSetting for a file that cannot be trusted or read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[AccessKey, ...] | None = None

    def read(self) -> Keys:
        """The keys that are there now."""
        with self._errors():
            return Keys(self._read().keys)

    def read_if_changed(self) -> Keys | None:
        """The keys if they are others than the last call returned, else None."""
        with self._errors():
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return None
            is_settled = abs(time.time() - stat.st_mtime) > SETTLED_SECONDS
            self._seen = seen if is_settled else None
            keys = self._read().keys
            if keys == self._keys:
                return None
            self._keys = keys
            return Keys(keys)

    def add(
        self,
        name: str,
        *,
        models: Sequence[str] = (ALL_MODELS,),
        admin: bool = False,
        rate: float = 0.0,
        concurrency: int = 0,
    ) -> str:
        """Make a key, keep its digest in the file, and return the key, which nobody can see again."""
        if not NAME.fullmatch(name):
            raise InvalidSetting(
                f"the key's name {name!r} is not allowed: use 1 to 64 of A-Z a-z 0-9 . _ @ - and start with a letter "
                "or digit"
            )
        token = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        try:
            key = AccessKey(
                name=name,
                sha256=sha256(token.encode()).hexdigest(),
                models=tuple(models),
                admin=admin,
                rate=rate,
                concurrency=concurrency,
                created=time.time(),
            )
        except ValueError as error:
            raise InvalidSetting(str(error)) from error
        with self._changing() as keys:
            if any(other.name == name for other in keys):
                raise InvalidSetting(f"{self._path} has a key of {name!r} already: remove it first, or name another")
            self._write([*keys, key])
        return token

    def remove(self, name: str) -> None:
        """Remove the key of this name. Servers refuse it within a second."""
        with self._changing() as keys:
            left = [key for key in keys if key.name != name]
            if len(left) == len(keys):
                names = ", ".join(key.name for key in keys) or "none"
                raise InvalidSetting(f"{self._path} has no key of {name!r}; it has {names}")
            self._write(left)

    def _read(self) -> _File:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            stat = os.fstat(descriptor)
            if not S_ISREG(stat.st_mode) or stat.st_size > MAX_FILE_BYTES:
                raise InvalidSetting(
                    f"HEADWAITER_KEYS_FILE={self._path} is no file of at most {MAX_FILE_BYTES:,} bytes: name the one "
                    "that `headwaiter keys add` writes"
                )
            if stat.st_uid not in (0, os.geteuid()) or stat.st_mode & (S_IWGRP | S_IWOTH):
                raise InvalidSetting(
                    f"HEADWAITER_KEYS_FILE={self._path} can be written by others, who could let themselves in: give it "
                    "to this user and take their right away (chmod 600)"
                )
            return _decode(file.read(MAX_FILE_BYTES))

    @contextmanager
    def _changing(self) -> Iterator[tuple[AccessKey, ...]]:
        """The keys that are there, none where there is no file, while no other command changes them."""
        with self._errors():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_path = self._path.with_name(f"{self._path.name}.lock")
            with os.fdopen(os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield self._read().keys if self._path.exists() else ()

    def _write(self, keys: Sequence[AccessKey]) -> None:
        """Replace the file, once what is to be in it can be read again."""
        content = _encode(keys)
        staging = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        staging.unlink(missing_ok=True)
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(self._path)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidSetting(
                f"HEADWAITER_KEYS_FILE={self._path} cannot be used ({error.strerror or error}): make one with "
                "`headwaiter keys add NAME`"
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidSetting(
                f"HEADWAITER_KEYS_FILE={self._path} is no file of keys ({error}): make one with "
                "`headwaiter keys add NAME`"
            ) from error


def _decode(content: bytes) -> _File:
    return msgspec.json.decode(content, type=_File)


def _encode(keys: Sequence[AccessKey]) -> bytes:
    """The file's content, which can be read again. Raises InvalidSetting."""
    named = keys[-1].name if keys else ""
    try:
        content = msgspec.json.format(msgspec.json.encode(_File(keys=tuple(keys))), indent=2) + b"\n"
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"they come to more than {MAX_FILE_BYTES:,} bytes")
        if _decode(content).keys != tuple(keys):
            raise ValueError("they would be read as others")
    except ValueError as error:  # msgspec's errors, and those of texts that are no Unicode, are
        raise InvalidSetting(
            f"keys up to {named!r} are not written, as they could not be read again: {error}"
        ) from error
    return content
