"""The commands of `vlm-backbones`. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

__all__ = ["app", "main"]

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from vlm_backbones.errors import ConfigError, DataError, VlmBackbonesError, nearest

_OPTIONS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(help="Swap the LLM of a vision-language model with everything else equal.", **_OPTIONS)
study_app = typer.Typer(help="Train, evaluate and compare all backbones of a study.", **_OPTIONS)
tasks_app = typer.Typer(help="The tasks this package adds to lmms-eval.", **_OPTIONS | {"no_args_is_help": False})
judge_app = typer.Typer(help="Grade logged answers with any judge.", **_OPTIONS)
data_app = typer.Typer(help="Build and import the tasks' datasets.", **_OPTIONS)
import_app = typer.Typer(help="Turn other data into the tasks' dataset folders.", **_OPTIONS)
app.add_typer(study_app, name="study")
app.add_typer(tasks_app, name="tasks")
app.add_typer(judge_app, name="judge")
app.add_typer(data_app, name="data")
data_app.add_typer(import_app, name="import")

StudyArgument = Annotated[str, typer.Argument(help="A shipped study, a YAML file or a study's output folder.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, as in recipe.finetune.steps=5."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Output folder; default: runs/STUDY_NAME.")]


def _version(value: bool) -> None:
    if value:
        from vlm_backbones import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Swap the LLM of a vision-language model with everything else equal, and see what really changes."""


@study_app.command("run")
def study_run(study: StudyArgument = "pocket", overrides: SetOption = None, out: OutOption = None) -> None:
    """Train, evaluate, analyze; finished stages are skipped, broken-off ones continue."""
    from rich.console import Console

    from vlm_backbones._display import StudyDisplay, scores_table
    from vlm_backbones._verdict_display import tell_verdict
    from vlm_backbones.pipeline import default_out, run_study
    from vlm_backbones.study import load_study
    from vlm_backbones.trust import tell_of_study

    config = load_study(study, overrides or [])
    tell_of_study(config)
    console = Console()
    try:
        with StudyDisplay(console) as display:
            report = run_study(config, out or default_out(config), display)
    except KeyboardInterrupt:  # typer itself would end without a word
        typer.echo("stopped; what is finished is kept: run the same command again to continue", err=True)
        raise typer.Exit(130) from None
    from vlm_backbones.train.card import refresh_cards

    refresh_cards(report.parent)
    console.print(scores_table(report.parent / "tables"))
    tell_verdict(report)


@study_app.command("check")
def study_check(study: StudyArgument = "pocket", overrides: SetOption = None, out: OutOption = None) -> None:
    """Write the certificate and run the preflight, without training; nonzero where a confound is found."""
    from vlm_backbones._check_display import render_check, render_estimate
    from vlm_backbones._estimate import estimate_study, measured_data
    from vlm_backbones.control import check_study, missing_parts
    from vlm_backbones.pipeline import own_out
    from vlm_backbones.study import load_study
    from vlm_backbones.trust import tell_of_study

    config = load_study(study, overrides or [])
    tell_of_study(config)
    folder = own_out(config, out)
    missing = missing_parts(config)
    if missing:
        render_estimate(estimate_study(config), "as published, the files are not here", config.training)
        raise DataError(
            "only the estimate was made. Without these files nothing else could be checked, neither rows and pictures "
            "nor labels, truncation and digits of the tokenizers:" + "".join(f"\n  - {part}" for part in missing)
        )
    certificate = check_study(config, folder)
    render_check(certificate)
    render_estimate(estimate_study(config, measured_data(certificate)), "as read", config.training)
    typer.echo(folder / "certificate.json")
    if certificate["confounds"]:
        raise ConfigError("the comparison is confounded:" + "".join(f"\n  - {row}" for row in certificate["confounds"]))


