"""Train the pocket vision tower: a small CLIP-architecture encoder that reads scenes and shake maps.

Linear heads on its features learn what stands in each patch and what a whole map says; they are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from vlm_backbones.pocket.datasets import map_targets
from vlm_backbones.pocket.events import FRAMES, read_catalogue, split_events, training_events
from vlm_backbones.pocket.make.map_table import MAP_CELLS, map_table
from vlm_backbones.pocket.make.progress import Checkpointer, cosine_lr
from vlm_backbones.pocket.scenes import COLOURS, GRID, SHAPES, SIZES, draw_scene, sample_scene
from vlm_backbones.pocket.shake_maps import draw_shake_map, roman

__all__ = ["TowerPlan", "train_tower"]

FEATURE_LAYER = -2
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_SOUTH, _WEST = -40, -108  # the corner of the absolute position bins of one degree
_LATITUDES, _LONGITUDES, _FINE = 96, 272, 40
_DIGITS = tuple("0123456789")
_MAP_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(MAP_CELLS, _DIGITS),
    "region": tuple(frame.name for frame in FRAMES),
    "max_intensity": tuple(roman(number) for number in range(1, 13)),
    "quadrant": ("northeast", "northwest", "southeast", "southwest"),
}


@dataclass(frozen=True)
class TowerPlan:
    """How long to train: steps of `batch` pictures of one kind, drawn from pools of that many pictures."""

    steps: int = 3000
    batch: int = 64
    pool: int = 10000
    learning_rate: float = 1.5e-3
    seed: int = 11


class _Heads(nn.Module):
    """Linear readers: of every patch of a scene, of the map facts' own patches, and of a map's class token."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        scene = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "size": len(SIZES) + 1}
        place = {"row": GRID, "column": GRID}
        table = {name: len(values) for name, values in _MAP_WORDS.items()}
        image = {"latitude": _LATITUDES, "longitude": _LONGITUDES, "north": _FINE, "east": _FINE}
        self.scene, self.table, self.image = (
            nn.ModuleDict({name: nn.Linear(hidden, classes) for name, classes in group.items()})
            for group in (scene | place, table, image)
        )

    def read(self, states: Tensor, kind: str) -> dict[str, Tensor]:
        """Return logits by name for hidden states (batch, 17, hidden) of pictures of one kind."""
        patches = states[:, 1:]
        if kind == "scene":
            return {name: head(patches) for name, head in self.scene.items()}
        return (
            {name: head(patches[:, MAP_CELLS[name]]) for name, head in self.table.items()}
            | {name: self.scene[name](patches) for name in ("row", "column")}
            | {name: head(states[:, 0]) for name, head in self.image.items()}
        )


