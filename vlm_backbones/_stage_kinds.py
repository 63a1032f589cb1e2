"""Each kind of a study's stages as a job: its command, what it depends on, what tells that it is done. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_backbones._fingerprints import files_fingerprint, hash_of, read_record, stage_version
from vlm_backbones._names import user_tasks
from vlm_backbones._outputs import missing_outputs, origin_of
from vlm_backbones._scheduler import Job, cores
from vlm_backbones._study_loading import package_folder
from vlm_backbones._sweep import choice_file
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.data._references import referenced_images
from vlm_backbones.done_files import REPORT_SEAL
from vlm_backbones.errors import DataError
from vlm_backbones.run import Run
from vlm_backbones.study import Study

__all__ = [
    "Stage",
    "analyze_stage",
    "check_stage",
    "choose_stage",
    "data_stage",
    "eval_stage",
    "features_stage",
    "train_stage",
    "uses_pocket_data",
]

_CHOOSE = "vlm_backbones.analysis.sweep"
_CLI = "vlm_backbones.cli"
_FEATURES = "vlm_backbones.train.features"
_TRAIN = "vlm_backbones.train.finetune"
_EVALUATE = "vlm_backbones.model_wrappers.evaluate"
_TOKEN_TYPES = ("last_prompt", "image_mean", "question_mean", "answer_mean")


@dataclass(frozen=True)
class Stage:
    """A job with what tells whether it is done."""

    job: Job
    fingerprint: str
    record: Path
    outputs: tuple[Path, ...]
    only_for_others: bool = False
    """Needed by later stages alone: skipped when those are done, even where its own outputs are gone."""
    stands_on: tuple[Path, ...] = ()
    """Records of runs, of which another origin than when it finished makes it unfinished."""

    @property
    def is_done(self) -> bool:
        """Whether the same stage finished before and its outputs still stand."""
        return self.has_ended and not self.lost

    @property
    def has_ended(self) -> bool:
        """Whether the same stage finished before."""
        return read_record(self.record).get("fingerprint") == self.fingerprint

    @property
    def damaged(self) -> list[Path]:
        """The outputs that are gone or damaged, and so the files that they list."""
        return list(dict.fromkeys(gone for path in self.outputs for gone in missing_outputs(path)))

    @property
    def lost(self) -> list[Path]:
        """What is damaged, and the records that another run or evaluation left since it finished."""
        known = read_record(self.record).get("origins")
        if not self.has_ended or not isinstance(known, list):
            return self.damaged
        pairs = zip(self.stands_on, known, self._origins(), strict=False)
        others = [path for path, old, new in pairs if new is not None and old != new]
        return list(dict.fromkeys([*self.damaged, *others]))

    def write_record(self, seconds: float) -> None:
        """Record that it finished, and what it stands on."""
        row = {"fingerprint": self.fingerprint, "seconds": round(seconds, 2), "origins": self._origins()}
        atomic_write_text(self.record, json.dumps(row))

    def _origins(self) -> list[str | None]:
        """The hash of each origin, None where it cannot be told; of an evaluation's logs where they are read alone."""
        origins = [origin_of(path, logs=path not in self.outputs) for path in self.stands_on]
        return [None if origin is None else hash_of(origin) for origin in origins]


def choose_stage(study: Study, out: Path, backbone: str, validated: Mapping[Run, Stage]) -> Stage:
    """Return what chooses a backbone's learning rate from its trials' validation."""
    facts = ["choose", stage_version(_CHOOSE), [stage.fingerprint for stage in validated.values()]]
    file = choice_file(out, backbone)
    trials = [f"{run.learning_rate!r}={out / run.name}" for run in validated]
    arguments = ("--out", str(file), "--bootstrap", str(study.analysis.bootstrap), *trials)
    job = Job(
        f"choose {Run(backbone).name}", _CHOOSE, arguments, out / "sweep" / f"{file.stem}.log",
        needs=_names(list(validated.values())),
    )  # fmt: skip
    return _stage(out, job, facts, [file])


def uses_pocket_data(study: Study) -> bool:
    """Whether a study trains or asks what this package draws itself."""
    return _leaves_data_open(study) and not os.environ.get("VLM_BACKBONES_DATA")


def _leaves_data_open(study: Study) -> bool:
    """Whether a study does not name all its data, so that the environment's folder or the pocket data are used."""
    return not study.data.finetune or bool(study.own_tasks() and not study.data.eval)


