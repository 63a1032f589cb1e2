"""Study: the YAML of what to compare, as one strict pydantic model, and its loader. No torch."""

from __future__ import annotations

__all__ = [
    "SHARDINGS",
    "Analysis",
    "Condition",
    "Data",
    "Evaluation",
    "Lora",
    "Recipe",
    "Sharding",
    "StageRecipe",
    "Study",
    "Training",
    "load_study",
]

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from vlm_backbones._names import known_chat_formats
from vlm_backbones.errors import nearest
from vlm_backbones.recipe import Lora, Recipe, StageRecipe, Strict, at_learning_rate
from vlm_backbones.run import TAKEN_NAMES, Run

Condition = Literal["clean", "jpeg40", "noise05", "shift4", "paraphrase", "swap"]
Sharding = Literal["none", "fsdp2", "zero2", "zero3"]
SHARDINGS: tuple[Sharding, ...] = get_args(Sharding)
Ids = Annotated[list[str], Field(min_length=1)]
LearningRates = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class ExpectedData(Strict):
    """What a stage's training data holds, as published."""

    examples: int = Field(ge=1)
    text_tokens: int = Field(ge=1)
    """Tokens of question and answer an example, on average, without the image."""
    with_image: float = Field(default=1.0, ge=0, le=1)
    """Share of the examples that have an image."""