def _places(count: int) -> dict[str, np.ndarray]:
    """Return each patch's row and column: they must stay readable, and encoders drop what nothing asks for."""
    cells = np.tile(np.arange(GRID * GRID), (count, 1))
    return {"row": cells // GRID, "column": cells % GRID}


def _scene_pool(count: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    pictures = np.empty((count, 112, 112, 3), dtype=np.uint8)
    labels = {name: np.zeros((count, GRID * GRID), dtype=np.int64) for name in ("colour", "shape", "size")}
    labels |= _places(count)
    colours = list(COLOURS)
    for index in range(count):
        objects = sample_scene(rng)
        pictures[index] = np.asarray(draw_scene(objects))
        for item in objects:
            cell = item.row * GRID + item.column
            labels["colour"][index, cell] = 1 + colours.index(item.colour)
            labels["shape"][index, cell] = 1 + SHAPES.index(item.shape)
            labels["size"][index, cell] = 1 + SIZES.index(item.size)
    return torch.from_numpy(pictures), {name: torch.from_numpy(values) for name, values in labels.items()}


def _soft_bins(value: float, count: int) -> np.ndarray:
    """Return a two-bin soft label: the shares of the bins left and right of a value."""
    soft = np.zeros(count, dtype=np.float32)
    low = int(np.clip(np.floor(value), 0, count - 2))
    soft[low], soft[low + 1] = 1 - (value - low), value - low
    return np.clip(soft, 0.0, 1.0)


def _map_pool(count: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    events = training_events(split_events(read_catalogue())["train"], count, rng)
    pictures = np.empty((count, 112, 112, 3), dtype=np.uint8)
    rows = []
    for index, (event, frame) in enumerate(events):
        pictures[index] = np.asarray(draw_shake_map(event, frame))
        north, east = frame.offset(event.latitude, event.longitude)
        words = map_table(map_targets(event, frame))
        rows.append(
            {name: values.index(words[MAP_CELLS[name]]) for name, values in _MAP_WORDS.items()}
            | {"latitude": _soft_bins(event.latitude - _SOUTH, _LATITUDES),
               "longitude": _soft_bins(event.longitude - _WEST, _LONGITUDES),
               "north": _soft_bins(north / 8 * (_FINE - 1), _FINE), "east": _soft_bins(east / 8 * (_FINE - 1), _FINE)}
        )  # fmt: skip
    labels = {name: np.array([row[name] for row in rows]) for name in rows[0]} | _places(count)
    return torch.from_numpy(pictures), {name: torch.from_numpy(values) for name, values in labels.items()}


def _pixels(pictures: Tensor) -> Tensor:
    """Return normalised pixels (batch, 3, 112, 112) of uint8 pictures (batch, 112, 112, 3)."""
    scaled = pictures.permute(0, 3, 1, 2).float() / 255.0
    return (scaled - torch.tensor(_CLIP_MEAN).view(3, 1, 1)) / torch.tensor(_CLIP_STD).view(3, 1, 1)


def _loss(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss over what is read, and the share of right labels of each."""
    losses, accuracies = [], {}
    for name, read in logits.items():
        target = labels[name]
        soft = target.is_floating_point()
        flat, target = read.flatten(0, -2), target if soft else target.flatten()
        losses.append(functional.cross_entropy(flat, target))
        accuracies[name] = float((flat.argmax(-1) == (target.argmax(-1) if soft else target)).float().mean())
    return torch.stack(losses).mean(), accuracies


def train_tower(out: Path, work: Path, plan: TowerPlan, say: Callable[[str], None]) -> dict[str, object]:
    """Train, or resume from `work`, and write the tower in transformers' format (float16) to `out`."""
    torch.manual_seed(plan.seed)
    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, image_size=112,
        patch_size=28, projection_dim=128,
    )  # fmt: skip
    tower = CLIPVisionModel(config)
    heads = _Heads(config.hidden_size)
    pools = [
        maker(plan.pool, np.random.default_rng([plan.seed, kind]))
        for kind, maker in enumerate((_scene_pool, _map_pool))
    ]
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    saved = Checkpointer(work / "tower.pt", {"tower": tower, "heads": heads, "optimizer": optimizer})
    accuracies: dict[str, float] = {}
    for step in range(saved.resume(), plan.steps):
        pictures, labels = pools[step % 2]
        chosen = torch.from_numpy(np.random.default_rng([plan.seed, 2, step]).integers(0, plan.pool, plan.batch))
        states = tower(_pixels(pictures[chosen]), output_hidden_states=True).hidden_states
        batch_labels = {name: values[chosen] for name, values in labels.items()}
        parts = []
        for hidden in (states[FEATURE_LAYER], states[-1]):  # the layer that the VLM uses, and the last one
            loss, seen = _loss(heads.read(hidden, "scene" if step % 2 == 0 else "map"), batch_labels)
            parts.append(loss)
            if hidden is states[FEATURE_LAYER]:
                accuracies |= seen
        total = torch.stack(parts).mean()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(step, plan.steps, plan.learning_rate, warmup=100)
        optimizer.step()
        if step % 100 < 2:
            say(
                f"tower step {step}/{plan.steps} loss {float(total.detach()):.4f} "
                + " ".join(f"{k} {v:.2f}" for k, v in accuracies.items())
            )
        saved.save_every(step + 1, 500)
    tower.half().save_pretrained(out)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 112}, crop_size={"height": 112, "width": 112}, image_mean=list(_CLIP_MEAN),
        image_std=list(_CLIP_STD),
    )  # fmt: skip
    processor.save_pretrained(out)
    return {"steps": plan.steps, "pictures_seen": plan.steps * plan.batch, "training_accuracy": accuracies}
