"""Train one backbone of a study: recipe to run.

python -m vlm_backbones.train.finetune --study pocket --backbone pocket-llama-3 --seed 0 --out runs/pocket
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from vlm_backbones._hub import part_files
from vlm_backbones._launch import accelerate_config
from vlm_backbones._outputs import missing_outputs
from vlm_backbones._seals import SEAL
from vlm_backbones._stage import die_with
from vlm_backbones._sweep import read_choice
from vlm_backbones.backbones import get_backbone
from vlm_backbones.cache import disk_is_full, staged_path
from vlm_backbones.data.conversations import Example, examples_digest, load_training_examples
from vlm_backbones.errors import ConfigError, VlmBackbonesError, writing_remedy
from vlm_backbones.hashes import file_sha256
from vlm_backbones.locks import DYING_SECONDS, hold
from vlm_backbones.out_of_memory import is_out_of_memory
from vlm_backbones.prompts import wording_fingerprint
from vlm_backbones.recipe import Recipe, StageRecipe
from vlm_backbones.run import Run
from vlm_backbones.study import Study, load_study
from vlm_backbones.train.card import model_card
from vlm_backbones.train.dataset import StageData, build_stage_data, parameter_dtype
from vlm_backbones.train.features import Features, load_features
from vlm_backbones.train.loss import has_fused_loss
from vlm_backbones.train.memory import LessMemory, free_memory, use_less, within_memory
from vlm_backbones.train.processes import is_handed_weights, processes, sharding
from vlm_backbones.train.progress import quieten
from vlm_backbones.train.run_record import (
    RunRecord,
    environment,
    hash_json,
    part_fingerprint,
    read_record,
)
from vlm_backbones.train.stage import Stage, micro_batch_size, run_stage
from vlm_backbones.trained_runs import unlike_facts
from vlm_backbones.vision import get_vision_tower
from vlm_backbones.vlm import compose, save
from vlm_backbones.vlm.passthrough import fold_standardization

VERSION = 4
"""Raised when a finished run's weights would change."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train; 0 on success or where the run is finished already, 2 on what the user can mend."""
    arguments = _parse_arguments(argv)
    quieten()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with(os.getppid())  # a launcher that is killed would leave its processes behind
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        run = Run(arguments.backbone, arguments.seed, arguments.learning_rate, arguments.best)
        train(load_study(arguments.study), run, arguments.out)
    except VlmBackbonesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = error.filename or arguments.out
        print(f"error: {place}: {error.strerror or error}. {writing_remedy(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if not disk_is_full(arguments.out):
            raise
        # torch and safetensors have errors of their own for it
        why = str(error).splitlines()[0]
        print(f"error: the disk of {arguments.out} is full ({why}). Free space and run it again.", file=sys.stderr)
        return 2
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, help="name or YAML file of a study")
    parser.add_argument("--backbone", required=True, help="one of the study's backbones")
    parser.add_argument("--seed", type=int, default=0, help="of projector, adapters and dropout")
    parser.add_argument("--out", type=Path, required=True, help="the study's output folder")
    parser.add_argument("--learning-rate", type=float, default=None, help="makes it a trial of the study's sweep")
    parser.add_argument("--best", action="store_true", help="at the learning rate that the sweep chose")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    return parser.parse_args(argv)


def train(study: Study, run: Run, out: Path) -> Path:
    """Train one run of a study and return its folder.

    A finished run of the same content is left as it is; where another run of the study has it, it is taken over.

    Raises
    ------
    ConfigError
        If another process works in the folder, it holds finished training of another VERSION, the processes share
        something else than the study says, or the loss is not finite.
    DataError
        If a training row cannot be used.
    CheckpointError
        If a pretrained part cannot be loaded.
    """
    _refuse_other_sharding(study)
    if int(os.environ.get("RANK", "0")):
        return _train_run(study, run, out)
    with hold(out / run.name, wait_seconds=DYING_SECONDS):
        return _train_run(study, run, out)