@study_app.command("status")
def study_status(
    folder: Annotated[Path, typer.Argument(help="A study's output folder.", metavar="DIR")],
) -> None:
    """Show what is done and what is left."""
    from rich.console import Console
    from rich.table import Table

    from vlm_backbones import pipeline
    from vlm_backbones.study import load_study
    from vlm_backbones.submission import job_states

    if not (folder / "study.yaml").is_file():
        raise ConfigError(f"{folder} holds no study.yaml: not a study's output folder.")
    rows = pipeline.study_status(load_study(folder / "study.yaml"), folder)
    jobs = job_states(folder)
    table = Table("stage", "state", "log", box=None)
    for stage, done in rows:
        log = str(stage.job.log) if stage.job.log.is_file() else ""
        state = jobs.get(stage.job.name, jobs.get("study", "")).lower() or ("not finished" if log else "to do")
        table.add_row(stage.job.name, "done" if done else state, log)
    Console(soft_wrap=True).print(table)
    typer.echo(f"{sum(done for _, done in rows)} of {len(rows)} stages done")


@study_app.command("submit")
def study_submit(
    study: StudyArgument = "pocket",
    executor: Annotated[Literal["slurm", "local"], typer.Option("--executor", help="Where the jobs run.")] = "slurm",
    settings: Annotated[
        list[str] | None,
        typer.Option("--job", metavar="KEY=VALUE", help="Of each Slurm job, as in partition=gpu, time=600, mem=64G."),
    ] = None,
    overrides: SetOption = None,
    out: OutOption = None,
) -> None:
    """Submit the stages as jobs with dependencies; `study status` tells how they stand."""
    from vlm_backbones.pipeline import default_out
    from vlm_backbones.study import load_study
    from vlm_backbones.submission import submit_study
    from vlm_backbones.trust import tell_of_study

    config = load_study(study, overrides or [])
    tell_of_study(config)
    folder = out or default_out(config)
    pairs = dict(_key_value(text) for text in settings or [])
    for name, job in submit_study(config, folder, executor, pairs).items():
        typer.echo(f"{job}  {name}")
    typer.echo(f"vlm-backbones study status {folder}")


