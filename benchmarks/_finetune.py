"""LLaVA's finetune stage at real shapes: our training and TRL's, over the same weights, examples and steps."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _measure
import _mix
import _models
import _peak
import _trl
import torch
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

PUBLISHED_HOURS = {"align": 3.5, "finetune": 10.0}  # of LLaVA-1.5-7B on 8 A100, finetuned in full
CARDS = 8


def compare(given: Any) -> None:
    """Train with both sides in turn and print their rates."""
    if find_spec("trl") is None:
        raise SystemExit("--peer trl needs TRL: pip install -c constraints.txt '.[bench]'")
    clock = StepClock()
    DEFAULT_CALLBACKS.append(clock)
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(given, Path(folder))
        _trl.refuse_other_tokens(setting)
        sides = {"ours": train_ours, "peer": _trl.train}
        recipes, trained = {}, {}
        for side, train in sides.items():
            recipes[side] = fitting(side, train, setting)
            trained[side] = clock.trained_parameters
        if trained["ours"] != trained["peer"]:
            raise SystemExit(f"the sides train other parameters: {trained}")
        seconds: dict[str, list[_measure.Seconds]] = {side: [] for side in sides}
        memory = dict.fromkeys(sides, 0.0)
        for repeat in range(given.repeats):
            for side, train in sides.items():
                memory[side] = max(memory[side], largest_gib(train, setting, recipes[side]))
                seconds[side].append(clock.measured)
                print(f"repeat {repeat + 1}: {side} {clock.measured.wall:.3f} s in its steps", flush=True)
    report(given, setting, recipes, seconds, memory, clock.trained_parameters)


class StepClock(TrainerCallback):
    """Times the steps of any Trainer, all but the first, which makes moments and buffers; nothing is saved meanwhile.

    A stage is saved eight times however long it is: nothing in LLaVA's 5,198 steps, most of a few.
    """

    measured = _measure.Seconds(0.0, 0.0)
    trained_parameters = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Count what is trained."""
        self.trained_parameters = sum(part.numel() for part in model.parameters() if part.requires_grad)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin after the first step, look after each."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = _measure.Seconds(time.perf_counter(), time.process_time())
        if state.global_step == 1:
            self._begun = now
        self.measured = _measure.Seconds(now.wall - self._begun.wall, now.cpu - self._begun.cpu)
        control.should_save = False


@dataclass(frozen=True)
class Setting:
    """What both sides train: a model in host memory, a stage's recipe, its examples in the order of its steps."""

    model: Any
    processor: Any
    recipe: Any
    data: Any
    features: Any
    rows: Any  # the peer's Dataset
    folder: Path
    loader_workers: int


def prepare(given: Any, folder: Path) -> Setting:
    """Make weights, conversations and their order; pictures go through the tower at every step.

    The features of LLaVA's 665k would take 0.7 TB, so a cache has no part in it.
    """
    from vlm_backbones.data.chat_format import get_chat_template
    from vlm_backbones.data.feature_cache import FeatureSpec
    from vlm_backbones.train.dataset import build_stage_data
    from vlm_backbones.train.features import Features

    model, processor = _models.build(shape_of(given), torch.device(given.device), torch.float32)
    model.cpu()  # as after loading; each side moves its own
    tokenizer = processor.tokenizer
    processor.chat_template = get_chat_template("shared", tokenizer)
    recipe = recipe_of(given)
    words = [token[1:] for token in sorted(tokenizer.get_vocab()) if token[0] == "Ġ" and token[1:].isalpha()]
    examples = _mix.make_examples(
        recipe.steps * recipe.batch_size, [word for word in words if len(tokenizer.tokenize(f" {word}")) == 1]
    )
    tower = model.model.vision_tower
    spec = FeatureSpec(tower, processor.image_processor, (-2,), "default")
    width = tower.config.hidden_size
    features = Features(spec, None, torch.zeros(width), torch.ones(width))
    data = build_stage_data(examples, features, recipe, model, processor)
    rows = _trl.rows([examples[index] for step in data.order for index in step])
    return Setting(model, processor, recipe, data, features, rows, folder, min(4, given.threads))


def shape_of(given: Any) -> Any:
    """Return the shape, cut to its first layers where that is asked for."""
    shape = _models.SHAPES[given.shape]
    layers = min(given.layers or 10_000, shape.backbone["num_hidden_layers"])
    return replace(shape, backbone={**shape.backbone, "num_hidden_layers": layers})


def recipe_of(given: Any) -> Any:
    """Return LLaVA's published finetune stage, with as many steps as are timed and the precision of the device."""
    from vlm_backbones._study_loading import load_recipe
    from vlm_backbones.recipe import Recipe, StageRecipe

    published = load_recipe("llava-1.5-lora" if given.tuning == "lora" else "llava-1.5", Path())
    (stage,) = Recipe.model_validate(published).finetune_stages
    changes: dict[str, Any] = {"steps": given.steps, "epochs": None}
    changes["precision"] = given.precision or ("bf16" if given.device == "cuda" else "float32")
    changes |= {"batch_size": given.batch_size} if given.batch_size else {}
    changes |= {"micro_batch_size": given.micro_batch_size} if given.micro_batch_size else {}
    return StageRecipe.model_validate({**stage.model_dump(), **changes})


