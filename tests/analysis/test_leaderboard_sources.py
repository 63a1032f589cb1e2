"""What the leaderboard reads, and what it refuses: tables, results files, samples, and all of them together."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlm_backbones.analysis.leaderboard.logged import parse_wanted
from vlm_backbones.analysis.leaderboard.published import read_published, shipped_tables
from vlm_backbones.analysis.leaderboard.sources import read_standing
from vlm_backbones.analysis.leaderboard.standing import Standing
from vlm_backbones.analysis.leaderboard.write import write_leaderboard
from vlm_backbones.analysis.log_files import find_logs
from vlm_backbones.errors import ConfigError, DataError, LogError
from vlm_backbones.hashes import file_sha256, sealed_json

HEADER = "architecture,backbone,checkpoint,benchmark,value"


def write_table(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def write_results(folder: Path, values: dict[str, dict[str, Any]], n: int = 40, **more: Any) -> Path:
    """A results file as lmms-eval writes it; `values` maps task -> metric -> value."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {task: [{"metric": metric, "aggregation": "mean"} for metric in found] for task, found in values.items()}
    content = {
        "results": {
            task: {"alias": task} | {f"{metric},none": value for metric, value in found.items()}
            | {f"{metric}_stderr,none": "N/A" for metric in found}
            for task, found in values.items()
        },
        "configs": {task: {"task": task, "metric_list": found} for task, found in metrics.items()},
        "n-samples": {task: {"original": n, "effective": n} for task in values},
        "config": {"model": "llava_hf", "model_args": "pretrained=org/some-model,device_map=auto"},
    }  # fmt: skip
    path = folder / "20260101_120000_results.json"
    path.write_text(json.dumps(content | more), encoding="utf-8")
    return path


def value_of(standing: Standing, label: str, benchmark: str) -> Any:
    names = [one.name for one in standing.benchmarks]
    return standing.cells[standing.labels.index(label), names.index(benchmark)]


def test_the_shipped_study_holds_both_tables() -> None:
    standing = read_standing(["vip-llava-study"])
    assert (len(standing.entries), len(standing.benchmarks)) == (8, 16)
    assert len(standing.cells) == 4 * 12 + 4 * 16
    assert value_of(standing, "llava-1.5 Llama-3-8B", "MMBench").value == 72.3
    assert value_of(standing, "vip-llava Phi-3-mini-3.8B", "ViP-Bench (BBox)").value == 49.0
    mme = value_of(standing, "vip-llava Vicuna-1.5-13B", "MME")
    assert (mme.value, mme.unit, mme.worst, mme.best) == (1564.0, "points", 0.0, 2000.0)
    assert standing.notes == []


def test_every_shipped_table_can_be_read() -> None:
    tables = shipped_tables()
    assert tables
    for path in tables.values():
        assert read_published(path)


def test_fractions_and_percent_meet_on_one_scale(tmp_path: Path) -> None:
    fractions = write_table(tmp_path / "f.csv", "a,x,c1,POPE,0.646", "a,y,c2,POPE,0.5")
    percent = write_table(tmp_path / "p.csv", "b,z,c3,POPE,64.6", header=HEADER)
    standing = read_standing([str(fractions)])
    assert value_of(standing, "a x", "POPE").value == 64.6
    # one file says fraction, the other percent: stated units settle what values alone cannot
    stated = write_table(tmp_path / "s.csv", "a,x,c1,POPE,0.646,fraction", header=f"{HEADER},unit")
    both = read_standing([str(stated), str(percent)])
    assert value_of(both, "a x", "POPE").value == value_of(both, "b z", "POPE").value


