"""Reading TOML tables key by key, with a type each, and a line for what is missing, wrong or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dis2_jax.schema import Dis2Error, nearest

_MISSING = object()


class TomlTable:
    """A TOML table whose keys are taken one by one with a type; ``done`` refuses the ones left over.

    ``see``: where an example is, for messages.
    """

    def __init__(
        self, values: Any, where: str, *, see: str = "`dis2 data prepare folder --example-card`"
    ) -> None:
        if not isinstance(values, Mapping):
            raise Dis2Error(f"[{where}] must be a table" if where else "the card must be a table")
        self.see = see
        self.values, self.where, self.known = dict(values), where, list[str]()

    def key(self, name: str) -> str:
        """Write a key's name with its table's, for messages."""
        return f"[{self.where}] {name}" if self.where else name

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        """Return a value of the wanted type, or ``default``; else ``Dis2Error``."""
        self.known.append(name)
        if name not in self.values:
            if default is _MISSING:
                close = nearest(name, self.values)
                raise Dis2Error(f"{self.key(name)} is missing{close}: see {self.see}")
            return default
        value = self.values.pop(name)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(k.__name__ for k in kinds)
            raise Dis2Error(f"{self.key(name)} = {value!r}: {wanted} is wanted")
        return value

    def choice(self, name: str, options: tuple[str, ...], default: str) -> Any:
        """Return one of ``options``. ``Dis2Error`` offers the nearest one."""
        value = self.take(name, str, default)
        if value not in options:
            raise Dis2Error(
                f"{self.key(name)} = {value!r}{nearest(value, options)}: choose from {', '.join(options)}"
            )
        return value

    def done(self) -> None:
        """Raise ``Dis2Error`` for a key that nobody took."""
        for name in self.values:
            raise Dis2Error(
                f"unknown key {self.key(name)}{nearest(name, self.known)}; known are {', '.join(self.known)}"
            )
