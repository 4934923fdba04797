"""Former names of modules whose classes travel between processes, kept for one version.

In a rolling deploy, replicas of the version before talk with a ledger of this one, and replicas of this one with a
ledger of the version before: a ledger goes on as long as its settings, and RULES of `runtime/generations.py`, stay the
same. A pickle names a class by its module. So what this version sends says the former name (`pickled_as`), and what it
receives may say it (`keep`). The version after this one may send the new names, and the one after that forgets the
former ones.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def pickled_as(module: str) -> Callable[[Class], Class]:
    """A class decorator: pickles name the class as a member of `module`, where it used to be.

    `module` must be kept (`keep`), or a package that has the class among its names. A dataclass with slots that the
    version before has sent gets the defaults of the fields that it did not have.
    """

    def named(cls: Class) -> Class:
        if module in _finder.moved:
            sys.modules.setdefault(module, sys.modules[cls.__module__])
        for member in vars(cls).values():
            # Ray sends an actor's class with each of its functions by name.
            if isinstance(member, FunctionType) and member.__module__ == cls.__module__:
                member.__module__ = module
        cls.__module__ = module
        if dataclasses.is_dataclass(cls) and "__slots__" in vars(cls):
            cls.__setstate__ = _set_state  # type: ignore[attr-defined]
        return cls

    return named


def _set_state(self: Any, state: Sequence[Any]) -> None:
    """Unpickle a dataclass with slots from the values of its first fields."""
    fields = dataclasses.fields(self)
    for field, value in zip(fields, state, strict=False):
        object.__setattr__(self, field.name, value)
    for field in fields[len(state) :]:
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        object.__setattr__(self, field.name, made)


def keep(moved: Mapping[str, str]) -> None:
    """Let these modules be imported by their former names, too: they are the same modules.

    Args:
        moved: by the former dotted name, today's.
    """
    _finder.moved.update(moved)
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)  # last: it is asked for what nobody else finds


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self) -> None:
        self.moved: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in self.moved else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # The import system returns what is in sys.modules after this.
        sys.modules[module.__name__] = importlib.import_module(self.moved[module.__name__])


_finder = _Finder()