def _key_value(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key or not value:
        raise ConfigError(f"--job {text!r}: expected KEY=VALUE, as in partition=gpu.")
    return key, value


@app.command()
def train(
    study: StudyArgument,
    backbone: Annotated[str, typer.Option("--backbone", help="One of the study's backbones.")],
    seed: Annotated[int, typer.Option("--seed")] = 0,
    overrides: SetOption = None,
    out: OutOption = None,
) -> None:
    """Train one backbone, on as many GPUs as the study says; also under torchrun or accelerate launch."""
    import os

    from vlm_backbones._launch import launch_command
    from vlm_backbones._reporters import check_reporters
    from vlm_backbones.cache import atomic_write_text
    from vlm_backbones.pipeline import own_out
    from vlm_backbones.study import load_study

    config = load_study(study, overrides or [])
    if backbone not in config.backbones:
        raise ConfigError(f"{backbone!r} is not in study {config.name}.{nearest(backbone, config.backbones)}")
    check_reporters(config.report_to)
    folder = own_out(config, out)
    atomic_write_text(folder / "study.yaml", config.model_dump_yaml())
    arguments = ["--study", str(folder / "study.yaml"), "--backbone", backbone, "--seed", str(seed)]
    arguments += ["--out", str(folder)]
    if config.training.processes > 1 and "WORLD_SIZE" not in os.environ:  # set by every launcher
        words = config.training.model_dump()
        command = launch_command("vlm_backbones.train.finetune", arguments, **words)
        os.execv(command[0], command)
    from vlm_backbones.train import finetune

    _exit_with(finetune.main(arguments))


@app.command("eval")
def evaluate(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_CHECKPOINT")],
    tasks: Annotated[str, typer.Option("--tasks", help="Task names with commas between.")],
    condition: Annotated[str, typer.Option("--condition", help="Condition names with commas between.")] = "clean",
    out: Annotated[Path | None, typer.Option("--out", help="Default: the run's own folder.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Documents a task.")] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", help="Requests at once, or auto.")] = "16",
) -> None:
    """Evaluate a checkpoint through lmms-eval; a failed evaluation exits nonzero."""
    from vlm_backbones._names import known_tasks

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    known = known_tasks(names)
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown task {name!r}.{nearest(name, known)}")
    if not path.is_dir():
        raise ConfigError(f"no folder {path}: give a run of a study or a checkpoint.")
    from vlm_backbones.model_wrappers import evaluate as stage

    arguments = [str(path), "--tasks", ",".join(names), "--conditions", condition]
    arguments += ["--out", str(out or path), "--batch-size", batch_size]
    _exit_with(stage.main(arguments + (["--limit", str(limit)] if limit else [])))


@app.command()
def analyze(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH...", help="Folders with lmms-eval logs.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", metavar="NAME=PATH", help="Name a run.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Gets tables/ and report.html.")] = Path("analysis-out"),
    cluster_key: Annotated[str | None, typer.Option("--cluster-key", help="What groups dependent samples.")] = None,
    score_key: Annotated[str | None, typer.Option("--score-key", help="The sample's score.")] = None,
    study_dir: Annotated[
        Path | None, typer.Option("--study-dir", help="Where certificate.json is, unless PATH is a study's folder.")
    ] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=100)] = 10_000,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    inline_images: Annotated[
        bool, typer.Option("--inline-images", help="Samples and images inside the page: one file to send.")
    ] = False,
) -> None:
    """Read any lmms-eval logs and write tables and one report; no model, no torch."""
    if not paths and not run:
        raise ConfigError("nothing to analyze: give folders with lmms-eval logs, or --run NAME=PATH.")
    named = dict(_named_path(text) for text in run or [])
    for path in [*(paths or []), *named.values()]:
        if not path.exists():
            raise ConfigError(f"no file or folder {path}.")
    if study_dir is None and paths and len(paths) == 1 and (paths[0] / "certificate.json").is_file():
        study_dir = paths[0]
    if study_dir is not None and (study_dir / "study.yaml").is_file():
        from vlm_backbones._trained_runs import check_trained_runs
        from vlm_backbones.study import load_study

        check_trained_runs(load_study(study_dir), study_dir)
    from vlm_backbones import analysis
    from vlm_backbones._verdict_display import tell_verdict

    report = analysis.analyze(
        paths or [],
        out,
        runs=named or None,
        cluster_key=cluster_key,
        score_key=score_key,
        study_dir=study_dir,
        bootstrap=bootstrap,
        seed=seed,
        inline_images=inline_images,
    )
    tell_verdict(report)


