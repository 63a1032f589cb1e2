"""Every shipped task and group: its YAML as lmms-eval reads it, its README, and the names that groups hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lmms_eval.models  # noqa: F401  loads the entry point that adds our tasks
import pytest
from datasets import load_from_disk
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from PIL import Image

from vlm_backbones._names import own_tasks
from vlm_backbones.tasks import data

TASKS = Path(data.__file__).parent
CORE = ("seismic_coords", "seismic_description", "vqa_scene")
REGION = ("pointqa_looktwice", "v7w", "vip_bench_bbox", "vip_bench_human")
HUB = ("mmvet_study", "textvqa_study")
"""Their rows come from the hub; here from one row in its schema."""
GROUPS = ("backbone_study", "backbone_study_image", "backbone_study_region")

ROWS: dict[str, dict[str, Any]] = {
    "mmvet_study": {
        "question_id": "v1_0", "image": Image.new("RGBA", (9, 7)), "question": "What is x in the equation?",
        "answer": "-1<AND>-5", "image_source": "x", "capability": "ocr,math", "imagename": "v1_0.png",
    },
    "textvqa_study": {
        "question_id": 34602, "image": Image.new("L", (9, 7)), "question": "what is the brand of this camera?",
        "answers": ["nous les gosses", *["dakota"] * 8, "clos culombu"], "ocr_tokens": ["DAKOTA", "DIGITAL"],
        "image_id": "003a8ae2ef43b901",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def everywhere(region_parts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data for every task; the pocket data is built once into the user's own cache."""
    folder = tmp_path_factory.mktemp("regions")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)  # no judge is asked here
        patch.setenv("VLM_BACKBONES_REGION_DATA", str(region_parts.write_region_data(folder)))
        yield


def test_every_shipped_yaml_is_a_task_or_a_group() -> None:
    files = sorted(TASKS.rglob("*.yaml"))
    assert len(files) == len(CORE) + len(REGION) + len(HUB) + len(GROUPS) == 12
    assert set(own_tasks()) == {*CORE, *REGION, *HUB, *GROUPS}
    assert {path.stem for path in files} == set(own_tasks())
    assert sorted(path.parent.name for path in files if path.parent != TASKS) == sorted([*CORE, *REGION, *HUB])


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", [*CORE, *REGION, *HUB])
def test_a_shipped_task_is_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, target and pictures of the first row, a score of an answer, and one aggregation a metric."""
    if name in REGION:
        monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path))
    config = load_yaml_config(str(TASKS / name / f"{name}.yaml"), mode="full")
    readme = (TASKS / name / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {name}\n")
    assert f"--tasks {name}" in readme
    assert config["task"] == name
    assert config["metadata"]["version"] >= 1.0
    assert config["generation_kwargs"]["max_new_tokens"] > 0
    doc: Any = ROWS[name] if name in HUB else load_from_disk(config["dataset_path"])[config["test_split"]][0]
    assert config["doc_to_text"](doc).strip()
    assert str(config["doc_to_target"](doc)).strip()
    assert all(picture.mode == "RGB" for picture in config["doc_to_visual"](doc))
    scored = config["process_results"](doc, ["an answer"])
    assert set(scored["backbones"]) >= {"parsed", "score", "rungs", "question_type", "frame", "targets"}
    metrics = {row["metric"]: row for row in config["metric_list"]}
    assert set(scored) - {"backbones"} <= set(metrics)
    for row in metrics.values():
        assert row["aggregation"]([1.0, None]) == 1.0
        assert row["aggregation"]([None]) is None  # a results file is JSON
        assert isinstance(row["higher_is_better"], bool)


def test_groups_hold_tasks_that_exist() -> None:
    manager = TaskManager("ERROR")
    counts = {}
    for name in GROUPS:
        members = load_yaml_config(str(TASKS / f"{name}.yaml"), mode="full")["task"]
        assert set(members) <= set(manager.all_subtasks), set(members) - set(manager.all_subtasks)
        counts[name] = len(set(members))
    assert counts == {"backbone_study": 3, "backbone_study_image": 12, "backbone_study_region": 4}


def test_the_studys_own_prompts() -> None:
    """As the LLaVA-1.5 and ViP-LLaVA projects ask MM-Vet and TextVQA, where lmms-eval asks something else."""
    prompts = {}
    for name in HUB:
        config = load_yaml_config(str(TASKS / name / f"{name}.yaml"), mode="full")
        prompts[name] = config["doc_to_text"](ROWS[name])
        assert config["generation_kwargs"]["max_new_tokens"] == {"mmvet_study": 1024, "textvqa_study": 128}[name]
    assert prompts["mmvet_study"] == "What is x in the equation?"
    assert prompts["textvqa_study"] == (
        "what is the brand of this camera?\nReference OCR token: DAKOTA, DIGITAL\n"
        "Answer the question using a single word or phrase."
    )


def test_textvqa_is_scored_as_lmms_eval_scores_it() -> None:
    """Eight of ten say dakota: each of them has seven others, the two others have eight; min(1, 8 / 3) everywhere."""
    config = load_yaml_config(str(TASKS / "textvqa_study" / "textvqa_study.yaml"), mode="full")
    scored = config["process_results"](ROWS["textvqa_study"], ["Dakota."])
    assert (scored["exact_match"], scored["backbones"]["parsed"]) == (1.0, "dakota")
    # one of ten: none of the others for itself, one third for the nine others
    assert config["process_results"](ROWS["textvqa_study"], ["clos culombu"])["exact_match"] == pytest.approx(0.3)
    assert ROWS["textvqa_study"]["answers"][0] == "nous les gosses"  # the row itself is not changed
