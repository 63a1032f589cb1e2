"""From a study's name or file to its raw mapping: finding files, reading YAML, overrides, paths. No torch."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from vlm_backbones._names import shipped_studies
from vlm_backbones.errors import ConfigError

STUDIES = Path(__file__).parent / "studies"
_DEEPEST = 100


def package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"package {package} is not installed. Reinstall vlm-backbones.")
    return Path(next(iter(spec.submodule_search_locations)))


def find_study(name_or_path: str | Path) -> Path:
    """Return the YAML file of a study given by shipped name, file or output folder."""
    path = Path(os.path.expanduser(name_or_path))
    shipped = shipped_studies()
    if str(name_or_path) in shipped and not path.is_file():
        return shipped[str(name_or_path)]
    if path.is_dir() and (path / "study.yaml").is_file():
        return path / "study.yaml"
    if path.is_file():
        return path
    close = difflib.get_close_matches(path.stem if path.suffix in {".yaml", ".yml"} else path.name, shipped, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"no study {str(name_or_path)!r}: neither a shipped study nor a file.{hint} "
        f"Shipped studies: {', '.join(shipped)}."
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML mapping as plain values."""
    try:
        _refuse_nesting(path)
        with _without_environment():
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}.") from error
    except yaml.MarkedYAMLError as error:  # its own words quote the file, which may be a stranger's
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path} is not valid YAML: {error.problem or error.context}{place}.") from error
    except Exception as error:  # odd dates, numbers and nestings make YAML's constructors raise nearly anything
        raise ConfigError(f"{path} is not valid YAML: {str(error)[:500] or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values.")
    return {str(key): value for key, value in content.items()}


def _refuse_nesting(path: Path) -> None:
    """Refuse lists in lists without end: YAML's own reader calls itself for each, until the process dies.

    And a file that has no level at all, as one that is no YAML.
    """
    depth = 0
    with path.open("rb") as stream:
        for event in yaml.parse(stream, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.ScalarEvent) and not depth:  # OmegaConf would make a key of a text
                raise ValueError("it is one text. Expected a mapping of keys to values.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError(f"its values are nested more than {_DEEPEST} levels deep. Write them flat.")


@contextmanager
def _without_environment() -> Iterator[None]:
    """Refuse `${oc.env:NAME}`: a study of somebody else must not read tokens into names that a report shows."""

    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"${{oc.env:{name}}} is not read from a file. Write the value, or give it by --set.")

    OmegaConf.register_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)


def read_study(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the study's raw mapping: recipe looked up, overrides applied, paths made absolute."""
    # a shipped study's data lies where it is run, not inside the installed package
    content = _anchor(read_yaml(path), Path.cwd() if path.parent == STUDIES else path.parent.resolve())
    pairs = [_split_override(override) for override in overrides]
    for value in [value for key, value in pairs if key == "recipe"]:
        content["recipe"] = _parse_value(value)
    if isinstance(content.get("recipe"), str):
        content["recipe"] = load_recipe(content["recipe"], path.parent) or content["recipe"]
    rest = [(key, value) for key, value in pairs if key != "recipe"]
    return _anchor(_override(content, rest), Path.cwd())


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes of the installed package by name."""
    return {file.stem: file for file in (package_folder("vlm_backbones.train") / "recipes").glob("*.yaml")}


def load_recipe(name: str, folder: Path) -> dict[str, Any] | None:
    """Return a recipe's mapping, by shipped name or by a YAML file relative to `folder`; None where unknown."""
    own = folder / os.path.expanduser(name)
    path = shipped_recipes().get(name) or (own if os.path.isfile(own) else None)
    if path is None:
        return None
    content = read_yaml(path)
    if "finetune" not in content:  # its keys may be a stranger's: none is shown
        raise ConfigError(f"recipe: {path} is no recipe. Expected a YAML file with the key finetune.")
    return {"name": path.stem, **content}


def _split_override(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r} is not key=value, as in --set recipe.finetune.steps=100.")
    return key.strip(), value


def _parse_value(text: str) -> Any:
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except Exception as error:  # as of a file
        raise ConfigError(f"--set value {text[:60]!r} is not valid YAML: {str(error)[:500]}") from error
    return parsed["value"] if isinstance(parsed, dict) else None


def _override(content: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    if not pairs:
        return content
    config = OmegaConf.create(content)
    for key, value in pairs:
        try:
            OmegaConf.update(config, key, _parse_value(value), merge=False)
        except (OmegaConfBaseException, IndexError, TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"--set {key}={value}: the study has no such place ({error}).") from error
    return {str(key): value for key, value in dict(OmegaConf.to_container(config)).items()}  # type: ignore[arg-type]


def is_path(name: object) -> bool:
    """Whether a study means a folder, and no registry's id."""
    return isinstance(name, str) and ("/" in name or name.startswith((".", "~")))


def _anchor(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the study's own paths absolute; registry ids stay as they are."""

    def absolute(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if "\0" in value:
            raise ConfigError(f"the study names the path {value[:60]!r}: no file can have a NUL in its name.")
        return str((folder / os.path.expanduser(value)).resolve())

    anchored = dict(content)
    if is_path(anchored.get("vision_tower")):
        anchored["vision_tower"] = absolute(anchored["vision_tower"])
    if isinstance(anchored.get("backbones"), list):
        anchored["backbones"] = [absolute(name) if is_path(name) else name for name in anchored["backbones"]]
    if isinstance(anchored.get("chat_format"), dict):
        formats = anchored["chat_format"].items()
        anchored["chat_format"] = {absolute(name) if is_path(name) else name: value for name, value in formats}
    if isinstance(anchored.get("task_paths"), list):
        anchored["task_paths"] = [absolute(value) for value in anchored["task_paths"]]
    if isinstance(anchored.get("data"), dict):
        anchored["data"] = _anchor_data(anchored["data"], absolute)
    return anchored


def _anchor_data(data: dict[str, Any], absolute: Callable[[Any], Any]) -> dict[str, Any]:
    def each(value: Any) -> Any:
        return [absolute(item) for item in value] if isinstance(value, list) else absolute(value)

    anchored = {key: each(value) for key, value in data.items()}
    if isinstance(anchored.get("stages"), dict):
        anchored["stages"] = {stage: each(value) for stage, value in anchored["stages"].items()}
    return anchored