@app.command()
def leaderboard(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Folders or files of lmms-eval outputs, published tables (CSV), or a shipped one: vip-llava-study.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Gets leaderboard.html and tables.")] = Path("leaderboard-out"),
    run: Annotated[list[str] | None, typer.Option("--run", metavar="NAME=PATH", help="Name a run.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="NAME=TASK[:METRIC]", help="Put a task's metric into the column NAME."),
    ] = None,
    cluster_key: Annotated[str | None, typer.Option("--cluster-key", help="What groups dependent samples.")] = None,
    score_key: Annotated[str | None, typer.Option("--score-key", help="The sample's score.")] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=100)] = 10_000,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Put runs and published tables side by side, with ranks, intervals and what cannot be told apart."""
    if not paths and not run:
        raise ConfigError("nothing to rank: give runs, published tables (CSV) or the shipped table vip-llava-study.")
    named = dict(_named_path(text) for text in run or [])
    from vlm_backbones.analysis.leaderboard.write import write_leaderboard

    page = write_leaderboard(
        paths or [],
        out,
        runs=named,
        benchmarks=benchmark or [],
        cluster_key=cluster_key,
        score_key=score_key,
        bootstrap=bootstrap,
        seed=seed,
    )
    _print_beside_published(out / "published.parquet")
    typer.echo(page)


def _print_beside_published(table: Path) -> None:
    """Show runs beside a shipped table, what is missing marked."""
    if table.is_file():
        import polars as pl

        from vlm_backbones.analysis.leaderboard.beside import differences, render_beside

        beside = pl.read_parquet(table)
        _print_rows(render_beside(beside))
        typer.echo("What our numbers differ in from the published ones:")
        for line in differences(beside):
            typer.echo(f"  {line}")


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"--run {text!r} is not NAME=PATH.")
    return name, Path(path)


def _exit_with(code: object) -> None:
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def _print_yaml(value: Any) -> None:
    import yaml

    typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())


@app.command()
def backbones(name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Describe one.")] = None) -> None:
    """List the registered LLM backbones, or describe one."""
    from vlm_backbones._names import describe_backbone, describe_backbones

    _print_rows(describe_backbones()) if name is None else _print_yaml(describe_backbone(name))


@app.command("vision-towers")
def vision_towers(name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Describe one.")] = None) -> None:
    """List the registered vision towers, or describe one."""
    from vlm_backbones._names import describe_vision_tower, describe_vision_towers

    _print_rows(describe_vision_towers()) if name is None else _print_yaml(describe_vision_tower(name))


def _print_rows(rows: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for key in rows[0]:
        table.add_column(key, overflow="fold")  # ids are copied from here: never cut
    for row in rows:
        table.add_row(*row.values())
    terminal = Console()
    (terminal if terminal.is_terminal else Console(width=200)).print(table)


@tasks_app.callback(invoke_without_command=True)
def _tasks(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        tasks_list()


@tasks_app.command("list")
def tasks_list() -> None:
    """List this package's tasks and those of VLM_BACKBONES_TASKS; every stock task of lmms-eval runs as well."""
    from vlm_backbones._names import own_tasks, user_tasks

    known = user_tasks() | own_tasks()
    _print_rows([{"task": name, "file": str(path)} for name, path in sorted(known.items())])


