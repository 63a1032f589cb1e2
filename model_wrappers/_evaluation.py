"""One checkpoint under several conditions: what is left to do, lmms-eval's run, its files, checked."""

from __future__ import annotations

import copy
import json
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers.evaluation_tracker import EvaluationTracker
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import get_datetime_str

from vlm_backbones._seals import read_seal
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.done_files import MEDIA, STATES, damaged_files, files_of
from vlm_backbones.errors import CheckpointError, DataError
from vlm_backbones.hashes import file_sha256, read_sealed_json, relative_sha256, sealed_json
from vlm_backbones.locks import DYING_SECONDS, hold
from vlm_backbones.model_wrappers._conditions import check_condition
from vlm_backbones.model_wrappers._engine import Engine, checkpoint_dir, load_engine, pick_device
from vlm_backbones.model_wrappers._media import MediaFolder, shown_media
from vlm_backbones.model_wrappers._states import RANDOM_WEIGHTS, count_documents, spread
from vlm_backbones.model_wrappers._task_loading import (
    load_tasks,
    of_split,
    rows_sha256,
    size_of,
    split_of,
    task_manager,
)
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.pocket.datasets import TASKS
from vlm_backbones.prompts import wording_fingerprint

__all__ = ["WHOLE", "Evaluation"]

WHOLE = ("clean", "swap")
"""The answers themselves and their baseline are asked on every document; the other conditions on the subset."""


