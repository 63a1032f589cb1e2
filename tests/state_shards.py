"""Hidden states in a file, as the wrapper writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file


def write_shard(path: Path, states: NDArray[Any], keys: list[str], **header: object) -> Path:
    """Write (documents, layers, token types, hidden); a vector of NaN is a document without such tokens.

    `header` has `layers` and `token_types`, and what else a header may tell.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    has = ~np.isnan(states[..., 0])
    content: dict[str, NDArray[Any]] = {
        "states": np.where(has[..., None], states / 2, 0).astype(np.float16),
        "scales": np.where(has, 2, 0).astype(np.float32),
        "doc_key": np.frombuffer(bytes.fromhex("".join(keys)), dtype=np.uint8).reshape(len(keys), 32).copy(),
    }
    save_file(content, path, metadata={name: json.dumps(value) for name, value in header.items()})
    return path