@tasks_app.command("describe")
def tasks_describe(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Show a task's README and YAML."""
    from vlm_backbones._names import own_tasks, user_tasks

    known = user_tasks() | own_tasks()
    if name not in known:
        raise ConfigError(f"unknown task {name!r}.{nearest(name, known)}")
    readme = known[name].parent / "README.md"
    for path in (readme, known[name]):
        if path.is_file():
            typer.echo(path.read_text(encoding="utf-8").rstrip() + "\n")


@tasks_app.command("new")
def tasks_new(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="JSON lines, CSV or parquet: image, question, answer.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="The task's folder; default: tasks/NAME.")] = None,
) -> None:
    """Write a task folder from a table of pictures, questions and answers; it runs at once."""
    from vlm_backbones._names import own_tasks, stock_tasks
    from vlm_backbones.data.imports.new_task import write_task

    if name in own_tasks() or name in stock_tasks():
        raise ConfigError(f"a task {name!r} exists, and lmms-eval would run that one. Choose another name.")
    folder = out or Path("tasks") / name
    count = write_task(name, data, folder)
    typer.echo(f"{count} questions; run them with")
    typer.echo(f"VLM_BACKBONES_TASKS={folder.parent} lmms-eval --model backbone_vlm --tasks {name}")
    typer.echo(folder)


LogsArgument = Annotated[Path, typer.Argument(metavar="LOGS", help="A folder or file of logged samples.")]


@judge_app.command("write")
def judge_write(
    logs: LogsArgument, out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")]
) -> None:
    """Write the questions for a judge, and the files that the ViP-Bench server takes."""
    from vlm_backbones.tasks.judge_files import write_questions

    typer.echo(f"{write_questions(logs, out)} questions: grade each from 0 to 1")
    typer.echo(out / "questions.jsonl")


@judge_app.command("read")
def judge_read(
    logs: LogsArgument,
    grades: Annotated[Path, typer.Argument(metavar="GRADES", help="JSON lines with key and grade.")],
) -> None:
    """Write a judge's grades into the logged samples and their results files."""
    from vlm_backbones.tasks.judge_files import read_grades

    counts = read_grades(logs, grades)
    typer.echo(f"{counts.graded} answers graded, {counts.ungraded} without a grade, {counts.unused} grades not used")


@app.command()
def compose(
    backbone: Annotated[str, typer.Argument(help="Registry id or folder.")],
    vision_tower: Annotated[str, typer.Argument(help="Registry id or folder.")],
    out: Annotated[Path, typer.Argument(help="The new checkpoint's folder.")],
    chat_format: Annotated[str, typer.Option("--chat-format", help="native, shared or a format's name.")] = "native",
) -> None:
    """Put a VLM together from parts, its projector untrained, and save it in transformers' format."""
    from vlm_backbones._names import known_chat_formats

    formats = ["native", *(name for name in known_chat_formats() if name != "plain")]
    if chat_format not in formats:
        raise ConfigError(f"--chat-format: unknown chat format {chat_format!r}.{nearest(chat_format, formats)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no empty folder. Choose a new one.")
    from vlm_backbones.backbones import get_backbone
    from vlm_backbones.vision import get_vision_tower

    get_backbone(backbone), get_vision_tower(vision_tower)  # an unknown id is told before torch loads
    from vlm_backbones import vlm

    model, processor = vlm.compose(backbone, vision_tower, chat_format=chat_format)
    vlm.save(model, processor, out)
    typer.echo(out)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A folder in the original LLaVA or ViP-LLaVA format.")],
    out: Annotated[Path, typer.Argument(help="The new checkpoint's folder.")],
    vision_tower: Annotated[
        Path | None, typer.Option("--vision-tower", metavar="DIR", help="The tower that the checkpoint names.")
    ] = None,
    model_base: Annotated[
        Path | None, typer.Option("--model-base", metavar="DIR", help="The LLM that a LoRA adapter belongs to.")
    ] = None,
    chat_format: Annotated[
        str | None, typer.Option("--chat-format", help="Default: by kind; say llava_llama_2 for Llama-2-chat.")
    ] = None,
) -> None:
    """Turn an original LLaVA or ViP-LLaVA checkpoint into transformers' format, with its prompt and preprocessing."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no empty folder. Choose a new one.")
    if not (checkpoint / "config.json").is_file():  # told before torch loads
        raise ConfigError(f"no config.json in {checkpoint}: give a checkpoint in the original LLaVA format.")
    from vlm_backbones import vlm

    vlm.convert(checkpoint, out, vision_tower=vision_tower, model_base=model_base, chat_format=chat_format)
    typer.echo(out)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run, or a checkpoint's folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hugging Face Hub.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is private otherwise.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files; nothing is sent.")] = False,
) -> None:
    """Share a checkpoint with its model card on the Hugging Face Hub; without a token, list what would be sent."""
    if not run.is_dir():
        raise ConfigError(f"no folder {run}: give a run of a study or a checkpoint.")
    from vlm_backbones.train.push import push as send

    send(run, repo, private=not public, dry_run=dry_run, tell=typer.echo)


@data_app.command("build")
def data_build() -> None:
    """Build the pocket datasets into the user's cache, once, and print their folder."""
    from vlm_backbones.pocket import datasets

    typer.echo(datasets.ensure_pocket_data())


@import_app.command("earthquakes")
def import_earthquakes(
    source: Annotated[Path, typer.Argument(metavar="CSV", help="A catalogue with the columns of earthquakes.csv.")],
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    frames: Annotated[
        Literal["pocket", "auto"], typer.Option("--frames", help="pocket: the study's windows; auto: one around each.")
    ] = "pocket",
) -> None:
    """Draw a catalogue's events as shake maps, into the test splits of the two seismic tasks."""
    if not source.is_file():
        raise ConfigError(f"no file {source}.")
    from vlm_backbones.pocket import datasets

    counts = datasets.import_earthquakes(source, out, frames=frames)
    typer.echo(f"{counts['drawn']} events drawn, {counts['left_out']} outside the windows left out")
    typer.echo(out)