def _train_run(study: Study, run: Run, out: Path) -> Path:
    run_dir, backbone, seed = out / run.name, run.backbone, run.seed
    rate = read_choice(out, backbone) if run.is_best else run.learning_rate
    recipe = study.recipe_for(backbone, rate)

    # 1. what was trained before decides whether there is anything to do
    examples = load_training_examples(study.data, recipe.stages)
    facts = json.loads(json.dumps(_run_facts(study, backbone, seed, recipe, examples)))  # as run.json has it
    fingerprint = hash_json(facts)
    _refuse_other_training(run_dir, facts)
    if _is_finished(run_dir, facts):
        print(f"{run_dir}: finished already")
        return run_dir

    head = {"run": run.name, "backbone": backbone, "seed": seed, "version": VERSION}
    head |= {"learning_rate": rate, "is_best": run.is_best} if study.sweep else {}
    if _take_over(out, run_dir, facts, head):
        return run_dir
    record = RunRecord(run_dir, head)
    record.write(state="running", fingerprint=fingerprint, facts=facts, study=study.model_dump(mode="json"))
    record.write(**environment())
    with record.running():
        while not _is_trained(study, record, recipe, examples, out):
            free_memory()
    return run_dir


def _refuse_other_sharding(study: Study) -> None:
    wanted, found = study.training.sharding, sharding()
    if wanted != found:
        raise ConfigError(
            f"the study's training.sharding is {wanted}, the processes were started to share {found}: start them with "
            f"`vlm-backbones train` or `accelerate launch --config_file {accelerate_config(wanted)}`, or say "
            f"--set training.sharding={found}."
        )
    for name, stage in study.recipe.stages.items():
        if stage.quantization is not None and found != "none":
            raise ConfigError(
                f"recipe.{name}: a 4-bit LLM cannot be shared by {found}: --set training.sharding=none holds it on "
                "every GPU, where it is small."
            )


def _is_trained(study: Study, record: RunRecord, recipe: Recipe, examples: dict[str, list[Example]], out: Path) -> bool:
    """Train; false where memory was not enough and less is to be tried."""
    record.write(stages={}, seconds={}, data_wait_share={})
    try:
        _train(study, record, recipe, examples, out)
    except LessMemory:
        return False
    return True


def _train(study: Study, record: RunRecord, recipe: Recipe, examples: dict[str, list[Example]], out: Path) -> None:
    """Train all stages and write the checkpoint."""
    # 2. the parts: features that all backbones share, and the composed model
    backbone, seed = record.content["backbone"], record.content["seed"]
    set_seed(seed)
    model: Any
    model, processor = compose(
        backbone,
        study.vision_tower,
        chat_format=study.chat_format_for(backbone),
        seed=seed,
        trust_remote_code=study.trust_remote_code,
        weights=not is_handed_weights(),
    )
    tower = get_vision_tower(study.vision_tower)
    record.write(files={backbone: part_files(get_backbone(backbone)), study.vision_tower: part_files(tower)})
    features = load_features(study, out, examples)
    record.write(features={name: stage.facts() for name, stage in features.items()})

    # 3. the stages in order, each continued where it was interrupted
    for name, stage_recipe in recipe.stages.items():
        _train_stage(study, record, name, stage_recipe, examples[name], features[name], model, processor)

    # 4. the checkpoint, in transformers' format, reading the tower's own features as the last stage made its pictures
    last, last_recipe = list(recipe.stages.items())[-1]
    if processes().is_main_process:
        fold_standardization(model, features[last].mean, features[last].std)
        processor.image_processor = features[last].spec.image_processor
        model.to(parameter_dtype(last_recipe.precision))
        taught = {"prompts": wording_fingerprint()}
        save(model, processor, record.run_dir / "checkpoint", card=model_card(record.run_dir), trained_with=taught)
        record.content["seal"] = file_sha256(record.run_dir / "checkpoint" / SEAL)
    record.write(state="finished", parameters=sum(parameter.numel() for parameter in model.parameters()))
    processes().wait_for_everyone()


def _run_facts(
    study: Study, backbone: str, seed: int, recipe: Recipe, examples: dict[str, list[Example]]
) -> dict[str, Any]:
    """Return everything that decides the trained weights."""
    row, tower = get_backbone(backbone), get_vision_tower(study.vision_tower)
    shared = {} if study.training.sharding == "none" else {"sharding": study.training.sharding}
    return {
        "version": VERSION,
        "backbone": part_fingerprint(row.source, row.revision),
        "vision_tower": part_fingerprint(tower.source, tower.revision),
        "image_features": [tower.feature_layers, tower.select_strategy, tower.image_size, tower.pad_to_square],
        "recipe": recipe.model_dump(mode="json"),
        "chat_format": [study.chat_format_for(backbone), row.chat_format],
        "seed": seed,
        "examples": {
            stage: examples_digest(rows, [list(range(len(rows)))]) for stage, rows in sorted(examples.items())
        },
        **shared,
    }


