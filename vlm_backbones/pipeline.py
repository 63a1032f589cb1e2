"""A study's stages as subprocesses: what depends on what, what is done, what is left. No torch in this process."""

from __future__ import annotations

__all__ = ["Stage", "default_out", "own_out", "plan_study", "run_stage", "run_study", "stages_left", "study_status"]

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from vlm_backbones._fingerprints import files_fingerprint, hash_of, read_record, stage_version, write_record
from vlm_backbones._launch import Nodes
from vlm_backbones._outputs import missing_outputs
from vlm_backbones._scheduler import Display, Job, cores, run_jobs
from vlm_backbones._study_loading import package_folder
from vlm_backbones._sweep import choice_file
from vlm_backbones._trained_runs import check_trained_runs
from vlm_backbones.cache import atomic_write_text, write_last_study
from vlm_backbones.data._references import referenced_images
from vlm_backbones.errors import ConfigError, DataError
from vlm_backbones.run import Run
from vlm_backbones.study import Study

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

    @property
    def is_done(self) -> bool:
        """Whether the same stage finished before and its outputs still stand."""
        return read_record(self.record).get("fingerprint") == self.fingerprint and not self.lost

    @property
    def lost(self) -> list[Path]:
        """The outputs that are not there, and the files that they list and that are not there."""
        return [gone for path in self.outputs for gone in missing_outputs(path)]


def default_out(study: Study) -> Path:
    """Return where a study goes unless told otherwise."""
    return Path("runs") / study.name


def own_out(study: Study, out: Path | None) -> Path:
    """Return the folder for a command that runs one part of a study.

    Raises
    ------
    ConfigError
        If no folder was named and the default one holds a study of another content.
    """
    if out is not None:
        return out.expanduser().resolve()
    folder = default_out(study).resolve()
    stated = folder / "study.yaml"
    if stated.is_file() and stated.read_text(encoding="utf-8") != study.model_dump_yaml():
        raise ConfigError(f"{folder} holds study {study.name} with other values. Name another folder with --out.")
    return folder


def plan_study(study: Study, out: Path) -> list[Stage]:
    """Return all stages of a study in the order in which ready ones start."""
    data = [_data_stage(out)] if _uses_pocket_data(study) else []
    check = _check_stage(study, out, data)
    features = _features_stage(study, out, data)
    trained = {run: _train_stage(study, out, run, [check, features]) for run in study.runs() if not run.is_best}
    stages = [*data, check, features, *trained.values()]
    if study.sweep:
        trials, best = _sweep_stages(study, out, [check, features], trained)
        stages, trained = [*stages, *trials, *best.values()], trained | best
    evaluated = [_eval_stage(study, out, run, train) for run, train in trained.items()]
    return [*stages, *evaluated, _analyze_stage(study, out, [check, *evaluated])]


def _sweep_stages(
    study: Study, out: Path, needs: Sequence[Stage], trained: Mapping[Run, Stage]
) -> tuple[list[Stage], dict[Run, Stage]]:
    """Return the trials up to the choice for each backbone, and the trainings at the rates that were chosen.

    A training takes over one that was finished with the same content, so a trial of the recipe's own rate waits for it.
    """
    own_rates = {name: study.recipe_for(name).finetune_stages[0].learning_rate for name in study.backbones}
    trials, validated, chosen = dict[Run, Stage](), dict[Run, Stage](), dict[str, Stage]()
    for run in study.trials():
        same = run.learning_rate == own_rates[run.backbone]
        trials[run] = _train_stage(study, out, run, [trained[Run(run.backbone, run.seed)]] if same else needs)
        validated[run] = _eval_stage(study, out, run, trials[run])
    for backbone in study.backbones:
        own = {run: stage for run, stage in validated.items() if run.backbone == backbone}
        chosen[backbone] = _choose_stage(study, out, backbone, own)
    best = {run: _train_stage(study, out, run, [chosen[run.backbone]]) for run in study.runs() if run.is_best}
    return [*trials.values(), *validated.values(), *chosen.values()], best


