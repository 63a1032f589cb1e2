"""How many requests fit a device at once: a budget of tokens from its free memory, and less after it ran out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import torch

from vlm_backbones.errors import ConfigError
from vlm_backbones.out_of_memory import is_out_of_memory

__all__ = ["Room", "fixed_shape", "measure_room"]

# More positions in one pass are no faster: the products fill the cores, or the card, from here on.
PASS_POSITIONS = {"cpu": 8_192, "cuda": 32_768}
ROWS = {"cpu": 64, "cuda": 256}
IMAGES_A_PASS = 16  # of the vision tower: more are no faster
CACHE_SHARE = 0.6  # of the free memory; what neither share takes is for what a pass holds between its layers
FEATURE_SHARE = 0.1
FIXED_POSITIONS = 256  # a compiled step's cache has a multiple of these

Result = TypeVar("Result")


@dataclass
class Room:
    """What runs at once on a device.

    Attributes
    ----------
    auto_rows
        Requests where nothing is asked for.
    pass_positions
        Prompt tokens of one forward pass, padding and image tokens included.
    cache_positions
        Tokens whose keys and values are held, those of answers that may still come included.
    feature_bytes
        Features of pictures that are kept for later questions about them.
    asked
        Requests asked for.
    fitted
        Requests that fit after memory ran out; None where it never did.
    sharers
        Answerers that work at once, each with `rows`.
    images
        Pictures of one pass of the vision tower; fewer after memory ran out there.
    compiled
        Whether answers are written in caches of fixed shape, which hold more rows and positions than are in use.
    """

    auto_rows: int
    pass_positions: int
    cache_positions: int
    feature_bytes: int
    asked: int | None = None
    fitted: int | None = None
    sharers: int = 1
    images: int = IMAGES_A_PASS
    compiled: bool = False

    @property
    def rows(self) -> int:
        """Most requests at once."""
        return min(rows for rows in (self.asked or self.auto_rows, self.fitted) if rows is not None)

    def rows_of(self, positions: int) -> int:
        """Return how many requests of so many positions each of the sharers may hold."""
        if not self.compiled:
            return min(self.rows, self.cache_positions // self.sharers // positions)
        fitting = self.cache_positions // fixed_shape(1, positions)[1]
        return min(self.rows, 1 << fitting.bit_length() >> 1)  # the power of two that fits, or none

    def try_with(self, rows: int, work: Callable[[], Result]) -> Result | None:
        """Return what the work returns; None where memory ran out: from then on half of these rows are tried.

        Raises
        ------
        ConfigError
            If it ran out with one row.
        """
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        _free_failed_work()
        if rows <= 1:
            raise ConfigError(f"one request alone does not fit into memory ({reason}). Use a smaller dtype or device=.")
        self.fitted = min(self.rows, rows // 2)
        print(f"backbone_vlm: out of memory with {rows} requests at once; goes on with {self.rows}.", flush=True)
        return None

    def try_with_images(self, images: int, work: Callable[[], Result]) -> Result | None:
        """Return what a pass over so many pictures returns; None where memory ran out: from then on half are tried.

        Where one picture alone does not fit, the error stays: fewer requests at once may leave more memory.
        """
        try:
            return work()
        except Exception as error:
            if images <= 1 or not is_out_of_memory(error):
                raise
        _free_failed_work()
        self.images = images // 2
        print(f"backbone_vlm: out of memory with {images} pictures at once; goes on with {self.images}.", flush=True)
        return None


def fixed_shape(rows: int, positions: int) -> tuple[int, int]:
    """Return the shape of a compiled step's cache for so many: there are few, for each is compiled by itself."""
    return 1 << (rows - 1).bit_length(), -(-positions // FIXED_POSITIONS) * FIXED_POSITIONS


def _free_failed_work() -> None:
    """Give back what the failed work held: free once its handler has been left."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure_room(model: Any, device: torch.device, *, compiled: bool = False) -> Room:
    """Return the room that a loaded model leaves on its device."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    free = _free_bytes(device)
    positions = int(CACHE_SHARE * free / _bytes_a_position(model))
    return Room(ROWS[kind], PASS_POSITIONS[kind], positions, int(FEATURE_SHARE * free), compiled=compiled)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _bytes_a_position(model: Any) -> int:
    """Return the bytes of one position's keys and values in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)