@dataclass(frozen=True)
class Evaluation:
    """One call of the evaluation command; see `evaluate`."""

    checkpoint: str
    out: Path
    tasks: Sequence[str]
    conditions: Sequence[str]
    limit: int | None
    batch_size: int | str
    threads: int | None
    device: str | None
    version: int
    subset: int | None = None
    states: str | None = None
    layers: str = "every4"
    split: str | None = None

    def run(self) -> None:
        """Evaluate what is not finished, one condition after the other.

        Raises
        ------
        ConfigError, CheckpointError, DataError
            What the user can mend; anything else is a failure of the evaluation.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        conditions = [check_condition(condition) for condition in self.conditions]
        engine = load_engine(checkpoint_dir(self.checkpoint), device=pick_device(self.device))
        manager = task_manager(self.tasks)
        tasks = load_tasks(self.tasks, manager)
        if self.split is not None:
            tasks = of_split(tasks, self.split)
        _check_wording(checkpoint_dir(self.checkpoint), tasks)
        asked = {condition: self._documents(condition, tasks) for condition in conditions}
        with hold(self.out, wait_seconds=DYING_SECONDS):
            self._answer(asked, engine, manager)

    def _answer(self, asked: dict[str, dict[str, Any]], engine: Engine, manager: TaskManager) -> None:
        """Answer the tasks of each condition that are not finished."""
        left = {condition: self._left(condition, tasks, engine.fingerprint) for condition, tasks in asked.items()}
        progress = _Progress(
            self.out, sum(size_of(task, self.limit) for todo in left.values() for task in todo.values())
        )
        BackboneVLM.shared_engine, BackboneVLM.progress = engine, progress.advance
        try:
            for condition, todo in left.items():
                if todo:
                    written = self._evaluate(condition, todo, manager)
                    self._mark_done(condition, todo, engine, written)
                else:
                    print(f"{condition}: finished before for this checkpoint, skipped.", flush=True)
        finally:
            BackboneVLM.shared_engine = BackboneVLM.progress = None

    def _folder(self, condition: str) -> Path:
        return self.out / "logs" / condition

    def _documents(self, condition: str, tasks: dict[str, Any]) -> dict[str, Any]:
        """Return the tasks with the documents that a condition is asked on: a subset where one is enough."""
        if condition == "paraphrase":
            for name in [name for name, task in tasks.items() if "paraphrase" not in task.features]:
                print(f"paraphrase: task {name!r} has no second wording, skipped.", flush=True)
            tasks = {name: task for name, task in tasks.items() if "paraphrase" in task.features}
        if self.subset is None or condition in WHOLE:
            return tasks
        return {name: self._on_subset(task) for name, task in tasks.items()}

    def _on_subset(self, task: Any) -> Any:
        """Return the task on those documents of which the clean evaluation keeps the states."""
        split, smaller = split_of(task), copy.copy(task)
        places = spread(size_of(task, self.limit), self.subset)
        for name in ("dataset", "dataset_no_image"):
            setattr(smaller, name, {**getattr(task, name), split: getattr(task, name)[split].select(places)})
        return smaller

    def _left(self, condition: str, tasks: dict[str, Any], fingerprint: str) -> dict[str, Any]:
        """Return the tasks that are not finished; clear logs of another checkpoint: they must not mix."""
        folder = self._folder(condition)
        listing = folder / "done.json"
        done, damaged = _read_done(folder), damaged_files(listing) if listing.is_file() else {}
        if "" in damaged:
            print(f"{listing} is damaged: {condition} is evaluated again.", flush=True)
            done = {}
        if done.get("checkpoint") != fingerprint or done.get("version") != self.version:
            begun = folder / "begun.json"
            ours = begun.is_file() or listing.is_file()
            if not done and folder.is_dir() and any(folder.iterdir()) and not ours:
                raise DataError(f"{folder} holds logs that this command did not write. Choose another --out.")
            for stale in (folder, *self._state_folders(condition)):
                if stale.is_dir():
                    shutil.rmtree(stale)
            atomic_write_text(begun, json.dumps({"checkpoint": fingerprint}))  # from now on the folder is ours
            done, damaged = {}, {}
        finished: dict[str, Any] = done.get("tasks", {})
        for name, task in tasks.items():
            if (kept := finished.get(name, {}).get("n", 0)) > size_of(task, self.limit):
                raise DataError(
                    f"{folder} holds {kept} samples of task {name!r}; {size_of(task, self.limit)} would replace them. "
                    "Choose another --out."
                )
        self._redraw(condition, done, damaged, tasks)
        lost = [path for name in tasks for path in damaged.get(name, [])]
        for path in lost:
            print(f"{path} is gone or damaged: {condition} is evaluated again.", flush=True)
            path.unlink(missing_ok=True)
        if lost:
            return tasks  # all of them: what is answered together decides last digits
        return {name: task for name, task in tasks.items() if not self._is_finished(finished.get(name, {}), task)}

    def _is_finished(self, row: Mapping[str, Any], task: Any) -> bool:
        """Whether a task was asked as it is now; earlier versions noted neither its rows nor its code."""
        if row.get("data") != self._data(task):
            return False
        return all(row.get(key, value) == value for key, value in self._facts(task).items())

    def _redraw(
        self, condition: str, done: dict[str, Any], damaged: dict[str, list[Path]], tasks: dict[str, Any]
    ) -> None:
        """Draw pictures of finished tasks again, which need no answer, and take them out of what is damaged."""
        listing = self._folder(condition) / "done.json"
        for name, found in damaged.items():
            row = done["tasks"][name]
            listed = files_of(listing, row, MEDIA)
            pictures = [path for path in found if path in listed]
            for path in pictures:
                path.unlink(missing_ok=True)
            if not pictures or name not in tasks or not self._is_finished(row, tasks[name]):
                continue
            damaged[name] = [path for path in found if path not in listed]
            print(f"{', '.join(map(str, pictures))}: gone or damaged, drawn again.", flush=True)
            media, task = MediaFolder(self.out / MEDIA), tasks[name]
            for index in range(size_of(task, self.limit)):
                media.write_of(task.doc_to_visual(task.eval_docs[index]))
            row["files"] |= relative_sha256(self.out, pictures)
            atomic_write_text(listing, sealed_json(done))

    def _data(self, task: Any) -> str:
        """Return what decides a task's documents: the dataset's own fingerprint, the split and the limit."""
        split = split_of(task)
        states = f":{self.states}:{self.layers}:{self.subset}" if self.states else ""
        return f"{task.dataset[split]._fingerprint}:{split}:{self.limit}{states}"

    def _facts(self, task: Any) -> dict[str, str]:
        """Return a task's documents, the content of their tables, and that of the task's own files."""
        return {"data": self._data(task), "rows": rows_sha256(task), "task": task.files_sha256}

    def _state_folders(self, condition: str) -> list[Path]:
        names = [condition, RANDOM_WEIGHTS] if condition == "clean" else [condition]
        return [self.out / STATES / name for name in names]

    def _shards(self, condition: str, task: str) -> list[Path]:
        """Return the files with a task's hidden states, of random weights too."""
        return [path for folder in self._state_folders(condition) for path in folder.glob(f"{task}-rank*.safetensors")]

    def _evaluate(self, condition: str, tasks: dict[str, Any], manager: TaskManager) -> str:
        """Let lmms-eval answer, score and write, as its command line does with --log_samples.

        Returns
        -------
        The timestamp with which the files' names begin.
        """
        for stale in (path for name in tasks for path in self._shards(condition, name) if self.states):
            stale.unlink()  # a damaged one could say that it is of another checkpoint
        output, checkpoint = str(self._folder(condition)), str(checkpoint_dir(self.checkpoint))
        model_args = {"pretrained": checkpoint, "condition": condition, "media_dir": str(self.out / MEDIA)}
        if self.states:
            model_args |= {"states": self.states, "layers": self.layers, "states_dir": str(self.out / STATES)}
            model_args |= {"random_weights": "true"} | ({"states_subset": str(self.subset)} if self.subset else {})
        # lmms-eval splits the text form at commas; a mapping keeps any path whole, but names no folder for the logs.
        plain = not any(mark in value for value in model_args.values() for mark in ",='\"{}[]")
        given: Any = ",".join(f"{name}={value}" for name, value in model_args.items()) if plain else model_args
        tracker = EvaluationTracker(output_path=output)
        timestamp: str = get_datetime_str(timezone="UTC")
        flags = Namespace(
            model="backbone_vlm", model_args=given, tasks=",".join(tasks), batch_size=self.batch_size, limit=self.limit,
            output_path=output, log_samples=True, process_with_media=False, reasoning_tags=None,
            agentic_trace_mode="basic", predict_only=False, verbosity="WARNING",
        )  # fmt: skip
        results = simple_evaluate(
            model="backbone_vlm", model_args=given, tasks=list(tasks.values()), task_manager=manager,
            batch_size=self.batch_size, limit=self.limit, log_samples=True, evaluation_tracker=tracker,
            cli_args=flags, datetime_str=timestamp, verbosity="WARNING", bootstrap_iters=0,
        )  # fmt: skip
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples, datetime_str=timestamp)
        for name in results["configs"]:
            tracker.save_results_samples(task_name=name, samples=samples[name])
        return timestamp

    def _mark_done(self, condition: str, tasks: dict[str, Any], engine: Engine, written: str) -> None:
        """Check that every file is there and whole, then write done.json, last.

        Older samples of a task go; which are older is known from `written`, not from a clock that may have been set.
        """
        folder = self._folder(condition)
        if not list(folder.rglob("*_results.json")):
            raise DataError(f"lmms-eval wrote no results file to {folder}: free space, then run again.")
        finished: dict[str, Any] = _read_done(folder).get("tasks", {})
        for name, task in tasks.items():
            files = sorted(folder.rglob(f"*_samples_{name}.jsonl"), key=lambda path: path.name.startswith(written))
            is_new = bool(files) and files[-1].name.startswith(written)
            found = sum(1 for _ in files[-1].open("rb")) if is_new else 0
            expected = size_of(task, self.limit)
            if found != expected:
                raise DataError(
                    f"{folder}: task {name!r} has {found} samples, expected {expected}. "
                    "Is the disk full? Free space, then run again."
                )
            for outdated in files[:-1]:
                outdated.unlink()
            if self.states:
                self._check_states(condition, name, len(spread(expected, self.subset)))
            row = {**self._facts(task), "samples": str(files[-1].relative_to(folder)), "n": found}
            others = [*folder.rglob(f"{written}_results.json"), *shown_media(files[-1], self.out / MEDIA)]
            others += self._shards(condition, name) if self.states else []
            listed = self._kept_states(finished.get(name, {})) | relative_sha256(self.out, others)
            finished[name] = row | {"sha256": file_sha256(files[-1]), "files": listed}
        done = {"checkpoint": engine.fingerprint, "version": self.version, "condition": condition, "tasks": finished}
        done["rows_at_once"] = engine.room.rows
        atomic_write_text(folder / "done.json", sealed_json(done))

    def _kept_states(self, earlier: dict[str, Any]) -> dict[str, str]:
        """Return what is known of a task's states where this evaluation keeps none and leaves them as they are."""
        listed: dict[str, str] = {} if self.states else earlier.get("files", {})
        return {name: digest for name, digest in listed.items() if name.startswith(f"{STATES}/")}

    def _check_states(self, condition: str, task: str, expected: int) -> None:
        for folder in self._state_folders(condition):
            found = count_documents(folder, task)
            if found != expected:
                raise DataError(f"{folder}: task {task!r} has states of {found} documents, expected {expected}.")


