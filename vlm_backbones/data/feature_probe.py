"""Is it faster to compute a picture's features or to read them back? A short probe, kept beside the cache it is about.

It may decide because it changes no number: cached or not, features are the tower's states through float16. That holds
where the tower gives a picture the same bits whatever is beside it in the batch, which the probe tries too.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vlm_backbones.cache import atomic_write_text
from vlm_backbones.data.conversations import ImageSource
from vlm_backbones.data.feature_cache import FeatureSpec

__all__ = ["FeatureProbe", "probe_features"]

_PICTURES = 16
_ALONE = 4


@dataclass(frozen=True)
class FeatureProbe:
    """What was found on a few pictures."""

    compute_seconds: float
    """Of a picture: opened, prepared and read by the tower."""
    read_seconds: float
    """Of a picture's states, from the disk where the system gives up what it holds in memory."""
    is_same_alone: bool
    """Whether pictures have the same bits alone as together, on so many threads."""
    threads: int

    def saves(self, *, pictures: int, views: float, needs_statistics: bool) -> bool:
        """Whether a cache of so many pictures saves time over so many views of them.

        Without one, mean and deviation of the features still take a pass over all pictures, where they are needed.
        """
        cached = pictures * self.compute_seconds + views * self.read_seconds
        streamed = (views + (pictures if needs_statistics else 0)) * self.compute_seconds
        return cached < streamed


def probe_features(place: Path, images: dict[bytes, ImageSource], spec: FeatureSpec) -> FeatureProbe:
    """Return what was measured in this folder on as many threads, or measure it: a study's runs then decide alike."""
    path = place / "probe.json"
    try:
        known = FeatureProbe(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = None
    if known is None or known.threads != torch.get_num_threads():
        known = _measure(place, list(images.values()), spec)
        atomic_write_text(path, json.dumps(asdict(known)))
    return known


def _measure(place: Path, sources: Sequence[ImageSource], spec: FeatureSpec) -> FeatureProbe:
    chosen = sources[:: max(1, len(sources) // _PICTURES)][:_PICTURES]
    alone = torch.cat([spec.compute([source]).half() for source in chosen[:_ALONE]])  # warms up as well
    start = time.perf_counter()
    together = spec.compute(chosen).half()
    computed = time.perf_counter() - start
    return FeatureProbe(
        compute_seconds=round(computed / len(chosen), 6),
        read_seconds=round(_time_reading(place, together.numpy()) / len(chosen), 6),
        is_same_alone=torch.equal(alone, together[: len(alone)]),
        threads=torch.get_num_threads(),
    )


def _time_reading(place: Path, states: npt.NDArray[np.float16]) -> float:
    """Return the seconds that states take to come back, as `FeatureCache.gather` reads them."""
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(states.tobytes())
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        mapped = np.memmap(file, np.float16, "r", shape=states.shape)
        for row in np.random.default_rng(0).permutation(len(states)):
            mapped[[row]].astype(np.float32)
        return time.perf_counter() - start
