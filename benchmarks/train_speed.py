"""Examples a second of our training against transformers' Trainer with its defaults, ours without cache, or TRL.

    python benchmarks/train_speed.py --peer trainer     # both stages of the pocket study, three backbones
    python benchmarks/train_speed.py --peer uncached    # align stage, frozen tower and LLM, no feature cache
    python benchmarks/train_speed.py --peer trl --device cuda --shape llava-1.5-7b [--tuning full --layers 8]

Same model, examples, batch size and learning rate; `--steps` are divided among the stages as the study divides its own.
The Trainer gets what a user would write first: pictures and text through the processor, one conversation a picture,
padded, labels on the answers, its default order, one backbone after the other with all threads; ours trains the
backbones side by side with a thread each, as the study does. Both sides are charged with composing the model; ours also
with tokenising and with its share of the feature cache, which the study computes once for all its backbones and steps.
Runs alternate, in processes that have imported everything; rates are of the median times. The last line is JSON; its
`data_wait_share` is the median share of ours' step loops that waited for a micro-batch, by stage.

`--peer trl` trains LLaVA's finetune stage, as the recipes `llava-1.5-lora` (`--tuning lora`) and `llava-1.5` (`full`)
have it, over random weights of `--shape`, with TRL's SFTTrainer as the peer. Conversations are made up, as long as
those of LLaVA's 665k: `_mix.py` says which published numbers they follow. Both sides get the same weights, examples,
steps and micro-batches, and the script stops unless both see the same supervised tokens. `--tuning full` keeps only the
first `--layers` of the LLM (default 8), so that the optimizer's moments fit on one card. Each side trains once
unmeasured, and recomputes activations, then takes smaller parts, if memory runs out; then only steps are timed, all but
the first. The JSON's `bf16_peak_share` is the model FLOP use; `hours_on_8_cards` are those of LLaVA's 558k and 665k
examples at our operations a second, beside LLaVA's published ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import _measure

PEERS = {"trainer": "transformers' Trainer", "uncached": "ours without feature cache", "trl": "TRL's SFTTrainer"}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=list(PEERS), default="trainer")
    parser.add_argument("--study", default="pocket", help="of the peers trainer and uncached")
    parser.add_argument("--steps", type=int, help="default: 80; 5 with the peer trl, of which 4 are timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    trl = parser.add_argument_group("with --peer trl")
    trl.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    trl.add_argument("--shape", default="pocket", help="pocket (default), pocket-576, llava-1.5-7b or llama-3-8b")
    trl.add_argument("--tuning", choices=["lora", "full"], default="lora")
    trl.add_argument("--layers", type=int, help="first layers of the LLM (default: all; 8 with --tuning full)")
    trl.add_argument("--precision", choices=["bf16", "float32"], help="default: bf16 on a GPU, float32 on the CPU")
    trl.add_argument("--batch-size", type=int, help="examples a step (default: the recipe's 128)")
    trl.add_argument("--micro-batch-size", type=int, help="examples a pass (default: the recipe's 16)")
    given = parser.parse_args()
    given.steps = given.steps or (5 if given.peer == "trl" else 80)
    if given.peer == "trl" and given.steps < 2:
        parser.error("--steps: the first is not timed, so give 2 or more")
    given.layers = given.layers or (8 if given.tuning == "full" else None)
    _measure.start(given.threads)
    if given.peer == "trl":
        import _finetune

        _finetune.compare(given)
    else:
        compare_study(given)
    return 0


def compare_study(given: argparse.Namespace) -> None:
    """Train the study's backbones as the study does, and as the peer does."""
    stages = None if given.peer == "trainer" else ["align"]
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(given.study, folder, given.steps, stages)
        backbones, trained = setting.study.backbones, []
        asked = (given.study, folder, given.steps, stages)
        side_by_side = Workers(len(backbones), 1, asked)
        one_by_one = Workers(1, given.threads, asked) if given.peer == "trainer" else side_by_side
        seconds = _measure.compare(
            {
                "ours": lambda: trained.append(side_by_side.train("ours", backbones)),
                "peer": lambda: trained.append(one_by_one.train(given.peer, backbones)),
            },
            given.repeats,
        )
    ours, peer = trained[::2], trained[1::2]
    share = setting.cache_seconds_per_step * sum(recipe.steps for recipe in setting.recipes.values()) * len(backbones)
    seconds = {
        side: [
            _measure.Seconds(run.wall + cost, cpu + cost) for run, (cpu, _) in zip(seconds[side], found, strict=True)
        ]
        for side, found, cost in (("ours", ours, share), ("peer", peer, 0.0))
    }
    count = sum(recipe.steps * recipe.batch_size for recipe in setting.recipes.values()) * len(backbones)
    waits = {
        stage: round(statistics.median(shares[stage] for _, found in ours for shares in found), 4)
        for stage in setting.recipes
    }
    _measure.print_result(
        f"train_speed_{given.peer}",
        seconds,
        against=PEERS[given.peer],
        count=count,
        threads=given.threads,
        data_wait_share=waits,
    )


@dataclass(frozen=True)
class Setting:
    """What both sides train on: stages of a study, cut to the steps that are timed, their examples and features."""

    study: Any
    recipes: Mapping[str, Any]
    examples: Mapping[str, list[Any]]
    features: Mapping[str, Any]
    cache_seconds_per_step: float
    folder: Path