def _check_wording(checkpoint: Path, tasks: Mapping[str, Any]) -> None:
    """Refuse to ask a model in other words than it was taught: it would answer worse for no reason of its own."""
    taught = read_seal(checkpoint).get("prompts")
    ours = sorted(set(TASKS) & set(tasks))
    if taught is not None and ours and taught != wording_fingerprint():
        raise CheckpointError(
            f"{checkpoint} was trained with another wording of the questions of {', '.join(ours)} than this version of "
            "vlm-backbones asks (prompts.py has changed). Train it again, or evaluate it with the version that made it."
        )


def _read_done(folder: Path) -> dict[str, Any]:
    return read_sealed_json(folder / "done.json") or {}


class _Progress:
    """Writes OUT/progress.json, at most twice a second."""

    def __init__(self, out: Path, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.steps, self.step, self.clock = out / "progress.json", steps, 0, clock
        self.started = self.written = clock()

    def advance(self, count: int) -> None:
        self.step += count
        now = self.clock()
        if self.step < self.steps and now - self.written < 0.5:
            return
        self.written = now
        left = (now - self.started) / max(1, self.step) * (self.steps - self.step)
        row = {"stage": "eval", "step": self.step, "steps": self.steps, "seconds_left": round(max(0.0, left), 1)}
        atomic_write_text(self.path, json.dumps(row))