def _choose_stage(study: Study, out: Path, backbone: str, validated: Mapping[Run, Stage]) -> Stage:
    facts = ["choose", stage_version(_CHOOSE), [stage.fingerprint for stage in validated.values()]]
    file = choice_file(out, backbone)
    trials = [f"{run.learning_rate!r}={out / run.name}" for run in validated]
    arguments = ("--out", str(file), "--bootstrap", str(study.analysis.bootstrap), *trials)
    job = Job(
        f"choose {Run(backbone).name}", _CHOOSE, arguments, out / "sweep" / f"{file.stem}.log",
        needs=_names(list(validated.values())),
    )  # fmt: skip
    return _stage(out, job, facts, [file])


def _uses_pocket_data(study: Study) -> bool:
    from_pocket = not study.data.finetune or bool(study.own_tasks() and not study.data.eval)
    return from_pocket and not os.environ.get("VLM_BACKBONES_DATA")


def _stage(
    out: Path,
    job: Job,
    facts: object,
    outputs: Sequence[Path],
    *,
    only_for_others: bool = False,
) -> Stage:
    record = out / ".stages" / f"{job.name.replace(' ', '-').replace('/', '-')}.json"
    return Stage(job, hash_of(facts), record, tuple(outputs), only_for_others)


def _threads(study: Study) -> int:
    """Return the threads of each training and evaluation.

    One number whatever else runs: sums over another number of threads differ in the last digits, and a study that
    was broken off must give the tables of one that was not.
    """
    return max(1, cores() // min(cores(), len(study.runs())))


def _names(stages: Sequence[Stage]) -> tuple[str, ...]:
    return tuple(stage.job.name for stage in stages)


def _data_stage(out: Path) -> Stage:
    job = Job("data", _CLI, ("data", "build"), out / "data.log")
    facts = ["data", stage_version("vlm_backbones.pocket.datasets")]
    return _stage(out, job, facts, (), only_for_others=True)


def _inputs(study: Study, out: Path) -> list[object]:
    """Return what all training stages depend on, one JSON value."""
    paths = [*study.data.training_files, *([study.data.eval] if study.data.eval else [])]
    if folder := os.environ.get("VLM_BACKBONES_DATA"):
        paths.append(Path(folder))
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"study {study.name}: no such data: {', '.join(missing)}.")
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


def _check_stage(study: Study, out: Path, needs: Sequence[Stage]) -> Stage:
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


def _features_stage(study: Study, out: Path, needs: Sequence[Stage]) -> Stage:
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


def _train_stage(study: Study, out: Path, run: Run, needs: Sequence[Stage]) -> Stage:
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
    return _stage(out, job, facts, [folder / "checkpoint" / "config.json", folder / "run.json"])