SplitOption = Annotated[Literal["train", "validation", "test"], typer.Option("--split")]


ColumnOption = Annotated[
    list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Where the name does not say it.")
]
TableArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, JSON lines or CSV.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT")]


@import_app.command("multiseismo")
def import_multiseismo(
    source: TableArgument, out: OutArgument, column: ColumnOption = None, split: SplitOption = "test"
) -> None:
    """Turn MultiSeismo's table into the datasets of the two seismic tasks."""
    from vlm_backbones.data.imports.task_tables import SEISMIC_TASKS

    _import_table(source, out, SEISMIC_TASKS, column or [], split)


@import_app.command("jsonl")
def import_jsonl(
    source: TableArgument, out: OutArgument, column: ColumnOption = None, split: SplitOption = "test"
) -> None:
    """Turn a table of pictures with questions, descriptions or places into the datasets of the tasks that it fits."""
    from vlm_backbones.data.imports.task_tables import TASKS

    _import_table(source, out, tuple(TASKS), column or [], split)


def _import_table(source: Path, out: Path, tasks: Sequence[str], column: Sequence[str], split: str) -> None:
    from vlm_backbones.data.imports.task_tables import import_table, roles_of

    pairs = [text.partition("=") for text in column]
    for role, equals, name in pairs:
        if not (role and equals and name):
            raise ConfigError(f"--column {role + equals + name!r} is not ROLE=COLUMN, as latitude=lat.")
    made = import_table(source, out, tasks=tasks, columns={role: name for role, _, name in pairs}, split=split)
    taken = made.columns
    doubts = {role: f"- ({' or '.join(names)}?)" for role, names in taken.unclear.items()}
    _print_rows([{"role": role, "column": taken.found.get(role, doubts.get(role, "-"))} for role in roles_of(tasks)])
    typer.echo(f"not used: {', '.join(taken.unused) or 'none'}")
    for task, count in made.counts.items():
        typer.echo(f"{task}: {count} rows")
    typer.echo(out)


@import_app.command("llava")
def import_llava(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Instruct JSON; pictures relative to it.")],
    out: OutArgument,
    split: SplitOption = "test",
    max_words: Annotated[int, typer.Option("--max-words", min=1, help="Of the longest answer that is kept.")] = 5,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many questions.")] = None,
) -> None:
    """Turn the short questions of LLaVA's Instruct JSON into the dataset of vqa_scene; training reads the JSON."""
    from vlm_backbones.data.imports import llava

    made = llava.import_llava(source, out, split=split, max_words=max_words, limit=limit)
    for why, count in made.left_out.items():
        typer.echo(f"left out: {count} {why}")
    typer.echo(f"vqa_scene: {made.count} rows")
    typer.echo(out)


@import_app.command("vqav2")
def import_vqav2(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Official questions and annotations JSON.")],
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    images: Annotated[Path | None, typer.Option("--images", help="The pictures; default: as FOLDER/val2014.")] = None,
    split: SplitOption = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many questions.")] = None,
) -> None:
    """Turn VQAv2's official files into the dataset of vqa_scene."""
    from vlm_backbones.data.imports import vqav2

    count = vqav2.import_vqav2(source, out, images=images, split=split, limit=limit)
    typer.echo(f"vqa_scene: {count} rows")
    typer.echo(out)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Run the command line; what a user can mend is one message and exit code 2."""
    debug = "--debug" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app(arguments)
    except VlmBackbonesError as error:
        if debug:
            raise
        _fail(str(error))
    except OSError as error:
        if debug or error.errno not in {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT}:
            raise
        _fail(f"{error.filename or 'the output folder'}: {error.strerror}. Free space or choose another folder.")


if __name__ == "__main__":
    main()