def test_a_line_without_a_value_is_missing_not_zero(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", "a,x,c,X,50", "a,y,c,X,", "a,z,c,X,-", "a,y,c,Y,40")
    standing = read_standing([str(path)])
    assert len(standing.cells) == 2


@pytest.mark.parametrize(
    ("lines", "header", "expected"),
    [
        (["a,x,c,X,abc"], HEADER, "line 2: value"),
        (["a,x,c,X,nan%"], HEADER, "line 2: value"),
        (["a,,c,X,1", "a,x,c,,1"], HEADER, "line 3: benchmark"),
        (["a,x,c,X,1,1"], HEADER, "line 2: more cells than columns"),
        (["a,x,c,X,1,kg"], f"{HEADER},unit", "line 2: unit"),
        (["a,x,c,X,140,percent"], f"{HEADER},unit", "outside 0 to 100"),
        (["a,x,c,X,1,0"], f"{HEADER},n", "line 2: n"),
        ([f"a,x,c,X,1,{10**400}"], f"{HEADER},n", "line 2: n"),
        (["a,x,c,X,1,0"], f"{HEADER},best", "worst and best belong together"),
        (["a,x,c,X,1,0,2,false"], f"{HEADER},worst,best,higher_is_better", "say otherwise"),
        (["a,x,c,X,1"], "architecture,backbone,checkpoint,benchmark,score", "lacks the columns value"),
        (["a,x,c,X,1,1"], f"{HEADER},bets", "Did you mean 'best'?"),
        ([], HEADER, "holds no score"),
    ],
)
def test_a_malformed_table_names_line_and_remedy(tmp_path: Path, lines: list[str], header: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected.replace("?", r"\?")):
        read_published(write_table(tmp_path / "t.csv", *lines, header=header))


def test_every_malformed_line_is_named(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "a,x,c,X,abc", "a,x,c,Y,1,1", "b,x,c,X,1", "b,x,c,Y,nan%", "b,x,c,Z,1,1")
    with pytest.raises(DataError) as caught:
        read_published(table)
    assert [line[:10] for line in str(caught.value).splitlines()[1:]] == [f"  - line {n}" for n in (2, 3, 5, 6)]


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xff\xfe\x00,")
    with pytest.raises(DataError, match="UTF-8"):
        read_published(path)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a,x,c,X,50,percent,accuracy,true", "a,x,c,X,51,percent,accuracy,true", "two scores on X"),
        ("a,x,c,X,50,percent,accuracy,true", "a,y,c,X,51,points,accuracy,true", "unit is percent"),
        ("a,x,c,X,50,percent,accuracy,true", "a,y,c,X,51,percent,F1,true", "F1 and accuracy"),
        ("a,x,c,X,50,percent,accuracy,true", "a,y,c,X,51,percent,accuracy,false", "higher_is_better is True"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, first: str, second: str, expected: str) -> None:
    header = f"{HEADER},unit,metric,higher_is_better"
    paths = [write_table(tmp_path / name, line, header=header) for name, line in (("1.csv", first), ("2.csv", second))]
    with pytest.raises(DataError, match=expected):
        read_standing([str(path) for path in paths])


def test_one_number_twice_is_one_number(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", "a,x,c,X,50", "a,x,c,X,50")
    assert len(read_standing([str(path)]).cells) == 1


def test_rows_of_one_name_are_told_apart_by_checkpoint(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", "a,x,one,X,50", "a,x,two,X,60")
    assert read_standing([str(path)]).labels == ["a x (one)", "a x (two)"]


def test_an_unknown_path_names_the_nearest_shipped_table() -> None:
    with pytest.raises(LogError, match="Did you mean 'vip-llava-study'"):
        read_standing(["vip-llava-studi"])


def test_results_files_alone_give_binomial_intervals(tmp_path: Path) -> None:
    write_results(tmp_path / "org__model-a", {"gqa": {"exact_match": 0.5}}, n=100)
    write_results(tmp_path / "org__model-b", {"gqa": {"exact_match": 0.75}}, n=100)
    standing = read_standing([str(tmp_path)])
    assert standing.labels == ["org__model-a", "org__model-b"]
    cell = value_of(standing, "org__model-b", "gqa")
    assert (cell.value, cell.n, cell.basis) == (75.0, 100, "binomial")
    assert cell.ci_low < 75 < cell.ci_high
    assert standing.entries[0].architecture == "llava_hf"
    assert standing.entries[0].checkpoint == "org/some-model"


@pytest.mark.parametrize("n", [0, -3, True, pytest.param(10**400, id="endless")])
def test_a_count_that_is_none_gives_no_interval(tmp_path: Path, n: int) -> None:
    write_results(tmp_path / "m", {"gqa": {"exact_match": 0.5}}, n=n)
    cell = value_of(read_standing([str(tmp_path)]), "m", "gqa")
    assert (cell.value, cell.n) == (50.0, None)
    assert math.isnan(cell.ci_low)


def test_an_aggregate_that_is_no_mean_has_no_interval(tmp_path: Path) -> None:
    configs = {"mme": {"metric_list": [{"metric": "mme_perception_score", "aggregation": "<function mme_aggregate>"}]}}
    write_results(tmp_path / "m", {"mme": {"mme_perception_score": 1500.0}}, configs=configs)
    standing = read_standing([str(tmp_path)])
    assert value_of(standing, "m", "mme").basis == "unknown"
    assert standing.benchmarks[0].best == 2000.0


def test_groups_and_perturbed_evaluations_are_left_out(tmp_path: Path) -> None:
    values = {"both": {"acc": 0.6}, "one": {"acc": 0.7}, "two": {"acc": 0.5}}
    write_results(tmp_path / "m", values, group_subtasks={"both": ["one", "two"], "one": [], "two": []})
    config = {"model": "backbone_vlm", "model_args": "pretrained=x,condition=swap"}
    write_results(tmp_path / "swapped", {"one": {"acc": 0.1}}, config=config)
    standing = read_standing([str(tmp_path)])
    assert standing.labels == ["m"]
    assert [one.name for one in standing.benchmarks] == ["one", "two"]


def test_another_tools_file_is_left_out_of_a_folder_and_refused_by_name(tmp_path: Path) -> None:
    write_results(tmp_path / "m", {"gqa": {"exact_match": 0.5}})
    other = tmp_path / "m" / "other_results.json"
    other.write_text("{}")
    assert "not a results file" in read_standing([str(tmp_path)]).notes[0]
    with pytest.raises(LogError, match="not a results file"):
        read_standing([str(other)])
    other.write_text("{")
    with pytest.raises(LogError, match="not readable JSON"):
        read_standing([str(tmp_path)])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="holds neither"):
        read_standing([str(tmp_path)])


def logged_run(make: SimpleNamespace, folder: Path, right: int, n: int = 40) -> None:
    make.log(folder, [make.row(i, "a", "a", float(i < right)) for i in range(n)])


def test_samples_are_paired_and_agree_with_their_results_file(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, right in (("old", 20), ("new", 30)):
        logged_run(make, tmp_path / run, right)
        write_results(tmp_path / run, {"vqa": {"exact_match": right / 40}})
    standing = read_standing([str(tmp_path)])
    cell = value_of(standing, "new", "vqa")
    assert (cell.value, cell.basis, cell.n) == (75.0, "samples", 40)
    assert standing.paired[0].runs == ["new", "old"]
    assert standing.paired[0].score.max() == 100.0


def test_a_score_that_is_not_the_mean_of_its_samples_is_not_paired(tmp_path: Path, make: SimpleNamespace) -> None:
    logged_run(make, tmp_path / "m", 20)
    write_results(tmp_path / "m", {"vqa": {"exact_match": 0.61}})
    standing = read_standing([str(tmp_path)])
    cell = value_of(standing, "m", "vqa")
    assert (cell.value, cell.origin) == (61.0, "results")
    assert "not the mean of its samples" in " ".join(standing.notes)


def test_a_shorter_rerun_does_not_hide_the_full_one(tmp_path: Path, make: SimpleNamespace) -> None:
    logged_run(make, tmp_path / "m", 20)
    write_results(tmp_path / "m", {"vqa": {"exact_match": 1.0}}, n=4)
    assert value_of(read_standing([str(tmp_path)]), "m", "vqa").value == 50.0


def test_a_score_under_a_key_of_the_users_is_taken(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "m", [make.row(i, "a", "a", 1.0, grade=float(i < 10)) for i in range(40)])
    write_leaderboard([str(tmp_path / "m")], tmp_path / "out", score_key="grade", bootstrap=20)
    assert "25.0" in (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")


def test_runs_and_a_table_meet_where_the_user_says_so(tmp_path: Path, make: SimpleNamespace) -> None:
    logged_run(make, tmp_path / "logs" / "m", 30)
    table = write_table(tmp_path / "t.csv", "llava,vicuna,ck,VQA,70,40", header=f"{HEADER},n")
    standing = read_standing([str(tmp_path / "logs"), str(table)], wanted=[parse_wanted("VQA=vqa:exact_match")])
    assert [one.name for one in standing.benchmarks] == ["VQA"]
    assert [value_of(standing, label, "VQA").value for label in standing.labels] == [75.0, 70.0]
    assert [entry.kind for entry in standing.entries] == ["run", "published"]


def test_two_tasks_cannot_fill_one_column(tmp_path: Path, make: SimpleNamespace) -> None:
    for task in ("one", "two"):
        make.log(tmp_path / "m", [make.row(i, "a", "a", 1.0) for i in range(5)], task=task)
    with pytest.raises(ConfigError, match="two tasks fill the column two"):
        read_standing([str(tmp_path)], wanted=[parse_wanted("two=one")])


def test_a_run_can_be_named(tmp_path: Path, make: SimpleNamespace) -> None:
    logged_run(make, tmp_path / "x", 10)
    assert read_standing([], runs={"mine": tmp_path / "x"}).labels == ["mine"]
    with pytest.raises(LogError, match="no file or folder"):
        read_standing([], runs={"mine": tmp_path / "y"})


def test_two_folders_of_one_name_are_two_runs(tmp_path: Path) -> None:
    write_results(tmp_path / "first" / "m", {"gqa": {"exact_match": 0.5}})
    write_results(tmp_path / "second" / "m", {"gqa": {"exact_match": 0.6}})
    assert read_standing([str(tmp_path)]).labels == ["first/m", "second/m"]


def test_the_study_is_read_without_its_blind_baseline(study_dir: Path) -> None:
    standing = read_standing([str(study_dir)], bootstrap=200)
    assert standing.labels == ["pocket-llama-1", "pocket-llama-2", "pocket-llama-3"]
    assert [one.name for one in standing.benchmarks] == ["seismic_coords", "seismic_description", "vqa_scene"]
    assert all(cell.basis == "samples" and cell.n == 120 for cell in standing.cells.values())


@pytest.mark.parametrize("text", ["POPE", "=pope", "POPE=", "POPE=pope:"])
def test_a_malformed_benchmark_option_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME=TASK"):
        parse_wanted(text)


def test_an_unknown_metric_names_the_nearest(tmp_path: Path) -> None:
    write_results(tmp_path / "m", {"pope": {"pope_accuracy": 0.8, "pope_f1_score": 0.82}})
    with pytest.raises(ConfigError, match="Did you mean 'pope_f1_score'"):
        read_standing([str(tmp_path)], wanted=[parse_wanted("POPE=pope:pope_f1")])
    standing = read_standing([str(tmp_path)], wanted=[parse_wanted("POPE=pope:pope_f1_score")])
    assert standing.cells[0, 0].value == 82.0


def test_results_that_are_not_what_an_evaluation_wrote_are_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    """The listed file lies below its done.json, also where only the condition's folder was copied."""
    folder = tmp_path / "run" / "logs" / "clean"
    log = make.log(folder, [make.row(i, "a", "a", float(i % 2)) for i in range(40)], task="mine")
    results = write_results(folder, {"mine": {"exact_match": 0.5}})
    row = {"samples": log.name, "sha256": file_sha256(log)}
    files = {f"logs/clean/{results.name}": file_sha256(results)}
    (folder / "done.json").write_text(sealed_json({"tasks": {"mine": row | {"files": files}}}))
    moved = folder.rename(tmp_path / "moved")
    assert read_standing([str(moved)]).cells
    results = moved / results.name
    results.write_text(results.read_text().replace("0.5", "0.9"))
    for read in (read_standing, find_logs):
        with pytest.raises(LogError, match=rf"{results.name} is not the file that the evaluation wrote"):
            read([str(moved)])
    (moved / log.name).unlink()  # results are shared without their logs
    with pytest.raises(LogError, match=rf"{results.name} is not the file that the evaluation wrote"):
        read_standing([str(moved)])
    results.write_text(results.read_text().replace("0.9", "0.5"))
    assert read_standing([str(moved)]).cells
