"""The written history of alias moves: one tag a move on the registered model, so that no writer overwrites another.

MLflow keeps no history of aliases and has no compare-and-set (3.17). A tag's key is unique (time and a random part),
so concurrent moves each keep their record.
"""

import secrets
import time
from collections.abc import Iterable, Mapping

import msgspec

from registry.errors import HistoryError

PREFIX = "headwaiter.history."


class Move(msgspec.Struct, frozen=True, kw_only=True, rename={"from_version": "from", "to_version": "to"}):
    """One move of an alias. time: seconds since the epoch. action: "promote" or "rollback".

    from_version: None where the alias did not exist. who: the user's name. why: free text.
    """

    time: float
    action: str
    alias: str
    from_version: str | None
    to_version: str
    who: str
    why: str


def new_key(now: float | None = None) -> str:
    """A unique tag key; keys sort by time to the microsecond."""
    micros = int((time.time() if now is None else now) * 1_000_000)
    return f"{PREFIX}{micros:017d}.{secrets.token_hex(4)}"


def read_moves(tags: Mapping[str, str], alias: str | None = None) -> list[Move]:
    """The moves in a registered model's tags, oldest first; of one alias or of all. Skips tags that are not records."""
    moves = []
    for key in sorted(key for key in tags if key.startswith(PREFIX)):
        try:
            move = msgspec.json.decode(tags[key], type=Move)
        except msgspec.DecodeError:
            continue
        if alias is None or move.alias == alias:
            moves.append(move)
    return moves


def previous_version(moves: Iterable[Move], current: str | None) -> str:
    """The version that was live before `current`, by history; called again after a rollback, the one before that.

    A promotion puts a version on a stack, a rollback takes the top off; what lies under `current` is the answer. A
    move that was made by hand and left no record counts as a promotion. Raises HistoryError.
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
    if len(stack) < 2:
        raise HistoryError("the history names no earlier version to go back to: promote one by its number instead")
    return stack[-2]


def _put(stack: list[str], version: str | None) -> None:
    if version is not None and (not stack or stack[-1] != version):
        stack.append(version)