class Data(Strict):
    """Where training and evaluation rows come from; nothing given means the pocket data."""

    align: Path | None = None
    finetune: list[Path] = Field(default=[])
    stages: dict[str, Annotated[list[Path], Field(min_length=1)]] = Field(default={})
    """Files of single stages, by the stage's name, where they differ: finetune-2 is the second finetuning stage."""
    leave_out: Path | None = None
    """A list of rows that no backbone is trained on; `study check` writes one of the rows that do not fit all."""
    expected: dict[str, ExpectedData] = Field(default={})
    """By stage, what its files hold as published: for estimates before they are there, and compared with them."""
    eval: Path | None = None

    @field_validator("finetune", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str | Path) else value

    @field_validator("stages", mode="before")
    @classmethod
    def _one_path_of_a_stage_is_a_list(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {name: [paths] if isinstance(paths, str | Path) else paths for name, paths in value.items()}

    def files_for(self, stage: str) -> list[Path]:
        """Return the files of a stage; empty means the pocket data."""
        if stage in self.stages:
            return self.stages[stage]
        return [self.align] if stage == "align" and self.align is not None else self.finetune

    @property
    def training_files(self) -> list[Path]:
        """Every file and folder that training reads."""
        listed = [self.align, *self.finetune, *(path for paths in self.stages.values() for path in paths)]
        return [path for path in (*listed, self.leave_out) if path is not None]


class Training(Strict):
    """How many GPUs train one run, and what they share; a step has the same examples on any number of them."""

    processes: int = Field(default=1, ge=1)
    """One a GPU; on a machine without, one a core."""
    sharding: Sharding = "none"
    """`none`: each holds the whole model; `fsdp2`, `zero3`: they share weights, gradients and moments; `zero2`: the
    latter two. Each is the name of a configuration in `train/accelerate`."""

    @model_validator(mode="after")
    def _shares_with_someone(self) -> Self:
        if self.sharding != "none" and self.processes == 1:
            raise ValueError(f"'sharding' {self.sharding} needs 'processes' to share among: 2 or more")
        return self


class Evaluation(Strict):
    """How the trained models are evaluated."""

    limit: int | None = Field(default=None, ge=1)
    """Documents a task; all where left out."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    """Requests at once, at most; auto: as many as the memory takes."""


class Analysis(Strict):
    """What is compared beyond the clean answers."""

    states: bool = False
    """Keep hidden states, for similarity, probes and stability."""
    layers: str = Field(default="every4", pattern=r"^(all|every[1-9]\d*|\d+(\+\d+)*)$")
    """Of the states: all, everyN, or numbers as 0+8+16; 0 is the embeddings."""
    conditions: list[Condition] = Field(default=["swap"])
    subset: int | None = Field(default=None, ge=2)
    """Documents a task, spread evenly, for states and for all conditions but clean and swap; all where left out."""
    probe_targets: list[str] = Field(default=[])
    """Names of the samples' targets that probes predict; all where left out."""
    bootstrap: int = Field(default=10_000, ge=100)
    """Resamples behind every interval."""


class Study(Strict):
    """What to compare: backbones that are trained and evaluated with everything else equal."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    backbones: Ids
    """Registry ids (or ID@REVISION) or folders, oldest generation first; the only thing that varies."""
    vision_tower: str
    recipe: Recipe
    chat_format: str | dict[str, str] = "shared"
    """`shared`: one text for all; `native`: each backbone's own; a format's name; or backbone -> name, where a backbone
    that is left out has its own."""
    sweep: dict[Literal["learning_rate"], LearningRates] = Field(default={})
    """Learning rates to try for each backbone; the one that does best on validation is trained and shown as well."""
    data: Data = Data()
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(default=[0])
    tasks: Ids
    task_paths: list[Path] = Field(default=[])
    """Folders of the user's own lmms-eval tasks."""
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    analysis: Analysis = Analysis()
    deviations: dict[str, dict[str, Any]] = Field(default={})
    """Backbone -> {recipe key: value, reason: why}; printed on every report."""
    trust_remote_code: bool = False
    report_to: list[str] = Field(default=[])
    """The Trainer's reporters: tensorboard, wandb, mlflow."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        problems = [f"'{key}' names {word!r} twice" for key, word in self._repeated()]
        problems += [f"two runs share the name {name!r}" for name in _repeats([run.name for run in self.runs()])]
        problems += [
            f"'backbones' names {run.backbone!r}, whose run would lie in {run.name!r}, a folder or file of the study's "
            "own: rename the backbone's folder"
            for run in self.runs()
            if run.name.lower() in TAKEN_NAMES
        ]
        problems += _format_problems(self)
        unknown = [stage for stage in (*self.data.stages, *self.data.expected) if stage not in self.recipe.stages]
        problems += [f"'data' names the stage {stage!r}.{nearest(stage, self.recipe.stages)}" for stage in unknown]
        trials = [run.name for run in self.trials()]
        problems += [f"'sweep' names the learning rate of {name} twice" for name in _repeats(trials)]
        problems += _deviation_problems(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _repeated(self) -> list[tuple[str, str]]:
        fields = {"backbones": self.backbones, "tasks": self.tasks, "seeds": [str(seed) for seed in self.seeds]}
        return [(key, word) for key, words in fields.items() for word in _repeats(words)]

    def chat_format_for(self, backbone: str) -> str:
        """Return the name of a backbone's chat format: `native` is what its registry row or tokenizer says."""
        return self.chat_format if isinstance(self.chat_format, str) else self.chat_format.get(backbone, "native")

    def runs(self) -> list[Run]:
        """Return every run to compare, seeds outermost, so that a whole comparison exists early.

        After a sweep each (backbone, seed) is there twice: with the one recipe, then at the backbone's best rate.
        """
        kinds = [False, True] if self.sweep else [False]
        pairs = [(backbone, seed) for seed in self.seeds for backbone in self.backbones]
        return [Run(backbone, seed, is_best=best) for best in kinds for backbone, seed in pairs]

    def trials(self) -> list[Run]:
        """Return the sweep's trials: every backbone at every learning rate, with the first seed."""
        rates = self.sweep.get("learning_rate", [])
        return [Run(backbone, self.seeds[0], learning_rate=rate) for backbone in self.backbones for rate in rates]

    def own_tasks(self) -> list[str]:
        """Return those of our three tasks that are asked; their rows come from `data.eval`, else the pocket data."""
        from vlm_backbones.data._task_folders import TASKS

        return [task for task in TASKS if task in self.tasks or "backbone_study" in self.tasks]

    def conditions(self) -> list[str]:
        """Return the conditions to evaluate, `clean` first."""
        return ["clean", *(name for name in self.analysis.conditions if name != "clean")]

    def recipe_for(self, backbone: str, learning_rate: float | None = None) -> Recipe:
        """Return the recipe of one backbone, with its declared deviations applied, at another rate where one is given.

        The first finetuning stage then has that learning rate; every other rate of finetuning keeps its ratio to it.
        """
        recipe = self._deviating(backbone)
        return recipe if learning_rate is None else at_learning_rate(recipe, learning_rate)

    def deviates(self, backbone: str, stage: str, keys: Collection[str]) -> bool:
        """Whether a declared deviation gives a backbone another value of one of these keys in a stage's recipe."""
        shared, own = self.recipe.stages.get(stage), self._deviating(backbone).stages.get(stage)
        return any(getattr(own, key, None) != getattr(shared, key, None) for key in keys)

    def _deviating(self, backbone: str) -> Recipe:
        changes = {key: value for key, value in self.deviations.get(backbone, {}).items() if key != "reason"}
        if not changes:
            return self.recipe
        content = self.recipe.model_dump(mode="json")
        for key, value in changes.items():
            place: Any = content
            *parents, last = key.removeprefix("recipe.").split(".")
            for parent in parents:
                place = place[int(parent) if isinstance(place, list) else parent]
            if last not in place:
                raise KeyError(last)
            place[last] = value
        return Recipe.model_validate(content)

    def model_dump_yaml(self) -> str:
        """Return the resolved study as YAML that `load_study` reads back to an equal value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _repeats(words: Sequence[str]) -> list[str]:
    return sorted({word for word in words if words.count(word) > 1})


def _format_problems(study: Study) -> list[str]:
    known = ["native", *(name for name in known_chat_formats() if name != "plain")]
    given = {"": study.chat_format} if isinstance(study.chat_format, str) else study.chat_format
    problems = [
        f"'chat_format' names {backbone!r}, which is not one of 'backbones'"
        for backbone in given
        if backbone and backbone not in study.backbones
    ]
    for name in sorted(set(given.values())):
        if name == "plain":
            problems.append("'chat_format' plain knows no questions: give it to the recipe's align stage")
        elif name not in known:
            problems.append(f"unknown chat format {name!r}.{nearest(name, known)}")
    return problems


def _deviation_problems(study: Study) -> list[str]:
    problems = []
    for backbone, changes in study.deviations.items():
        if backbone not in study.backbones:
            problems.append(f"'deviations' names {backbone!r}, which is not one of 'backbones'")
            continue
        if not str(changes.get("reason") or "").strip():
            problems.append(f"'deviations.{backbone}' needs a 'reason'")
        try:
            if study.recipe_for(backbone).stages.keys() != study.recipe.stages.keys():
                problems.append(
                    f"'deviations.{backbone}' leaves out or adds a stage: every backbone needs the same ones"
                )
        except (KeyError, IndexError, TypeError, ValueError, ValidationError) as error:
            problems.append(f"'deviations.{backbone}' does not fit the recipe ({_first_line(error)})")
    return problems


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors())
    return f"no key {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]


def load_study(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Load a study by the name of a shipped one, by its YAML file, or by its output folder.

    Parameters
    ----------
    name_or_path
        `pocket`, `my-study.yaml`, or a folder that holds a `study.yaml`. Relative paths inside the file start at
        the file's folder.
    overrides
        `key=value` with dots between levels, as in `recipe.finetune.steps=100`; values are YAML. Relative paths
        start at the current folder.

    Raises
    ------
    ConfigError
        With all problems of the study at once; unknown keys, backbones, towers and tasks name the nearest known.
    """
    from vlm_backbones._study_loading import find_study, read_study
    from vlm_backbones._study_problems import validate_study

    path = find_study(name_or_path)
    content: Mapping[str, Any] = read_study(path, overrides)
    return validate_study(content, source=str(path), overrides=overrides)
