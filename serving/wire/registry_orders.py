"""From a front to the manager: what an operator asks of the registry, and what came of it.

Only the manager has MLflow's client. A front connects to the socket `registry.sock` of the run folder, sends one order
as JSON and ends its side; the manager sends one `Outcome` and closes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from registry.patterns import ALIAS, whole
from registry.rollout.plan import VersionNumber
from registry.settings import DEFAULT_ALIAS

SOCKET = "registry.sock"
MAX_ORDER_BYTES = 64 * 1024

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
OrderTexts = Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=32)]
"""A version."""
Alias = Annotated[str, msgspec.Meta(pattern=whole(ALIAS))]


class Promote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move the alias to a version, as `headwaiter promote`. allow_breaking: why, though clients would notice."""

    version: VersionNumber
    why: Text
    alias: Alias = DEFAULT_ALIAS
    allow_breaking: Text | None = None


class RollBack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move the alias to the version that was live before, as `headwaiter rollback`."""

    why: Text
    alias: Alias = DEFAULT_ALIAS


class StartRollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Begin a rollout, as `headwaiter rollout start`. steps, every, bake, guards: None for the defaults."""

    version: VersionNumber
    why: Text
    alias: Alias = DEFAULT_ALIAS
    steps: OrderTexts | None = None
    every: Text | None = None
    bake: Text | None = None
    guards: OrderTexts | None = None
    allow_breaking: Text | None = None


class ChangeRollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pause, resume, abort or finish the rollout that is under way, as `headwaiter rollout`."""

    why: Text


class ReadOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of what only reads the registry."""


OrderAction = Literal["promote", "rollback", "start", "pause", "resume", "abort", "finish", "history", "rollout"]
Body = Promote | RollBack | StartRollout | ChangeRollout | ReadOrder
BODIES: Mapping[OrderAction, type[Body]] = {
    "promote": Promote,
    "rollback": RollBack,
    "start": StartRollout,
    "pause": ChangeRollout,
    "resume": ChangeRollout,
    "abort": ChangeRollout,
    "finish": ChangeRollout,
    "history": ReadOrder,
    "rollout": ReadOrder,
}


class RegistryOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. name: of the model. who: the name of the operator's key, for the history. body: see `BODIES`."""

    action: OrderAction
    name: str
    who: str
    body: msgspec.Raw = msgspec.Raw(b"{}")

    def decoded(self) -> Body:
        """The body. Raises msgspec.ValidationError."""
        return msgspec.json.decode(self.body, type=BODIES[self.action])


Trouble = Literal["", "unknown", "refused", "unavailable", "failed"]
"""unknown: no such model or version. refused: by a rule. unavailable: MLflow did not answer. failed: a bug."""


class Outcome(msgspec.Struct, frozen=True):
    """The answer to an order as JSON; or a trouble, and what to say of it."""

    answer: msgspec.Raw = msgspec.Raw(b"null")
    trouble: Trouble = ""
    message: str = ""


def address_of(run: Path) -> str:
    """The socket's path."""
    return str(run / SOCKET)
