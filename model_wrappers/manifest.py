"""The entry point of lmms-eval: registers `backbone_vlm` and lets lmms-eval find the study's tasks.

It runs whenever anybody imports `lmms_eval.models`, so it imports next to nothing and never raises: an entry point
that fails takes those of other packages with it.
"""

from __future__ import annotations

import functools
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

from vlm_backbones.cache import check_writable, scratch_dir
from vlm_backbones.errors import DataError, user_error
from vlm_backbones.trust import tell_of_task_folders

__all__ = ["register", "task_paths"]

_MARK = "_vlm_backbones"


def register() -> Any:
    """Return the manifest of `backbone_vlm` (the simple class: with a chat class, loglikelihood tasks fail)."""
    from lmms_eval.models.registry_v2 import ModelManifest

    for hook in (_join_include_path, _use_c_yaml, _remember_index):
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
        _exit_on_our_errors()
        _keep_datasets_cache_writable()
        given = [include_path] if isinstance(include_path, str) else list(include_path or [])
        tell_of_task_folders([*map(Path, given), *map(Path, task_paths()[1:])])
        return original(self, include_path=[*given, *task_paths()], include_defaults=include_defaults)

    setattr(initialize_tasks, _MARK, True)
    TaskManager.initialize_tasks = initialize_tasks


def _exit_on_our_errors() -> None:
    """Let lmms-eval's command line end with one message and exit code 2 where the user can mend what failed.

    It prints a traceback of any `Exception` and exits 0; `SystemExit` passes. The replaced name is seen by its command
    line alone, so that `simple_evaluate` raises as ever in Python, and so does `--verbosity DEBUG`.
    """
    command_line = sys.modules.get("lmms_eval.__main__")
    evaluator: Any = getattr(command_line, "evaluator", None)
    if evaluator is None or getattr(evaluator, _MARK, False):
        return

    class CommandLineEvaluator(types.ModuleType):
        """The evaluator, with errors that end the process."""

        def __getattr__(self, name: str) -> Any:
            return getattr(evaluator, name)

        @staticmethod
        def simple_evaluate(*arguments: Any, **options: Any) -> Any:
            try:
                return evaluator.simple_evaluate(*arguments, **options)
            except Exception as error:
                ours = user_error(error)
                if ours is None or options.get("verbosity") == "DEBUG":
                    raise
                print(f"error: {ours}", file=sys.stderr, flush=True)
                raise SystemExit(2) from None

    module = CommandLineEvaluator("evaluator")
    setattr(module, _MARK, True)
    vars(command_line)["evaluator"] = module


def _keep_datasets_cache_writable() -> None:
    """Give lmms-eval, which always makes a cache for datasets, another place than a read-only home."""
    cache = os.environ.get("HF_DATASETS_CACHE") or f"{os.environ.get('HF_HOME', '~/.cache/huggingface')}/datasets"
    try:
        check_writable(Path(os.path.expandvars(cache)).expanduser())
    except DataError:
        os.environ.setdefault("LMMS_EVAL_DATASETS_CACHE", str(scratch_dir() / "datasets"))


def _remember_index() -> None:
    from vlm_backbones.model_wrappers import _task_index

    _task_index.install()


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
