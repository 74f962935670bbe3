"""The history of alias moves: one tag for each move on the registered model, so that no writer overwrites another.

MLflow keeps no history of aliases and has no compare-and-set (3.17). A tag's key is unique (time and a random part),
so concurrent moves each keep their record.
"""

import re
import secrets
import time
from collections.abc import Iterable, Mapping

import msgspec

from registry.errors import HistoryError

PREFIX = "headwaiter.history."
MAX_RECORD = 5000
"""Characters of a registered model's tag that all of MLflow's databases keep (3.17)."""
FORMAT = 1
"""Of the records that this release writes; those without a number have it, too."""


class _Numbered(msgspec.Struct):
    format: int = FORMAT


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of a version on labelled examples before it was promoted.

    examples: how many; sha256: of them, in hex. values: metric → score. required: metric → what was asked for.
    """

    examples: int
    sha256: str
    values: dict[str, float]
    required: dict[str, float]


class Move(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"from_version": "from", "to_version": "to"},
    tag_field="format",
    tag=FORMAT,
):
    """One move of an alias. time: seconds since the epoch. action: "promote", "rollback", or "rollout" for a rollout's
    begin and end, which move no alias: then both versions are the live one.

    from_version: None where the alias did not exist. who: the user's name. why: free text. breaking: what clients of
    the version before would notice; allow_breaking: the reason for which it was promoted all the same. evaluation: the
    score that it was promoted with. skipped: earlier versions that a rollback passed over, as they have been deleted.
    """

    time: float
    action: str
    alias: str
    from_version: str | None
    to_version: str
    who: str
    why: str
    breaking: tuple[str, ...] = ()
    allow_breaking: str = ""
    evaluation: Evaluation | None = None
    skipped: tuple[str, ...] = ()

    def encode(self) -> str:
        """The record as JSON; raises HistoryError for one that could not be read again, or is too long for MLflow."""
        record = msgspec.json.encode(self).decode()
        try:
            msgspec.json.decode(record, type=Move)
        except msgspec.ValidationError as error:  # as a score that is no number
            raise HistoryError(
                f"the record of this move could not be read again ({error}): no alias is moved"
            ) from error
        if len(record) > MAX_RECORD:
            raise HistoryError(
                f"the record of this move has {len(record):,} characters, MLflow keeps {MAX_RECORD:,}: "
                "give a shorter reason"
            )
        return record


def check_reason(text: str) -> str:
    """Return `text` if it says anything, else raise HistoryError."""
    if not text.strip():
        raise HistoryError("the reason is empty: say in a few words why, for the history")
    return text


def new_key(now: float | None = None, after: Iterable[str] = ()) -> str:
    """A unique tag key; keys sort by time to the microsecond, and behind those in `after` even if clocks differ."""
    micros = int((time.time() if now is None else now) * 1_000_000)
    times = (int(key.split(".")[2]) for key in after if _KEY.fullmatch(key))
    micros = max(micros, 1 + max((each for each in times if each < micros + MAX_AHEAD_MICROS), default=0))
    return f"{PREFIX}{micros:017d}.{secrets.token_hex(4)}"


MAX_AHEAD_MICROS = 86_400_000_000
"""A record that is further in the future was not made by a clock, and no other is put behind it."""
_KEY = re.compile(re.escape(PREFIX) + r"[0-9]{17}\.[0-9a-f]{8}")


def read_moves(tags: Mapping[str, str], alias: str | None = None) -> list[Move]:
    """The moves in a registered model's tags, oldest first; of one alias or of all. Skips tags that are not records.

    Raises HistoryError for a record of a later format: without it a rollback would go to another version.
    """
    moves = []
    for key in sorted(key for key in tags if key.startswith(PREFIX)):
        try:
            found = msgspec.json.decode(tags[key], type=_Numbered).format
            if found > FORMAT:
                raise HistoryError(
                    f"the record {key} has format {found}, this release reads formats up to {FORMAT}: use the release "
                    "that wrote it, or a later one"
                )
            move = msgspec.json.decode(tags[key], type=Move)
        except (msgspec.DecodeError, RecursionError):
            continue
        if alias is None or move.alias == alias:
            moves.append(move)
    return moves


def earlier_versions(moves: Iterable[Move], current: str | None) -> list[str]:
    """The versions that were live before `current`, by history, latest first and each once.

    A promotion puts a version on a stack, a rollback takes off what lies above the one that it goes to; what lies under
    `current` is the answer. So called again after a rollback, it begins with the one before that. A move that was made
    by hand and left no record counts as a promotion.
    """
    stack: list[str] = []
    for move in moves:
        _put(stack, move.from_version)
        if move.action == "rollback" and move.to_version in stack:
            while stack[-1] != move.to_version:
                stack.pop()
        else:
            _put(stack, move.to_version)
    _put(stack, current)
    return [version for version in dict.fromkeys(reversed(stack)) if version != current]


def _put(stack: list[str], version: str | None) -> None:
    if version is not None and (not stack or stack[-1] != version):
        stack.append(version)
