"""The same document of one run, clean and perturbed: a condition on a subset numbers its documents anew."""

from __future__ import annotations

__all__ = ["pair_conditions"]

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.pairing import pair_runs


def pair_conditions(part: pl.DataFrame, condition: str) -> NDArray[np.int64]:
    """Pair the clean samples of one run and task with those of a condition, by document.

    Parameters
    ----------
    part : samples of one run and task, all conditions.

    Returns
    -------
    (2, documents): row numbers of the clean and of the perturbed sample; none where a sample has no `doc_key`, since
    numbers and wording change with the condition.
    """
    rows = part.with_row_index("at").filter(pl.col("condition").is_in(["clean", condition]))
    if rows["doc_key"].null_count() or rows["condition"].n_unique() < 2:
        return np.zeros((2, 0), dtype=np.int64)
    at, found = rows["at"].to_numpy(), pair_runs(rows.with_columns(run="condition"), ["clean", condition]).rows
    return np.asarray(at[found[:, (found >= 0).all(axis=0)]], dtype=np.int64)
