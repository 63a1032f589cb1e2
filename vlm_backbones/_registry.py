"""Rows of a registry: one YAML file a row, the file's name is the id; read on first use. No torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import yaml

from vlm_backbones.errors import CheckpointError, ConfigError, nearest
from vlm_backbones.json_text import parse_json

T = TypeVar("T")

PACKAGE_DIR = Path(__file__).resolve().parent


class Rows(Mapping[str, T], Generic[T]):
    """The rows of one folder, by exact id, in order of file name; nothing is read before the first look.

    Raises
    ------
    ConfigError
        On looking up an unknown id, with the nearest known one.
    """

    def __init__(self, folder: Path, build: Callable[[dict[str, Any]], T], kind: str) -> None:
        self._folder, self._build, self._kind = folder, build, kind

    @cached_property
    def _rows(self) -> dict[str, T]:
        rows: dict[str, T] = {}
        for path in sorted(self._folder.glob("*.yaml")):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if content.get("id") != path.stem:
                raise ConfigError(f"{path}: id is {content.get('id')!r}, expected the file's name {path.stem!r}")
            try:
                rows[path.stem] = self._build(content)
            except TypeError as error:
                raise ConfigError(f"{path}: {error}") from error
        return rows

    def __getitem__(self, name: str) -> T:
        try:
            return self._rows[name]
        except KeyError:
            raise ConfigError(f"unknown {self._kind} {name!r}.{nearest(name, self._rows)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, id_or_path: str | Path, from_folder: Callable[[Path, dict[str, Any]], T]) -> T:
        """Return the row of ID or ID@REVISION, or what `from_folder` makes of a local folder and its config.json."""
        name = str(id_or_path)
        folder = Path(os.path.expanduser(name))
        if name in self or not os.path.isdir(folder):
            return self._at_revision(name)
        try:
            config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} is no {self._kind}: config.json cannot be read ({error}).") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"{folder} is no {self._kind}: config.json holds no JSON object.")
        return from_folder(folder, config)

    def _at_revision(self, name: str) -> T:
        base, revision = split_revision(name)
        row: Any = self[base]
        if revision is None:
            return self[base]
        if row.hub_repo is None:
            raise ConfigError(f"{self._kind} {name!r}: {base} is in no repository and has no revisions. Write {base}.")
        return cast(T, dataclasses.replace(row, revision=revision))


def split_revision(name: str) -> tuple[str, str | None]:
    """Return ID@REVISION as (ID, REVISION); a plain id has no revision."""
    base, _, revision = name.partition("@")
    return base, revision or None


def find_source(name: str, kind: str, *, package_path: str | None, hub_repo: str | None) -> str:
    """Return the folder or hub repository that holds the weights of a row.

    Raises
    ------
    ConfigError
        If the row names neither.
    """
    if package_path is not None:
        return str(PACKAGE_DIR / package_path)
    if hub_repo is not None:
        return hub_repo
    raise ConfigError(f"{kind} {name!r} has no public repository: give the path of a local folder instead of its id.")
