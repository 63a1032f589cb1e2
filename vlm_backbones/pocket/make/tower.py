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

from vlm_backbones.pocket.events import FRAMES, read_catalogue, split_events, training_events
from vlm_backbones.pocket.make.progress import Checkpointer, cosine_lr
from vlm_backbones.pocket.scenes import COLOURS, GRID, SHAPES, SIZES, draw_scene, sample_scene
from vlm_backbones.pocket.shake_maps import draw_shake_map, intensity

__all__ = ["TowerPlan", "train_tower"]

FEATURE_LAYER = -2
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_SOUTH, _WEST = -40, -108  # the corner of the absolute position bins of one degree
_LATITUDES, _LONGITUDES, _FINE = 96, 272, 40


@dataclass(frozen=True)
class TowerPlan:
    """How long to train: steps of `batch` pictures of one kind, drawn from pools of that many pictures."""

    steps: int = 3000
    batch: int = 64
    pool: int = 10000
    learning_rate: float = 1.5e-3
    seed: int = 11


class _Heads(nn.Module):
    """Linear readers of the patch tokens and of the class token."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.patch = nn.ModuleDict(
            {"colour": nn.Linear(hidden, len(COLOURS) + 1), "shape": nn.Linear(hidden, len(SHAPES) + 1),
             "size": nn.Linear(hidden, len(SIZES) + 1), "row": nn.Linear(hidden, GRID),
             "column": nn.Linear(hidden, GRID)}
        )  # fmt: skip
        self.image = nn.ModuleDict(
            {"frame": nn.Linear(hidden, len(FRAMES)), "units": nn.Linear(hidden, 10), "tenths": nn.Linear(hidden, 10),
             "hundreds_km": nn.Linear(hidden, 10), "tens_km": nn.Linear(hidden, 10), "ones_km": nn.Linear(hidden, 10),
             "intensity": nn.Linear(hidden, 13), "latitude": nn.Linear(hidden, _LATITUDES),
             "longitude": nn.Linear(hidden, _LONGITUDES), "north": nn.Linear(hidden, _FINE),
             "east": nn.Linear(hidden, _FINE)}
        )  # fmt: skip


def _scene_pool(count: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    pictures = np.empty((count, 112, 112, 3), dtype=np.uint8)
    labels = {name: np.zeros((count, GRID * GRID), dtype=np.int64) for name in ("colour", "shape", "size")}
    # where a patch lies must stay readable: encoders drop it when nothing asks for it
    labels["row"] = np.tile(np.arange(GRID * GRID) // GRID, (count, 1))
    labels["column"] = np.tile(np.arange(GRID * GRID) % GRID, (count, 1))
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
        depth = round(max(event.depth_km, 0.0))
        tenths = round(event.magnitude * 10)
        mmi = float(intensity(event.magnitude, np.array(max(event.depth_km, 0.0))))
        rows.append(
            {"frame": FRAMES.index(frame), "units": tenths // 10, "tenths": tenths % 10,
             "hundreds_km": depth // 100, "tens_km": depth // 10 % 10, "ones_km": depth % 10,
             "intensity": int(np.clip(round(mmi), 1, 12)),
             "latitude": _soft_bins(event.latitude - _SOUTH, _LATITUDES),
             "longitude": _soft_bins(event.longitude - _WEST, _LONGITUDES),
             "north": _soft_bins(north / 8 * (_FINE - 1), _FINE), "east": _soft_bins(east / 8 * (_FINE - 1), _FINE)}
        )  # fmt: skip
    labels = {name: torch.from_numpy(np.array([row[name] for row in rows])) for name in rows[0]}
    return torch.from_numpy(pictures), labels


def _pixels(pictures: Tensor) -> Tensor:
    """Return normalised pixels (batch, 3, 112, 112) of uint8 pictures (batch, 112, 112, 3)."""
    scaled = pictures.permute(0, 3, 1, 2).float() / 255.0
    return (scaled - torch.tensor(_CLIP_MEAN).view(3, 1, 1)) / torch.tensor(_CLIP_STD).view(3, 1, 1)


def _loss(heads: nn.ModuleDict, features: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    losses, accuracies = [], {}
    for name, head in heads.items():
        logits, target = head(features).flatten(0, -2), labels[name]
        target = target.flatten(0, 1) if target.ndim == 2 and not target.is_floating_point() else target
        losses.append(functional.cross_entropy(logits, target))
        hard = target.argmax(-1) if target.is_floating_point() else target
        accuracies[name] = float((logits.argmax(-1) == hard).float().mean())
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
        group = heads.patch if step % 2 == 0 else heads.image
        batch_labels = {name: labels[name][chosen] for name in group}
        parts = []
        for hidden in (states[FEATURE_LAYER], states[-1]):  # the layer that the VLM uses, and the last one
            tokens = hidden[:, 1:] if step % 2 == 0 else hidden[:, 0]
            loss, seen = _loss(group, tokens, batch_labels)
            parts.append(loss)
            if hidden is states[FEATURE_LAYER]:
                accuracies |= seen
        total = torch.stack(parts).mean()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group_ in optimizer.param_groups:
            group_["lr"] = cosine_lr(step, plan.steps, plan.learning_rate, warmup=100)
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