def fitting(side: str, train: Callable[[Setting, Any], None], setting: Setting) -> Any:
    """Return the recipe with what fits, as our trainings find it: activations recomputed, then smaller parts.

    A whole training each, which is the warm-up too.
    """
    from vlm_backbones.out_of_memory import is_out_of_memory
    from vlm_backbones.train.memory import LessMemory, free_memory, use_less, within_memory

    while True:
        recipe = within_memory(setting.recipe, setting.folder, side)
        free_memory()
        try:
            train(setting, recipe)
            return recipe
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        with contextlib.suppress(LessMemory):
            use_less(setting.folder, side, setting.recipe, recipe, recipe.micro_batch_size)


def largest_gib(train: Callable[[Setting, Any], None], setting: Setting, recipe: Any) -> float:
    """Train and return the most memory of the card that it held; 0 without one."""
    from vlm_backbones.train.memory import free_memory

    free_memory()
    if not torch.cuda.is_available():
        train(setting, recipe)
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    train(setting, recipe)
    return torch.cuda.max_memory_allocated() / 2**30


def train_ours(setting: Setting, recipe: Any) -> None:
    """Train as the study does."""
    from vlm_backbones.train.stage import Stage, run_stage

    with tempfile.TemporaryDirectory(dir=setting.folder) as run:
        stage = Stage("finetune", recipe, setting.data, setting.features, Path(run), "benchmark", 0, [])
        run_stage(stage, setting.model)


@dataclass(frozen=True)
class Work:
    """What some examples hold, and how they are trained on: what their operations depend on."""

    tokens: float
    supervised: float
    images: float
    is_full: bool
    lora_rank: int

    @classmethod
    def of(cls, examples: Sequence[Any], lora: Any) -> Work:
        """Return that of an example, on average."""
        sums = [[len(row.ids), len(row.targets), row.has_image] for row in examples]
        tokens, supervised, images = (sum(column) / len(examples) for column in zip(*sums, strict=True))
        return cls(tokens, supervised, images, lora is None, lora.r if lora else 0)


def report(
    given: Any,
    setting: Setting,
    recipes: dict[str, Any],
    seconds: dict[str, Any],
    memory: dict[str, float],
    trained_parameters: int,
) -> None:
    """Print the line of JSON."""
    from vlm_backbones.train.loss import has_fused_loss

    recipe = setting.recipe
    timed = [setting.data.packed[index] for step in setting.data.order[1:] for index in step]
    work, mix = Work.of(timed, recipe.lora), Work.of(list(setting.data.packed.values()), recipe.lora)
    operations = len(timed) * _peak.training_operations(setting.model, **asdict(work))
    rates = {side: 1 / statistics.median(run.wall for run in runs) for side, runs in seconds.items()}
    _measure.print_result(
        f"train_finetune_{given.shape}_{given.tuning}", seconds, count=len(timed), threads=given.threads,
        against="TRL's SFTTrainer", packages=["trl"],
        layers=setting.model.config.text_config.num_hidden_layers, precision=recipe.precision,
        tokens_per_s={side: round(len(timed) * work.tokens * rate) for side, rate in rates.items()},
        bf16_peak_share={side: _peak.peak_share(operations * rate) for side, rate in rates.items()},
        largest_memory_gib={side: round(size, 1) for side, size in memory.items()},
        hours_on_8_cards=hours(given, operations * rates["ours"], mix),
        published_hours_on_8_a100=PUBLISHED_HOURS, steps=recipe.steps - 1, batch_size=recipe.batch_size,
        micro_batch_size={side: own.micro_batch_size for side, own in recipes.items()},
        gradient_checkpointing={side: bool(own.gradient_checkpointing) for side, own in recipes.items()},
        fused_loss=has_fused_loss(recipe),
        an_example={name: round(getattr(work, name), 2) for name in ("tokens", "supervised", "images")},
        trained_parameters=trained_parameters, trl=version("trl"),
    )  # fmt: skip


def hours(given: Any, operations_per_s: float, mix: Work) -> dict[str, float]:
    """Return the hours of LLaVA's two stages on eight cards as fast as this one, all layers, perfect scaling.

    The align stage, which is not run here, is counted at the same operations a second.
    """
    from vlm_backbones.study import load_study

    expected = load_study("llava-1.5").data.expected
    whole, _ = _models.build(_models.SHAPES[given.shape], torch.device("meta"), torch.float32)
    text = expected["align"].text_tokens
    caption = Work(whole.config.image_seq_length + text, text, images=1, is_full=False, lora_rank=0)
    rate = CARDS * operations_per_s * 3600
    return {
        stage: round(expected[stage].examples * _peak.training_operations(whole, **asdict(work)) / rate, 2)
        for stage, work in (("align", caption), ("finetune", mix))
    }
