"""`tasks new` writes a folder that lmms-eval runs at once, from wherever it is moved; bad tables are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from vlm_backbones.data.imports.new_task import write_task
from vlm_backbones.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"image": f"pictures/{place}.png", "question": f"Which colour is it? {place}", "answer": color}
    for place, color in enumerate(("red", "blue", "lime"))
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for row in ROWS:
        Image.new("RGB", (16, 16), row["answer"]).save(tmp_path / row["image"])
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "vlm_backbones.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, check=False)


def load(folder: Path, name: str) -> Any:
    import lmms_eval.models  # noqa: F401
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager("ERROR", include_path=str(folder), include_defaults=False)
    return get_task_dict([name], manager, "simple")[name]


def test_a_written_task_is_loaded_and_scores(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    assert write_task("my_colors", table, tmp_path / "tasks" / "my_colors") == 3
    written = sorted(path.name for path in (tmp_path / "tasks" / "my_colors").iterdir())
    assert written == ["README.md", "data.parquet", "my_colors.yaml", "utils.py"]
    (tmp_path / "tasks").rename(tmp_path / "moved")
    task = load(tmp_path / "moved", "my_colors")
    doc = task.dataset["test"][1]
    assert task.doc_to_text(doc) == "Which colour is it? 1\nAnswer the question using a single word or phrase."
    assert task.doc_to_target(doc) == "blue"
    assert task.doc_to_visual(doc)[0].getpixel((3, 3)) == (0, 0, 255)
    result = task.process_results(doc, ["Blue."])
    assert result["vqa_accuracy"] == result["backbones"]["score"] == 1.0


def test_options_types_and_several_answers_are_kept(table: Path, tmp_path: Path) -> None:
    rows = [
        {"image": row["image"], "question": row["question"], "answers": ["red"] * 9 + [row["answer"]],
         "options": ["red", "blue"], "question_type": "colour"}
        for row in ROWS
    ]  # fmt: skip
    table.with_suffix(".json").write_text(json.dumps(rows))
    write_task("typed", table.with_suffix(".json"), tmp_path / "typed")
    assert "score_options: options" in (tmp_path / "typed" / "typed.yaml").read_text()
    frame = pl.read_parquet(tmp_path / "typed" / "data.parquet")
    assert frame["question_type"].to_list() == ["colour"] * 3
    assert frame["answers"].list.len().to_list() == [10] * 3


def test_the_command_says_how_to_run_it_and_refuses_what_exists(table: Path, tmp_path: Path) -> None:
    done = command("tasks", "new", "my_colors", "--data", str(table), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3 questions; run them with",
        "VLM_BACKBONES_TASKS=tasks lmms-eval --model backbone_vlm --tasks my_colors",
        "tasks/my_colors",
    ]
    assert "exists already" in command("tasks", "new", "my_colors", "--data", str(table), cwd=tmp_path).stderr
    for name in ("vqa_scene", "pope"):
        done = command("tasks", "new", name, "--data", str(table), cwd=tmp_path)
        assert done.returncode == 2
        assert f"a task {name!r} exists, and lmms-eval would run that one" in done.stderr


def test_user_tasks_are_listed_and_known(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_backbones._names import known_tasks

    write_task("my_colors", table, tmp_path / "tasks" / "my_colors")
    assert known_tasks(["vqa_scene"]).count("my_colors") == 0
    monkeypatch.setenv("VLM_BACKBONES_TASKS", str(tmp_path / "tasks"))
    assert "my_colors" in known_tasks(["my_colors"])
    assert "my_colors" in command("tasks", cwd=tmp_path).stdout
    assert "3 questions on pictures" in command("tasks", "describe", "my_colors", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, "row 1: the question is empty"),
        ({"answer": None}, "row 1: the answer is None"),
        ({"answer": []}, r"row 1: the answer is \[\], expected a text, or a list of one to ten"),
        ({"image": "pictures/none.png"}, "row 1: image .* cannot be read"),
        ({"image": "/etc/passwd"}, "row 1: image '/etc/passwd' lies outside"),
        ({"options": ["red", "\ud800"]}, r"row 1: a text holds '\\ud800', half of a character"),
        ({"question_type": "\udfff"}, "row 1: a text holds .*half of a character"),
        ({"options": "red"}, "row 1: options is 'red', expected a list"),
    ],
)
def test_bad_rows_are_named(table: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rows = [ROWS[0], {**ROWS[1], **changes}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        write_task("mine", table, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_bad_names_and_tables_are_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'My Task' is no task name"):
        write_task("My Task", table, tmp_path / "mine")
    table.write_text('{"picture": "a.png", "question": "?"}\n')
    with pytest.raises(DataError, match="the columns image, answer are missing; it has picture, question"):
        write_task("mine", table, tmp_path / "mine")
