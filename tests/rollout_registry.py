"""A registry in memory with the calls that rollouts make, so that their tests need no MLflow."""

import time
from collections.abc import Mapping, Sequence
from typing import cast

from registry.errors import NotFound, RegistryUnavailable
from registry.history import Move, new_key, read_moves
from registry.references import Reference, ResolvedVersion
from registry.rollout.control import Rollouts
from registry.versions import Versions


class MemoryTags:
    """Tags and aliases of models. is_down: whether every call fails."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, str]] = {}
        self.aliases: dict[str, dict[str, str]] = {}
        self.marks: dict[tuple[str, str], dict[str, str]] = {}
        self.is_down = False

    def check(self, name: str = "") -> None:
        if self.is_down:
            raise RegistryUnavailable("MLflow did not answer")
        if name and name not in self.tags:
            raise NotFound(f"the registry has no {name}")

    def read(self, name: str) -> tuple[dict[str, str], dict[str, str]]:
        self.check(name)
        return dict(self.tags[name]), dict(self.aliases[name])

    def search(self, key: str) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        self.check()
        return {name: self.read(name) for name, tags in self.tags.items() if key in tags}

    def set(self, name: str, tags: Mapping[str, str]) -> None:
        self.check(name)
        self.tags[name].update(tags)

    def delete(self, name: str, keys: Sequence[str]) -> None:
        self.check(name)
        for key in keys:
            del self.tags[name][key]

    def mark(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        self.check(name)
        self.marks.setdefault((name, version), {}).update(tags)


class MemoryVersions:
    """Model "m" with versions 1, 2 and 3, whose champion is 1."""

    def __init__(self) -> None:
        self.tags = MemoryTags()
        self.tags.tags["m"], self.tags.aliases["m"] = {}, {"champion": "1"}
        self.numbers = {"1", "2", "3"}

    def resolve(self, reference: Reference) -> ResolvedVersion:
        self.tags.check(reference.name)
        version = reference.version or self.tags.aliases[reference.name].get(reference.alias or "")
        if version not in self.numbers:
            raise NotFound(f"the registry has no {reference}")
        return ResolvedVersion(reference.name, version, "models:/m", "digest")

    def current(self, name: str, alias: str) -> str | None:
        return self.tags.read(name)[1].get(alias)

    def admit(
        self, name: str, version: str, alias: str, allow_breaking: str | None
    ) -> tuple[str | None, tuple[str, ...]]:
        self.resolve(Reference(name, version=version))
        return self.current(name, alias), ()

    def move(self, name: str, move: Move) -> Move:
        self.tags.check(name)
        self.tags.aliases[name][move.alias] = move.to_version
        self.note(name, move)
        return move

    def note(self, name: str, move: Move) -> None:
        self.tags.set(name, {new_key(after=self.tags.read(name)[0]): move.encode()})

    def history(self, name: str) -> list[Move]:
        return read_moves(self.tags.read(name)[0])

    def by_hand(self, action: str, to: str) -> None:
        """What `headwaiter promote` and `rollback` do."""
        before = self.current("m", "champion")
        self.move(
            "m",
            Move(
                time=time.time(),
                action=action,
                alias="champion",
                from_version=before,
                to_version=to,
                who="eve",
                why="by hand",
            ),
        )

    def rollouts(self) -> Rollouts:
        return Rollouts(cast(Versions, self))
