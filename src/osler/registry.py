"""Registries of named parts: readers, rewards, strategies, engines, model families.

A name is looked up among the parts that come with Osler and those that a program registers, then among the entry points of installed
packages. Where a registry allows it, "package.module:attribute" names a part directly. Plug-ins are imported when their name is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from osler.errors import ConfigError

T = TypeVar("T")
Part = TypeVar("Part")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to parts of one kind. Iteration gives all names, without importing plug-ins."""

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, T],
        *,
        adapt: Callable[[str, Any], T],
        takes_paths: bool = False,
        remedy: str = "use one of",
    ) -> None:
        """`kind` is the noun of messages and, in the plural, names the entry point group: "reader" -> "osler.readers".

        `adapt(name, part)` checks a registered object or turns it into a T; it raises ConfigError for an object of the wrong kind.
        """
        self.kind, self.takes_paths, self.remedy = kind, takes_paths, remedy
        self.group = f"osler.{kind[:-1]}ies" if kind.endswith("y") else f"osler.{kind}s"
        self._adapt = adapt
        self._parts = dict(built_in)

    def register(self, name: str) -> Callable[[Part], Part]:
        """A decorator that registers an object under `name` and returns it unchanged. Raises ConfigError when the name is taken."""

        def add(part: Part) -> Part:
            if name in self._parts:
                raise ConfigError(f"the {self.kind} {name!r} is registered already: choose another name")
            self._parts[name] = self._adapt(name, part)
            return part

        return add

    def find(self, name: str) -> T:
        """The part of that name. Raises ConfigError, in one line, for an unknown name and for a plug-in that cannot be imported."""
        if name not in self._parts:
            self._parts[name] = self._adapt(name, self._import(name))
        return self._parts[name]

    def _import(self, name: str) -> Any:
        module, colon, attribute = name.partition(":")
        plugin = _entry_points(self.group).get(name)
        if plugin is None and not (colon and self.takes_paths):
            paths = ', or "package.module:function"' if self.takes_paths else ""
            raise ConfigError(f"unknown {self.kind} {name!r}: {self.remedy} {', '.join(self)}{paths}")
        try:
            if plugin is not None:
                return plugin.load()
            return getattr(import_module(module), attribute)
        except Exception as error:  # an import can raise anything
            source = f" of the package {plugin.dist.name}" if plugin is not None and plugin.dist is not None else ""
            raise ConfigError(f"the {self.kind} {name!r}{source} cannot be imported: {type(error).__name__}: {error}") from error

    def __getitem__(self, name: str) -> T:
        is_path = self.takes_paths and ":" in name
        if name not in self._parts and name not in _entry_points(self.group) and not is_path:
            raise KeyError(name)
        return self.find(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._parts
        yield from (name for name in _entry_points(self.group) if name not in self._parts)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def _entry_points(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name, from all installed packages."""
    return {found.name: found for found in entry_points(group=group)}
