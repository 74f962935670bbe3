"""What a module holds beside its weights, so that a forward pass that changes it can be detected and undone.

Some models change themselves for good: BigBird, once it saw a short row, attends to all tokens of every later row
(transformers 5.23).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType

import torch
from torch.nn import Module

SETTINGS = (bool, str, NoneType)
"""Attributes of these types say what a module does. Numbers and tensors are caches as well, such as of positions."""
NUMBERS = (int, float, torch.Tensor)
MISSING = object()


@dataclass(frozen=True)
class Change:
    """An attribute that has changed. is_setting: whether it says what the module does, so is no cache."""

    name: str
    is_setting: bool


class ModuleState:
    """The attributes, submodules, buffers and configurations of a module and its submodules at one moment."""

    def __init__(self, module: Module) -> None:
        self._parts = [(part, _attributes(part)) for part in module.modules()]
        configs = {id(config): config for part, _ in self._parts if (config := getattr(part, "config", None))}
        saved = [vars(config) for config in configs.values() if hasattr(config, "__dict__")]
        self._configs = [(each, dict(each)) for each in saved]

    def changes(self) -> list[Change]:
        """What differs from that moment, each attribute's name once."""
        found = dict.fromkeys(change for part, saved in self._parts for change in _changes(saved, _attributes(part)))
        for now, saved in self._configs:
            names = [name for name in saved | now if not _is_same(saved.get(name, MISSING), now.get(name, MISSING))]
            found |= dict.fromkeys(Change(f"config.{name}", True) for name in names)
        return list(found)

    def restore(self) -> None:
        """Undo the changes. A tensor whose values were changed in place stays as it is."""
        for part, saved in self._parts:
            now = _attributes(part)
            for change in _changes(saved, now):
                _put(part, change.name, saved.get(change.name, MISSING))
        for vars_now, saved in self._configs:
            vars_now.clear()
            vars_now.update(saved)

    def keep(self, module: Module) -> None:
        """Undo the changes now and after each forward pass of `module`, and of its encoder alone."""
        self.restore()
        get_encoder = getattr(module, "get_encoder", None)
        for part in (module, get_encoder() if callable(get_encoder) else None):
            if isinstance(part, Module):
                part.register_forward_hook(self._restore_after, always_call=True)

    def _restore_after(self, *_: object) -> None:
        self.restore()


def _attributes(part: Module) -> dict[str, object]:
    own = {name: value for name, value in vars(part).items() if isinstance(value, (*SETTINGS, *NUMBERS))}
    return {**own, **part._modules, **part._buffers}


def _changes(saved: Mapping[str, object], now: Mapping[str, object]) -> Iterator[Change]:
    for name in {**saved, **now}:
        before, after = saved.get(name, MISSING), now.get(name, MISSING)
        if not _is_same(before, after):
            # a cache is often None before it is filled
            values = [value for value in (before, after) if value is not MISSING and value is not None]
            yield Change(name, any(isinstance(value, (*SETTINGS, Module)) for value in values))


def _is_same(before: object, after: object) -> bool:
    if before is after:
        return True
    if isinstance(before, torch.Tensor | Module) or type(before) is not type(after):
        return False
    return bool(before == after)


def _put(part: Module, name: str, value: object) -> None:
    if value is not MISSING:
        setattr(part, name, value)
    elif name in part._buffers or name in vars(part) or name in part._modules:
        delattr(part, name)
