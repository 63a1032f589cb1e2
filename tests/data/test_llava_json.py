"""A JSON file that holds no list of rows is named for what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_backbones.data.conversations import load_examples
from vlm_backbones.errors import DataError


@pytest.mark.parametrize(
    ("content", "found"),
    [('{"rows": []}', r"holds no list: .* found \{'rows': \[\]\}"), ('"x"', "found 'x'"), ("[]", "is empty")],
)
def test_the_wrong_shape_is_not_called_empty(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"rows\.json .*{found}"):
        load_examples([path])
