"""The lmms-eval model `backbone_vlm`: batched, exact, and with a record beside every answer.

lmms-eval --model backbone_vlm --tasks seismic_coords
lmms-eval --model backbone_vlm --model_args pretrained=DIR,condition=jpeg40 --tasks vqa_scene --batch_size 16
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from tqdm import tqdm

from vlm_backbones.errors import ConfigError, nearest
from vlm_backbones.model_wrappers import _response_cache, _results
from vlm_backbones.model_wrappers._conditions import check_condition
from vlm_backbones.model_wrappers._engine import Engine, checkpoint_dir, load_engine, pick_device
from vlm_backbones.model_wrappers._media import MediaFolder
from vlm_backbones.model_wrappers._requests import DocumentReader, Job, check_settings
from vlm_backbones.model_wrappers._side_by_side import Answerers
from vlm_backbones.model_wrappers._state_recorder import StateRecorder
from vlm_backbones.model_wrappers._states import RANDOM_WEIGHTS, StatePlan
from vlm_backbones.model_wrappers.evaluate import VERSION

__all__ = ["BackboneVLM"]

_ARGUMENTS = (
    "pretrained", "batch_size", "device", "dtype", "compile", "condition", "media_dir",
    "states", "layers", "states_dir", "states_subset", "random_weights",
)  # fmt: skip
_IGNORED_ARGUMENTS = ("max_batch_size",)

_response_cache.install()
_results.install()


class BackboneVLM(lmms):  # type: ignore[misc]
    """A LLaVA-like checkpoint for lmms-eval.

    Parameters
    ----------
    pretrained
        A checkpoint's or a run's folder, or OWNER/NAME on the hub; default: the newest generation of the last study.
    batch_size
        Requests at once, at most; "auto" leaves it to the memory. Answers do not depend on it. Where memory runs out,
        half of them go on, and the printed results name the number that worked.
    device
        "cuda", "cuda:1", "cpu"; default: this process's GPU where there is one.
    dtype
        "float32", "bfloat16", "float16"; default: float32 on the CPU, the stored one elsewhere.
    compile
        Write answers by a step that torch compiles and, on a GPU, replays as a CUDA graph: for long answers of a large
        model. Each shape takes a minute or so at first. Its gain on a GPU has not been measured, so it is off.
    condition
        clean, jpeg40, noise05, shift4, paraphrase or swap.
    media_dir
        Where to keep the documents' images for the report; default: nowhere.
    states
        Kinds of token whose hidden states are kept: last_prompt+image_mean+question_mean+answer_mean, or some of them.
    layers
        "all", "every4" or numbers as "0+8+16"; 0 is the embeddings.
    states_dir
        Where they go: STATES_DIR/CONDITION; default: the folder `states` here.
    states_subset
        Documents a task whose states are kept, spread evenly; default: all.
    random_weights
        Keep the states of a backbone of random weights beside the clean ones, the control of probes.

    Raises
    ------
    ConfigError
        If an argument is unknown or has no such value, or no checkpoint is named and none was made yet.
    """

    is_simple = True
    # Set by the evaluation command, which asks several conditions of one loaded model.
    shared_engine: ClassVar[Engine | None] = None
    progress: ClassVar[Callable[[int], None] | None] = None
    latest_identity: ClassVar[dict[str, str] | None] = None

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        compile: bool | str = False,
        condition: str = "clean",
        media_dir: str | None = None,
        states: str | None = None,
        layers: str | int = "every4",
        states_dir: str = "states",
        states_subset: int | str | None = None,
        random_weights: bool | str = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in sorted(set(unknown) - set(_IGNORED_ARGUMENTS)):
            raise ConfigError(f"unknown model argument {name!r}.{nearest(name, _ARGUMENTS)}")
        self.condition = check_condition(str(condition))
        self.batch_size = _batch_size(batch_size)
        folder = Path(str(states_dir)).expanduser()
        control = str(random_weights).lower() == "true" and self.condition == "clean"
        self.state_plan = states and StatePlan.parse(
            str(states),
            str(layers),
            folder / self.condition,
            None if states_subset is None else _positive("states_subset", states_subset),
            folder / RANDOM_WEIGHTS if control else None,
        )
        self.media = None if media_dir is None else MediaFolder(Path(str(media_dir)).expanduser())
        shared = type(self).shared_engine
        self.engine: Engine | None = shared or load_engine(
            checkpoint_dir(None if pretrained is None else str(pretrained)),
            device=pick_device(device),
            dtype=dtype,
            compiled=_is_true("compile", compile),
        )
        self.device = self.engine.device
        self.room = self.engine.room
        self.room.asked = None if self.batch_size == "auto" else int(self.batch_size)
        self._rank = int(os.environ.get("RANK", "0"))
        self._world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.identity = {
            "version": str(VERSION),
            "checkpoint": self.engine.fingerprint,
            "condition": self.condition,
            "dtype": str(dtype),
            "compile": str(self.engine.compiled is not None),
            "states": str(states or "none"),
        }
        type(self).latest_identity = self.identity

    @classmethod
    def create_from_arg_string(cls, arg_string: Any, additional_config: Any = None) -> BackboneVLM:
        """Create from lmms-eval's model arguments; those written in them win over `--batch_size` and `--device`."""
        given = dict(arg_string) if isinstance(arg_string, dict) else simple_parse_args_string(arg_string or "")
        flags = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**flags, **given})

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Return the requests at once that worked; lmms-eval writes them to its results."""
        return {"rows": self.room.rows}

    def generate_until(self, requests: Sequence[Instance]) -> list[Any]:
        """Answer greedily; each response is (text, token counts with our extras)."""
        jobs = [Job.from_arguments(index, request.args) for index, request in enumerate(requests)]
        for line in check_settings(jobs):
            print(f"backbone_vlm: {line}", flush=True)
        responses: list[Any] = [None] * len(jobs)
        answerer = self._answerer(jobs)
        with self._bar(len(jobs)) as bar:
            for job, record in answerer.answers(jobs):
                responses[job.index] = record.as_response()
                self._advance(bar, 1)
        if answerer.recorder is not None:
            answerer.recorder.close()
        if answerer.near_ties:
            print(f"backbone_vlm: {answerer.near_ties} tokens had a runner-up within 1e-4 and may vary with the batch.")
        return responses

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Return (log-probability, greedy) of each continuation as an answer, without the end of turn.

        The continuations of one question, which lmms-eval asks for one by one, are scored together.
        """
        jobs: dict[tuple[Any, ...], Job] = {}
        asked: dict[int, list[tuple[int, str]]] = {}  # of each job: where its results go, and the continuations
        for index, request in enumerate(requests):
            if len(request.args) != 6:
                raise ConfigError("backbone_vlm scores continuations of documents; this task asks for bare text.")
            context, continuation, doc_to_visual, doc_id, task, split = request.args
            if callable(continuation):
                continuation = continuation(self.task_dict[task][split][doc_id])
            arguments: tuple[Any, ...] = (context, {}, doc_to_visual, doc_id, task, split)
            job = jobs.setdefault((context, doc_id, task, split), Job.from_arguments(index, arguments))
            asked.setdefault(job.index, []).append((index, str(continuation)))
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        scored = self._answerer().scores(
            list(jobs.values()), lambda document: [text for _, text in asked[document.job.index]]
        )
        with self._bar(len(requests)) as bar:
            for job, scores in scored:
                for (index, _), score in zip(asked[job.index], scores, strict=True):
                    results[index] = (score.logprob, score.greedy)
                self._advance(bar, len(scores))
        return results

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[Any]:
        """Refuse: the study compares single answers."""
        raise ConfigError("backbone_vlm answers in one round; tasks of several rounds are not supported.")

    def clean(self) -> None:
        """Free the model after the answers, as lmms-eval asks, unless it is shared with the next condition."""
        if self.engine is not type(self).shared_engine:
            self.engine = None
        super().clean()

    def _answerer(self, recorded: Sequence[Job] = ()) -> Answerers:
        if self.engine is None:
            raise ConfigError("this model was freed after an evaluation; create it again.")
        recorder = None
        if self.state_plan and recorded:
            recorder = StateRecorder(self.engine, self.state_plan, recorded, self.condition, self._rank)
        reader = DocumentReader(self.task_dict, self.condition, self.media)
        return Answerers(self.engine, reader, self.room, recorder)

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, desc=f"Answering ({self.condition})", disable=self._rank != 0)

    def _advance(self, bar: Any, count: int) -> None:
        bar.update(count)
        report = type(self).progress
        if report is not None:
            report(count)


def _batch_size(value: int | str) -> int | str:
    if str(value) == "auto":
        return "auto"
    try:
        return _positive("batch_size", value)
    except ConfigError as error:
        raise ConfigError(f"{error} Or auto: as many as the memory takes.") from None


def _is_true(name: str, value: bool | str) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ConfigError(f"{name} {value!r} is neither true nor false.")
    return str(value).lower() == "true"


def _positive(name: str, value: int | str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} {value!r} is no whole number of 1 or more.")
    return number