def _refuse_other_training(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Refuse to write over finished training from other content."""
    record = read_record(run_dir)
    told = unlike_facts(record.get("facts", {}), facts) if record.get("state") == "finished" else []
    if told:
        raise ConfigError(
            f"{run_dir} holds finished training, which is never overwritten, of other content: {'; '.join(told)}. "
            "Choose another --out, or delete the folder."
        )


def _is_finished(run_dir: Path, facts: Mapping[str, Any]) -> bool:
    record = read_record(run_dir)
    if record.get("state") != "finished" or unlike_facts(record.get("facts", {}), facts):
        return False
    damaged = [path for name in ("checkpoint/config.json", "run.json") for path in missing_outputs(run_dir / name)]
    for path in damaged:
        print(f"{path}: gone or damaged, written again from the finished stages")
    return not damaged


def _take_over(out: Path, run_dir: Path, facts: Mapping[str, Any], head: dict[str, Any]) -> bool:
    """Copy another run of the study that is finished and was trained from the same content; whether there was one."""
    others = [path.parent for pattern in ("*/run.json", "sweep/*/run.json") for path in sorted(out.glob(pattern))]
    same = [other for other in others if other != run_dir and _is_finished(other, facts)]
    if not same:
        return False
    if processes().is_main_process:
        shutil.rmtree(run_dir / "checkpoint", ignore_errors=True)  # what a killed copy left has no finished record
        with staged_path(run_dir / "checkpoint") as staged:
            shutil.copytree(same[0] / "checkpoint", staged)
        shutil.copy(same[0] / "metrics.jsonl", run_dir)
        RunRecord(run_dir, read_record(same[0]) | head).write(copied_from=str(same[0].relative_to(out)))
        print(f"{run_dir}: the same training as {same[0]}, taken over")
    processes().wait_for_everyone()
    return True


def _train_stage(
    study: Study,
    record: RunRecord,
    name: str,
    recipe: StageRecipe,
    examples: list[Example],
    features: Features,
    model: Any,
    processor: Any,
) -> None:
    """Train one stage and add what it did to run.json."""
    start = time.monotonic()
    set_seed(record.content["seed"])
    data = build_stage_data(examples, features, recipe, model, processor)
    facts = [record.content["facts"], name, list(record.content["stages"])]
    stage = Stage(
        name=name,
        recipe=within_memory(recipe, record.run_dir, name),
        data=data,
        features=features,
        run_dir=record.run_dir,
        fingerprint=hash_json(facts),
        seed=record.content["seed"],
        report_to=study.report_to,
        swept_rate=None if name == "align" else record.content.get("learning_rate"),
    )
    try:
        measured = run_stage(stage, model)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        use_less(record.run_dir, name, recipe, stage.recipe, micro_batch_size(stage))
    record.content["stages"][name] = {
        **_stage_facts(data, examples, stage, features),
        "held_bytes": measured.held_bytes,
    }
    record.content["seconds"][name] = round(time.monotonic() - start, 2)
    record.content["data_wait_share"][name] = measured.data_wait_share
    record.write()


def _stage_facts(data: StageData, examples: list[Example], stage: Stage, features: Features) -> dict[str, Any]:
    seen = [index for step in data.order for index in step]
    return {
        "fingerprint": stage.fingerprint,
        "order_sha256": examples_digest(examples, data.order),
        "steps": len(data.order),
        "batch_size": max(len(step) for step in data.order),
        "micro_batch_size": micro_batch_size(stage),
        "gradient_checkpointing": stage.recipe.gradient_checkpointing,
        "fused_loss": has_fused_loss(stage.recipe),
        "image_processor": hash_json(features.spec.image_processor.to_json_string()),
        "examples": len(examples),
        "examples_seen": len(seen),
        "tokens": sum(len(data.packed[index].ids) for index in seen),
        "supervised_tokens": sum(len(data.packed[index].targets) for index in seen),
        "truncated_turns": data.truncated,
    }


if __name__ == "__main__":
    sys.exit(main())