class Workers:
    """Processes that have imported and read everything, and wait for backbones to train."""

    setting: Setting
    """Of the process itself."""

    def __init__(self, count: int, threads: int, asked: tuple[Any, ...]) -> None:
        spawn = multiprocessing.get_context("spawn")  # torch's gradients do not survive a fork
        self.pool = ProcessPoolExecutor(
            count, spawn, initializer=_begin, initargs=(spawn.Barrier(count), threads, asked)
        )
        list(self.pool.map(abs, range(count)))

    def train(self, how: str, backbones: Sequence[str]) -> tuple[float, list[dict[str, float]]]:
        """Return the cores' seconds of all trainings, and each training's share of waiting by stage."""
        found = list(self.pool.map(partial(_train, how), backbones))
        return sum(seconds for seconds, _ in found), [shares for _, shares in found]


def _begin(all_ready: Any, threads: int, asked: tuple[Any, ...]) -> None:
    _measure.start(threads)
    Workers.setting = prepare(*asked)
    all_ready.wait()


def _train(how: str, backbone: str) -> tuple[float, dict[str, float]]:
    train = {"ours": train_ours, "uncached": train_uncached, "trainer": train_plainly}[how]
    begun = time.process_time()
    shares = train(Workers.setting, backbone)
    return time.process_time() - begun, shares


def prepare(name: str, folder: str, steps: int, stages: Sequence[str] | None) -> Setting:
    """Load a study's examples and compute its features, timed; default: all its stages."""
    from vlm_backbones.data.conversations import load_training_examples
    from vlm_backbones.study import load_study
    from vlm_backbones.train.features import load_features

    study = load_study(name)
    whole = study.recipe.stages
    examples = load_training_examples(study.data, whole)
    start = time.perf_counter()
    features = load_features(study, Path(folder), examples)
    seconds = time.perf_counter() - start
    trainings = len(study.runs()) * sum(recipe.steps or 0 for recipe in whole.values())
    print(f"features of the study: {seconds:.1f} s, shared by {trainings} steps", flush=True)
    timed = {stage: whole[stage] for stage in stages or whole}
    total = sum(recipe.steps for recipe in timed.values())
    recipes = {
        stage: recipe.model_copy(update={"steps": max(1, steps * recipe.steps // total), "epochs": None})
        for stage, recipe in timed.items()
    }
    return Setting(study, recipes, examples, features, seconds / trainings, Path(folder))


def composed(setting: Setting, backbone: str) -> tuple[Any, Any]:
    """Return the same fresh model for both sides."""
    from vlm_backbones.vlm import compose

    return compose(backbone, setting.study.vision_tower, chat_format=setting.study.chat_format_for(backbone))


def train_ours(setting: Setting, backbone: str, features: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Tokenise and train as the study does; return the share of each stage's time that waited for a micro-batch."""
    from vlm_backbones.train.dataset import build_stage_data
    from vlm_backbones.train.stage import Stage, run_stage

    model, processor = composed(setting, backbone)
    shares = dict[str, float]()
    for stage, recipe in setting.recipes.items():
        own = (features or setting.features)[stage]
        with tempfile.TemporaryDirectory(dir=setting.folder) as run:
            data = build_stage_data(setting.examples[stage], own, recipe, model, processor)
            measured = run_stage(Stage(stage, recipe, data, own, Path(run), "benchmark", 0, []), model)
            shares[stage] = measured.data_wait_share or 0.0
    return shares


def train_uncached(setting: Setting, backbone: str) -> dict[str, float]:
    """Train as ours, with every picture decoded and read by the tower at every step."""
    features = {stage: replace(own, cache=None) for stage, own in setting.features.items()}
    return train_ours(setting, backbone, features)


def train_plainly(setting: Setting, backbone: str) -> dict[str, float]:
    """Train with transformers' Trainer and its defaults, which measure no waiting."""
    from transformers import Trainer, TrainingArguments

    from vlm_backbones.train.stage import choose_trainable

    model, processor = composed(setting, backbone)
    for stage, recipe in setting.recipes.items():
        choose_trainable(model, recipe)
        with tempfile.TemporaryDirectory(dir=setting.folder) as run:
            given = TrainingArguments(
                output_dir=run, max_steps=recipe.steps, per_device_train_batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate, remove_unused_columns=False, use_cpu=True, report_to="none",
                disable_tqdm=True,
            )  # fmt: skip
            data = setting.examples[stage]
            Trainer(model=model, args=given, train_dataset=data, data_collator=Collator(processor)).train()
    return {}


class Collator:
    """Pictures and conversations through the processor, padded; labels on the answers alone."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """Return input_ids, attention_mask, pixel_values, labels."""
        import torch

        from vlm_backbones.data.chat_format import chat_messages

        chats = [
            chat_messages(
                [(turn.question, turn.answer) for turn in example.turns], with_image=example.image is not None
            )
            for example in examples
        ]
        texts = [self.processor.apply_chat_template(chat, tokenize=False) for chat in chats]
        images = [example.image.open() for example in examples if example.image is not None]
        batch = self.processor(text=texts, images=images or None, return_tensors="pt", padding=True)
        supervised = self.processor.tokenizer.apply_chat_template(
            chats, chat_template=self.processor.chat_template, return_dict=True, return_assistant_tokens_mask=True
        )["assistant_masks"]
        labels = torch.full_like(batch["input_ids"], -100)
        for row, mask in enumerate(supervised):
            own = batch["attention_mask"][row].bool()
            # the image's one token is many here, all before the answers: the mask ends where the text does
            flags = torch.zeros(int(own.sum()), dtype=torch.bool)
            flags[-len(mask) :] = torch.tensor(mask[-len(flags) :], dtype=torch.bool)
            places = own.nonzero()[:, 0][flags]
            labels[row, places] = batch["input_ids"][row, places]
        return {**batch, "labels": labels}


if __name__ == "__main__":
    sys.exit(main())
