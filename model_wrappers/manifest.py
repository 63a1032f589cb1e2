"""The entry point of lmms-eval: registers `backbone_vlm` and lets lmms-eval find the study's tasks.

It runs whenever anybody imports `lmms_eval.models`, so it imports next to nothing and never raises: an entry point
that fails takes those of other packages with it.
"""

from __future__ import annotations

import functools
import os
import types
import warnings
from pathlib import Path
from typing import Any

__all__ = ["register", "task_paths"]

_MARK = "_vlm_backbones"


def register() -> Any:
    """Return the manifest of `backbone_vlm` (the simple class: with a chat class, loglikelihood tasks fail)."""
    from lmms_eval.models.registry_v2 import ModelManifest

    for hook in (_join_include_path, _use_c_yaml):
        try:
            hook()
        except Exception as error:  # a changed lmms-eval must not take other plugins down
            warnings.warn(f"vlm-backbones could not extend lmms-eval ({hook.__name__}: {error!r})", stacklevel=2)
    return ModelManifest(
        model_id="backbone_vlm", simple_class_path="vlm_backbones.model_wrappers.backbone_vlm.BackboneVLM"
    )


def task_paths() -> list[str]:
    """Return our task folder and those of `VLM_BACKBONES_TASKS` (separated like PATH)."""
    from importlib.util import find_spec

    spec = find_spec("vlm_backbones.tasks")
    ours = list(spec.submodule_search_locations or []) if spec else []
    extra = os.environ.get("VLM_BACKBONES_TASKS", "").split(os.pathsep)
    return [*ours, *(str(Path(folder).expanduser().resolve()) for folder in extra if folder)]


def _join_include_path() -> None:
    """Make every TaskManager search our folders, as if they were given by `--include_path`."""
    from lmms_eval.tasks import TaskManager

    original = TaskManager.initialize_tasks
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True) -> Any:
        given = [include_path] if isinstance(include_path, str) else list(include_path or [])
        return original(self, include_path=[*given, *task_paths()], include_defaults=include_defaults)

    setattr(initialize_tasks, _MARK, True)
    TaskManager.initialize_tasks = initialize_tasks


def _use_c_yaml() -> None:
    """Let lmms-eval read its 1,900 task files with PyYAML's C parser: seconds of every start."""
    import yaml
    from lmms_eval import utils

    c_parser: Any = getattr(yaml, "CParser", None) or getattr(getattr(yaml, "cyaml", None), "CParser", None)
    if c_parser is None or getattr(utils.yaml, _MARK, False):
        return

    class FastLoader(c_parser, yaml.constructor.FullConstructor, yaml.resolver.Resolver):  # type: ignore[misc,valid-type]
        """FullLoader on the C parser; `name` is what lmms-eval's `!function` resolves relative files against."""

        def __init__(self, stream: Any) -> None:
            self.name = getattr(stream, "name", "<string>")
            c_parser.__init__(self, stream)  # type: ignore[misc]
            yaml.constructor.FullConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    class FastYaml(types.ModuleType):
        """The yaml module, with `full_load` on the C parser; only `lmms_eval.utils` sees it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(yaml, name)

        @staticmethod
        def full_load(stream: Any) -> Any:
            # lmms-eval adds its `!function` constructor to FullLoader before every file.
            FastLoader.yaml_constructors = yaml.FullLoader.yaml_constructors
            return yaml.load(stream, Loader=FastLoader)

    module = FastYaml("yaml")
    setattr(module, _MARK, True)
    utils.yaml = module
