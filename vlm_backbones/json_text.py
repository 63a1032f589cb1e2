"""JSON from a file that anybody wrote: whatever is wrong with it is a `ValueError`. No torch; open to all."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json", "written_json"]


def parse_json(text: str | bytes, *, numbers_as_text: bool = False) -> Any:
    """Return the value of a JSON text, with `numbers_as_text` its numbers as they are written.

    Raises
    ------
    ValueError
        If it is no JSON, no UTF-8, or nested so deeply that reading it would overflow the stack.
    """
    try:
        return json.loads(text, parse_float=str, parse_int=str) if numbers_as_text else json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def written_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that any UTF-8 writer takes and that reads back equal: lone surrogates become JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