def _stage(
    out: Path,
    job: Job,
    facts: object,
    outputs: Sequence[Path],
    *,
    only_for_others: bool = False,
    stands_on: Sequence[Path] = (),
) -> Stage:
    record = out / ".stages" / f"{job.name.replace(' ', '-').replace('/', '-')}.json"
    return Stage(job, hash_of(facts), record, tuple(outputs), only_for_others, tuple(stands_on))


def _threads(study: Study) -> int:
    """Return the threads of each training and evaluation.

    One number whatever else runs: sums over another number of threads differ in the last digits, and a study that
    was broken off must give the tables of one that was not.
    """
    return max(1, cores() // min(cores(), len(study.runs())))


def _names(stages: Sequence[Stage]) -> tuple[str, ...]:
    return tuple(stage.job.name for stage in stages)


def data_stage(out: Path) -> Stage:
    """Return what builds the pocket data in the user's cache."""
    job = Job("data", _CLI, ("data", "build"), out / "data.log")
    facts = ["data", stage_version("vlm_backbones.pocket.datasets")]
    return _stage(out, job, facts, (), only_for_others=True)


def _inputs(study: Study, out: Path) -> list[object]:
    """Return what all training stages depend on, one JSON value."""
    paths = [*study.data.training_files, *([study.data.eval] if study.data.eval else [])]
    if (folder := os.environ.get("VLM_BACKBONES_DATA")) and _leaves_data_open(study):
        paths.append(Path(folder))
    missing = dict.fromkeys(str(path) for path in paths if not path.exists())
    if missing:
        raise DataError(
            f"study {study.name}: no such data: {', '.join(missing)}. Put it there, or name its place under `data` of "
            "the study (docs/study.md)."
        )
    return [
        study.data.model_dump(mode="json"),
        files_fingerprint(paths),
        [_pictures_fingerprint(path) for path in paths if path.is_file()],
        stage_version("vlm_backbones.pocket.datasets"),
        study.vision_tower,
        _part_fingerprint(study.vision_tower),
    ]


def _pictures_fingerprint(path: Path) -> str:
    """Return a hash over sizes and times of the pictures that a JSON file names; their content is read in training."""
    rows = []
    for picture in referenced_images(path):
        stat = picture.stat() if picture.is_file() else None
        rows.append([str(picture), stat and (stat.st_size, stat.st_mtime_ns)])
    return hash_of(rows)


def _part_fingerprint(name: str) -> str:
    """Return the hash of a vision tower's or backbone's local files; a hub name stands for itself."""
    local = Path(name)
    shipped = package_folder("vlm_backbones.pocket") / "assets" / name
    folder = local if local.is_dir() else shipped
    return files_fingerprint([folder]) if folder.is_dir() else name


def check_stage(study: Study, out: Path, needs: Sequence[Stage]) -> Stage:
    """Return the certificate and preflight."""
    facts = ["check", stage_version("vlm_backbones.control"), _inputs(study, out), study.model_dump(mode="json")]
    facts += [_part_fingerprint(backbone) for backbone in study.backbones]
    job = Job(
        "check",
        _CLI,
        ("study", "check", str(out / "study.yaml"), "--out", str(out)),
        out / "check.log",
        needs=_names(needs),
    )
    return _stage(out, job, facts, [out / "certificate.json"])


def features_stage(study: Study, out: Path, needs: Sequence[Stage]) -> Stage:
    """Return what computes the frozen tower's hidden states once for all backbones."""
    aspects = [stage.image_aspect_ratio for stage in study.recipe.stages.values()]
    facts = ["features", stage_version(_FEATURES), _inputs(study, out), aspects]
    job = Job(
        "features",
        _FEATURES,
        ("--study", str(out / "study.yaml"), "--out", str(out)),
        out / "features.log",
        needs=_names(needs),
        progress=out / "progress.json",
        uses_gpu=True,
    )
    return _stage(out, job, facts, (), only_for_others=True)


def train_stage(study: Study, out: Path, run: Run, needs: Sequence[Stage]) -> Stage:
    """Return the training of one run or trial."""
    facts = [
        "train",
        stage_version(_TRAIN),
        needs[-1].fingerprint,
        study.recipe_for(run.backbone, run.learning_rate).model_dump(mode="json"),
        [
            run.backbone,
            _part_fingerprint(run.backbone),
            run.seed,
            study.chat_format_for(run.backbone),
            study.trust_remote_code,
        ],
    ]
    facts += [study.training.sharding] if study.training.sharding != "none" else []
    arguments = ["--study", str(out / "study.yaml"), "--backbone", run.backbone, "--seed", str(run.seed)]
    arguments += ["--learning-rate", repr(run.learning_rate)] if run.learning_rate is not None else []
    arguments += ["--best"] if run.is_best else []
    folder = out / run.name
    job = Job(
        f"train {run.name}",
        _TRAIN,
        (*arguments, "--out", str(out)),
        folder / "train.log",
        needs=_names(needs),
        progress=folder / "progress.json",
        uses_gpu=True,
        processes=study.training.processes,
        sharding=study.training.sharding,
        threads=_threads(study),
    )
    outputs = [folder / "checkpoint" / "config.json", folder / "run.json"]
    return _stage(out, job, facts, outputs, stands_on=outputs[1:])


def eval_stage(study: Study, out: Path, run: Run, train: Stage) -> Stage:
    """Return the evaluation of one run on its conditions, or of a trial on validation."""
    is_trial = run.learning_rate is not None
    folder, conditions = out / run.name, ["clean"] if is_trial else study.conditions()
    facts = [
        "eval",
        stage_version(_EVALUATE),
        train.fingerprint,
        [study.tasks, conditions, study.evaluation.model_dump(), files_fingerprint(_task_paths(study))],
        [study.analysis.states, study.analysis.layers, study.analysis.subset] if not is_trial else "validation",
    ]
    arguments = [str(folder), "--tasks", ",".join(study.tasks), "--conditions", ",".join(conditions)]
    arguments += ["--out", str(folder), "--batch-size", str(study.evaluation.batch_size)]
    environment = {"VLM_BACKBONES_TASKS": os.pathsep.join(map(str, study.task_paths))} if study.task_paths else {}
    if study.data.eval:
        environment["VLM_BACKBONES_DATA"] = str(study.data.eval)
    if is_trial:
        arguments += ["--split", "validation"]
    elif study.analysis.subset is not None:
        arguments += ["--subset", str(study.analysis.subset)]
    if study.analysis.states and not is_trial:
        arguments += ["--states", "+".join(_TOKEN_TYPES), "--layers", study.analysis.layers]
    if study.evaluation.limit is not None:
        arguments += ["--limit", str(study.evaluation.limit)]
    job = Job(
        f"eval {run.name}",
        _EVALUATE,
        tuple(arguments),
        folder / "eval.log",
        needs=(train.job.name,),
        progress=folder / "progress.json",
        uses_gpu=True,
        threads=_threads(study),
        environment=tuple(environment.items()),
    )
    outputs = [folder / "logs" / condition / "done.json" for condition in conditions]
    return _stage(out, job, facts, outputs, stands_on=outputs)


def _task_paths(study: Study) -> list[Path]:
    """Return the study's folders of own tasks, else the files beside those that the environment names for it."""
    if study.task_paths:
        return study.task_paths
    folders = {path.parent for name, path in user_tasks().items() if name in study.tasks}
    return sorted(path for folder in folders for path in folder.iterdir() if path.is_file())


def analyze_stage(study: Study, out: Path, needs: Sequence[Stage]) -> Stage:
    """Return what makes tables and report of everything."""
    names = [run.name for run in study.runs()]
    # analysis is cheap: any change of its code repeats it, no VERSION needed
    code = files_fingerprint([package_folder("vlm_backbones.analysis")])
    facts = ["analyze", code, study.model_dump(mode="json")]
    facts += [stage.fingerprint for stage in needs]
    arguments = ["analyze", *(part for name in names for part in ("--run", f"{name}={out / name}"))]
    arguments += ["--study-dir", str(out), "--out", str(out), "--bootstrap", str(study.analysis.bootstrap)]
    job = Job("analyze", _CLI, tuple(arguments), out / "analyze.log", needs=_names(needs))
    outputs = [out / name for name in ("report.html", "verdict.txt", "tables/scores.csv", REPORT_SEAL)]
    logs = [
        path for stage in needs for path in stage.stands_on
    ]  # a judge's grades, or an evaluation by hand, change them
    return _stage(out, job, facts, outputs, stands_on=logs)
