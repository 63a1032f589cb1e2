"""The notebook runs from the first cell to the last, and the committed outputs are what it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def tables(notebook: Any) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]


def test_the_notebook_gives_its_committed_tables() -> None:
    notebook = nbformat.read(ROOT / "examples" / "analysis.ipynb", as_version=4)
    committed = tables(notebook)
    assert len(committed) == 3
    assert "0.741" in committed[0]  # the published accuracy of Phi-2
    resources = {"metadata": {"path": str(ROOT)}}
    executed = NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert tables(executed) == committed