def _eval_stage(study: Study, out: Path, run: Run, train: Stage) -> Stage:
    is_trial = run.learning_rate is not None
    folder, conditions = out / run.name, ["clean"] if is_trial else study.conditions()
    facts = [
        "eval",
        stage_version(_EVALUATE),
        train.fingerprint,
        [study.tasks, conditions, study.evaluation.model_dump(), files_fingerprint(study.task_paths)],
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
    return _stage(out, job, facts, [folder / "logs" / condition / "done.json" for condition in conditions])


def _analyze_stage(study: Study, out: Path, needs: Sequence[Stage]) -> Stage:
    names = [run.name for run in study.runs()]
    # analysis is cheap: any change of its code repeats it, no VERSION needed
    code = files_fingerprint([package_folder("vlm_backbones.analysis")])
    facts = ["analyze", code, study.model_dump(mode="json")]
    facts += [stage.fingerprint for stage in needs]
    if graded := sorted(out.glob("*/logs/**/*.graded.json")):  # `judge read` changed the logs since
        facts.append(files_fingerprint(graded))
    arguments = ["analyze", *(part for name in names for part in ("--run", f"{name}={out / name}"))]
    arguments += ["--study-dir", str(out), "--out", str(out), "--bootstrap", str(study.analysis.bootstrap)]
    job = Job("analyze", _CLI, tuple(arguments), out / "analyze.log", needs=_names(needs))
    return _stage(out, job, facts, [out / "report.html", out / "verdict.txt", out / "tables" / "scores.csv"])


def stages_left(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages to run: the unfinished, and those that they alone need."""
    left = [stage for stage in stages if not stage.is_done and not stage.only_for_others]
    for stage in reversed([stage for stage in stages if stage.only_for_others and not stage.is_done]):
        if any(stage.job.name in other.job.needs for other in left):
            left.append(stage)
    names = {stage.job.name for stage in left}
    return [stage for stage in stages if stage.job.name in names]


def run_study(study: Study, out: Path, display: Display) -> Path:
    """Train, evaluate and analyze; what is done is skipped, what was broken off continues.

    Parameters
    ----------
    out
        The study's folder; one process at a time works in it.

    Returns
    -------
    The report's path.

    Raises
    ------
    ConfigError
        When another process works in the folder.
    StageError
        When a stage fails; finished stages are kept.
    """
    out = out.expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise ConfigError(f"another process is working in {out}. Wait for it, or choose another --out.") from error
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}. Choose another --out.") from error
    with lock:
        atomic_write_text(out / "study.yaml", study.model_dump_yaml())
        _run_stages(study, out, plan_study(study, out), display)
        _remember(study, out)
    return out / "report.html"


def _run_stages(
    study: Study,
    out: Path,
    stages: Sequence[Stage],
    display: Display,
    names: Collection[str] | None = None,
    nodes: Nodes | None = None,
) -> None:
    """Run what is left of the stages, or what is left of those named, and record each that finished.

    A training that ends is compared with those that ended before, so that an unfair study stops early.
    """
    trainings = {f"train {run.name}": run.name for run in study.runs()}
    by_name = {stage.job.name: stage for stage in stages}

    def succeeded(job: Job, seconds: float) -> None:
        stage = by_name[job.name]
        if nodes is not None and nodes.rank:
            return  # the first machine writes and records
        if stage.lost:
            raise DataError(f"{job.name} ended without {', '.join(map(str, stage.lost))}. See {job.log}.")
        if job.name in trainings:
            done = {trainings[other.job.name] for other in stages if other.job.name in trainings and other.is_done}
            check_trained_runs(study, out, {*done, trainings[job.name]})
        write_record(stage.record, stage.fingerprint, seconds)

    left = [stage.job for stage in stages_left(stages) if names is None or stage.job.name in names]
    run_jobs(left, display, succeeded, nodes)


def run_stage(study: Study, out: Path, name: str, display: Display, nodes: Nodes | None = None) -> None:
    """Run one stage of a study, whose needs are done; nothing where it is done itself.

    Parameters
    ----------
    nodes
        Where several machines run this training together: each of them calls this.

    Raises
    ------
    StageError
        When it fails.
    """
    # it has the machine for itself: all its cores
    stages = [replace(stage, job=replace(stage.job, threads=None)) for stage in plan_study(study, out)]
    if nodes is not None and nodes.rank:
        stages = [replace(stage, job=_with_own_log(stage.job, nodes.rank)) for stage in stages]
    _run_stages(study, out, stages, display, {name}, nodes)
    if name == stages[-1].job.name:
        _remember(study, out)


def _with_own_log(job: Job, rank: int) -> Job:
    return replace(job, log=job.log.with_suffix(f".node{rank}.log"))


def _remember(study: Study, out: Path) -> None:
    """Note the newest checkpoint for a bare `lmms-eval`; a finished study does not fail for want of that note."""
    newest = study.backbones[-1]
    try:
        write_last_study(out, newest, out / Run(newest, study.seeds[0]).name / "checkpoint")
    except DataError as error:
        print(f"note: {error} The study is whole; lmms-eval needs --model_args pretrained=CHECKPOINT.", file=sys.stderr)


def study_status(study: Study, out: Path) -> list[tuple[Stage, bool]]:
    """Return every stage with whether it is done; writes nothing."""
    stages = plan_study(study, out.expanduser().resolve())
    left = {stage.job.name for stage in stages_left(stages)}
    return [(stage, stage.job.name not in left) for stage in stages]
