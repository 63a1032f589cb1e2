"""The pictures of the report: what they draw, what they say, and what lies beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from vlm_backbones.analysis import analyze
from vlm_backbones.analysis.columns import TABLES, build_table
from vlm_backbones.analysis.leaderboard.write import write_leaderboard
from vlm_backbones.analysis.report import pictures
from vlm_backbones.analysis.report.curves import calibration_curves
from vlm_backbones.analysis.report.frames import MOST_FRAMES, find_frames
from vlm_backbones.analysis.report.groups import score_letters
from vlm_backbones.analysis.report.labels import ranged
from vlm_backbones.analysis.report.maps import plan_maps
from vlm_backbones.analysis.report.palette import CHART_CONFIG
from vlm_backbones.analysis.report.pictures import legible, render_plans
from vlm_backbones.analysis.report.places import error_groups, error_shares, read_places
from vlm_backbones.analysis.report.rows import _solved_by_exactly
from vlm_backbones.analysis.report.section_agreement import plan_agreement, sets_among
from vlm_backbones.analysis.report.section_calibration import plan_calibration
from vlm_backbones.analysis.report.section_inside import plan_inside
from vlm_backbones.analysis.report.view import Plan, View, look_at, sizes
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, Logs, read_samples

NEW, OLD = "new", "old"
LOOKED_AT = Path(__file__).with_name("charts.json")
"""Every chart as it was last looked at: marks, encodings and columns, without the rows."""
BUILT = Path(__file__).parents[2] / "build" / "charts.json"
"""Where the test writes charts that differ; once they are looked at, they take the others' place."""


def view_of(tables: dict[str, pl.DataFrame], runs: list[str], tasks: list[str], samples: Any = None) -> View:
    """A view of made-up tables; the others are empty."""
    everything = {name: build_table(name, []) for name in TABLES} | tables
    frame = pl.DataFrame(schema=SAMPLE_SCHEMA) if samples is None else samples
    info = {run: RunInfo(run, run, 0, None) for run in runs}
    logs = Logs(frame, pl.DataFrame(), dict.fromkeys(tasks, "acc"), info)
    return look_at(logs, everything, runs, tasks)


def scores_of(values: dict[tuple[str, str], float]) -> pl.DataFrame:
    rows = [
        {"run": run, "task": task, "condition": "clean", "metric": "acc", "value": value, "n": 100}
        for (task, run), value in values.items()
    ]
    return build_table("scores", rows)


def pair(a: str, b: str, **more: Any) -> dict[str, Any]:
    row = {"task": "t", "run_a": a, "run_b": b, "n": 100, "n11": 50, "n10": 10, "n01": 20, "n00": 20, "phi": 0.4}
    row |= {"diff": 0.1, "diff_low": 0.02, "diff_high": 0.18, "p_holm": 0.01, "phi_low": 0.2, "phi_high": 0.6}
    return row | {"negative_flip_rate": 0.1, "positive_flip_rate": 0.2} | more


def inside_tables(token_types: tuple[str, ...] = ("image_mean", "last_prompt")) -> dict[str, pl.DataFrame]:
    """Two runs, three layers, a number and a class to read, two conditions."""
    similarity, probes, stability = [], [], []
    for token in token_types:
        for a, b in ((OLD, OLD), (OLD, NEW), (NEW, NEW)):
            for i in range(3):
                for j in range(3):
                    place = {"task": "t", "run_a": a, "layer_a": i, "run_b": b, "layer_b": j, "token_type": token}
                    similarity.append(place | {"cka": 0.9, "cka_debiased": 1 - abs(i - j) / 4, "n": 150})
        for run in (OLD, NEW):
            for layer in range(3):
                place = {"run": run, "task": "t", "layer": layer, "token_type": token, "n": 150}
                for target in ("colour", "count"):
                    score = {"score": 0.5 + layer / 10, "ci_low": 0.4, "ci_high": 0.8, "permuted": 0.1}
                    score |= {"random_weights": None if run == OLD else 0.3, "text_only": 0.2, "selectivity": 0.3}
                    probes.append(place | {"target": target} | score)
                for condition in ("swap", "jpeg40"):
                    value = {"stability": 0.9, "ci_low": 0.8, "ci_high": 0.95, "answer_flip_rate": 0.25}
                    stability.append(place | {"condition": condition} | value)
    return {
        "similarity": build_table("similarity", similarity),
        "probes": build_table("probes", probes),
        "stability": build_table("stability", stability),
    }


def drawn(plans: list[Plan], out: Path) -> dict[str, str]:
    """Name -> SVG."""
    return {picture.name: picture.svg for picture in render_plans(plans, out)}


def test_the_inside_is_drawn_by_task_and_token_type(tmp_path: Path) -> None:
    plans = plan_inside(view_of(inside_tables(), [OLD, NEW], ["t"]))
    assert {plan.choice for plan in plans} == {("t", "image tokens"), ("t", "last prompt token"), ("t", "")}
    assert all("n\u00a0=\u00a0150" in plan.about for plan in plans)
    svg = drawn(plans, tmp_path)
    for label in ("old layer 0, new layer 2: CKA 0.5, n = 150", "new layer 2, old layer 0: CKA 0.5, n = 150"):
        assert label in svg["cka_t_image_mean"]
    for control in ("labels shuffled", "random weights", "question text alone", "control task", "all runs"):
        assert control in svg["probes_t_image_mean"]
    assert "new, colour, layer 2: 0.7 [0.4, 0.8], n = 150" in svg["probes_t_last_prompt"]
    # Conditions stand in their own order, not in the table's.
    stability = svg["stability_t_image_mean"]
    assert stability.index(">jpeg40<") < stability.index(">swap<")
    # Wilson with p = 0.25, n = 150: (0.2562 -+ 0.0687).
    assert "old, jpeg40: 25.0 % [18.8, 32.5] of the answers change, n = 150" in svg["answer_flips_t"]


@pytest.mark.parametrize("missing", ["similarity", "probes", "stability"])
def test_a_table_that_was_not_made_leaves_its_pictures_out(missing: str) -> None:
    tables = inside_tables()
    view = view_of(tables | {missing: build_table(missing, [])}, [OLD, NEW], ["t"])
    names = {plan.name.split("_")[0] for plan in plan_inside(view)}
    own = {"similarity": {"cka"}, "probes": {"probes"}, "stability": {"stability", "answer"}}
    assert names == {"cka", "probes", "stability", "answer"} - own[missing]
    without = View(
        view.logs, {name: table for name, table in view.tables.items() if name not in tables}, view.runs, view.tasks,
        view.drawn, view.in_matrix, view.colors, 0,
    )  # fmt: skip
    assert plan_inside(without) == []


def test_undefined_values_are_left_out_of_the_inside(tmp_path: Path) -> None:
    tables = inside_tables(("image_mean",))
    tables["stability"] = tables["stability"].with_columns(stability=math.nan, answer_flip_rate=math.nan)
    tables["probes"] = tables["probes"].with_columns(permuted=math.nan, selectivity=None)
    plans = plan_inside(view_of(tables, [OLD, NEW], ["t"]))
    assert {plan.name for plan in plans} == {"cka_t_image_mean", "probes_t_image_mean"}
    assert "question text alone" in drawn(plans, tmp_path)["probes_t_image_mean"]


def test_many_layers_and_runs_are_thinned(tmp_path: Path) -> None:
    runs = [f"r{i}" for i in range(6)]
    rows = [
        {"task": "t", "run_a": a, "layer_a": i, "run_b": b, "layer_b": j, "token_type": "x", "cka_debiased": 0.5}
        for a in runs for b in runs if a <= b for i in range(40) for j in range(0, 40, 13)
    ]  # fmt: skip
    (plan,) = plan_inside(view_of({"similarity": build_table("similarity", rows)}, runs, ["t"]))
    assert "Shown: r0 and r5." in plan.about
    assert "r1" not in drawn([plan], tmp_path)[plan.name]


def test_letters_follow_the_test_where_scores_are_right_or_wrong() -> None:
    scores = scores_of({("t", "a"): 0.6, ("t", "b"): 0.7, ("t", "c"): 0.72})
    pairs = [pair("a", "b", p_holm=0.01), pair("a", "c", p_holm=0.002), pair("b", "c", p_holm=0.4)]
    letters = score_letters(scores, build_table("agreement", pairs), ["a", "b", "c"])
    assert letters == {("t", "c"): "a", ("t", "b"): "a", ("t", "a"): "b"}


def test_letters_say_what_the_table_and_the_verdict_say() -> None:
    """Of finer scores too: the table tests the scores themselves, whatever right and wrong do."""
    strong = {"diff": 0.1, "diff_low": 0.05, "diff_high": 0.15, "n01": 30}
    scores = scores_of({("t", "a"): 0.6, ("t", "b"): 0.65, ("t", "c"): 0.7})
    found = [pair("a", "b", p_holm=0.06), pair("a", "c", p_holm=0.001, **strong), pair("b", "c", p_holm=0.06)]
    table = build_table("agreement", found)
    assert score_letters(scores, table, ["a", "b", "c"]) == {("t", "c"): "a", ("t", "b"): "ab", ("t", "a"): "b"}


def test_a_difference_without_a_p_value_tells_nothing_apart() -> None:
    scores = scores_of({("t", "a"): 0.6, ("t", "b"): 0.9})
    table = build_table("agreement", [pair("a", "b", diff=0.3, diff_low=math.nan, diff_high=math.nan, p_holm=math.nan)])
    assert score_letters(scores, table, ["a", "b"]) == {("t", "a"): "a", ("t", "b"): "a"}


def test_letters_need_two_compared_runs() -> None:
    scores = scores_of({("t", "a"): 0.6, ("u", "b"): 0.7})
    assert score_letters(scores, build_table("agreement", []), ["a", "b"]) == {}


def test_more_than_64_runs_collapse_to_the_best() -> None:
    runs = [f"r{i:02d}" for i in range(66)]
    scores = scores_of({("t", run): 1 - i / 100 for i, run in enumerate(runs)})
    pairs = [pair(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :]]
    solved = pl.DataFrame({"task": ["t", "t"], "runs_right": ["r00 + r65", "r00 + r64"], "count": [3, 4]})
    view = view_of({"scores": scores, "agreement": build_table("agreement", pairs), "solved_by": solved}, runs, ["t"])
    assert view.in_matrix == runs[:24]
    assert view.drawn == runs[:8]
    matrix, flips, sets = plan_agreement(view, "t")
    assert "Drawn: the 24 best of 66 runs." in matrix.about
    assert "Shown: 7 of 2,145 pairs." in flips.about
    assert "Drawn: the 8 best of 66 runs." in sets.about
    assert look_at(view.logs, view.tables, runs[:64], ["t"]).in_matrix == runs[:64]


def test_sets_of_runs_that_are_not_drawn_are_added_up() -> None:
    solved = pl.DataFrame({"task": ["t"] * 3, "runs_right": ["a + c", "a", "none"], "count": [5, 2, 1]})
    among = sets_among(solved, ["a", "b"], ["a", "b", "c"])
    assert among.select("runs_right", "count").rows() == [("a", 7), ("none", 1)]


def test_an_undefined_phi_is_a_dash(tmp_path: Path) -> None:
    tables = {"agreement": build_table("agreement", [pair("a", "b", phi=math.nan)]), "scores": scores_of({})}
    svg = drawn(plan_agreement(view_of(tables, ["a", "b"], ["t"]), "t"), tmp_path)["phi_t"]
    assert ">\u2013</text>" in svg
    assert "a and b: phi not defined, n = 100" in svg
    assert "null" not in svg


def test_calibration_is_drawn_by_question_type(study_dir: Path) -> None:
    samples = read_samples([study_dir])
    runs = sorted(set(samples["run"]))
    part = samples.filter(task="vqa_scene", condition="clean")
    # 120 questions: 40 of each of three types are too few, all of them are enough.
    curves = calibration_curves(part, runs)
    assert curves.question_types == ["all"]
    assert curves.left_out == ["color", "count", "left_of"]
    merged = part.with_columns(question_type=pl.col("question_type").replace("count", "color"))
    curves = calibration_curves(merged, runs)
    assert curves.question_types == ["all", "color"]
    row = curves.risk.filter(run=runs[0], question_type="color").sort("coverage").row(-1, named=True)
    scored = merged.filter(pl.col("run") == runs[0], question_type="color").drop_nulls("sequence_confidence")
    assert row["n"] == scored.height
    assert row["n_missing"] == 80 - scored.height
    assert row["risk"] == pytest.approx(1 - scored["correct"].mean())
    assert row["risk_low"] <= row["risk"] <= row["risk_high"]
    filled = curves.reliability.filter(pl.col("n") > 0)
    assert (filled["band_low"] <= filled["confidence"] + 1 / 15).all()
    assert (filled["band_high"] >= filled["confidence"] - 1 / 15).all()
    plans, left_out = plan_calibration(view_of({}, runs, ["vqa_scene"], merged), "vqa_scene")
    assert [plan.choice[1] for plan in plans] == ["all", "all", "color", "color"]
    assert left_out == ["left_of"]


def places(answers: list[tuple[float, float, str]], frame: str | None = "Japan") -> pl.DataFrame:
    """Places of one run: (latitude, longitude, answer)."""
    rows = [
        {"run": NEW, "task": "t", "doc_id": str(i), "cluster": str(i), "frame": frame, "condition": "clean",
         "target": json.dumps({"lat": lat, "lon": lon}), "answer": answer, "confidence": 0.5 + i / 100,
         "confidence_kind": "sequence"}
        for i, (lat, lon, answer) in enumerate(answers)
    ]  # fmt: skip
    return read_places(pl.DataFrame(rows, schema=SAMPLE_SCHEMA, strict=False), [NEW])


def test_a_swapped_and_a_flipped_answer_are_visible(tmp_path: Path) -> None:
    found = places(
        [
            (36.0, 140.0, '{"lat": 36.1, "lon": 140.2}'),
            (38.0, 142.0, '{"lat": 142.0, "lon": 38.0}'),
            (35.0, 139.0, '{"lat": -35.0, "lon": 139.0}'),
            (35.0, 141.0, "somewhere"),
        ]
    )
    assert found["swapped"].to_list() == [False, True, False, False]
    world, frames = plan_maps(view_of({}, [NEW], ["t"]), "t", found, [NEW])
    assert "2 of 3 (1 swapped, 1 sign flipped); 1 answer without coordinates." in world.about
    svg = drawn([world, frames], tmp_path)
    # One line and one dot each, beside the legend's stroke, in the colours of the page.
    assert svg["world_t_0"].count('stroke="var(--bad)"') == 2
    assert svg["world_t_0"].count('stroke="var(--odd)"') == 2
    assert "true 38.0, 142.0; answer 142.0, 38.0: 20015 km off" in svg["frames_t_0"]
    assert "n = 3" in svg["frames_t_0"]
    assert pl.read_csv(tmp_path / "charts" / "world_t_0.csv")["answer_latitude"].null_count() == 1


def test_frames_that_are_not_drawn_are_counted() -> None:
    def about(count: int) -> str:
        found = pl.concat(
            [places([(36.0, 140.0, '{"lat": 36.1, "lon": 140.2}')], frame=f"{i:02}") for i in range(count)]
        )
        return plan_maps(view_of({}, [NEW], ["t"]), "t", found, [NEW])[1].about

    assert "frames." not in about(MOST_FRAMES)
    assert f"The {MOST_FRAMES} largest of {MOST_FRAMES + 1} frames." in about(MOST_FRAMES + 1)


def test_a_frame_over_the_date_line_has_its_places_on_one_side() -> None:
    (frame,) = find_frames(places([(-17.0, 179.5, "-17, -179.5"), (-18.0, -179.0, "-18, 179.0")], frame="Fiji"))
    assert frame.places["longitude"].to_list() == [179.5, 181.0]


def test_lines_take_the_short_way_over_the_date_line() -> None:
    found = places([(-17.0, 179.5, "-17, -179.5"), (-18.0, -179.0, "-18, 179.0")], frame="Fiji")
    frame = plan_maps(view_of({}, [NEW], ["t"]), "t", found, [NEW])[1].chart.to_dict()
    rows = [row for row in next(iter(frame["datasets"].values())) if row["kind"] == "answer"]
    assert all(abs(row["x2"] - row["x"]) < 2 for row in rows)
    assert all(0 <= row["x"] <= 1 for row in rows)


def test_errors_count_answers_without_coordinates_and_keep_their_n() -> None:
    found = places([(36.0, 140.0, "36, 140"), (36.0, 140.0, "37, 140"), (36.0, 140.0, "nowhere")])
    shares = error_shares(found)
    # 0 km, 111 km, and one that is within nothing.
    at = {round(km): share for km, share in shares.select("km", "share").iter_rows() if km in (100.0, 250.0)}
    assert at == {100: pytest.approx(1 / 3), 250: pytest.approx(2 / 3)}
    assert set(shares["n"]) == {3}
    groups = error_groups(found)
    assert groups["n"].sum() == 2
    assert set(groups["n_missing"]) == {1}


def test_every_picture_has_png_svg_and_numbers(tmp_path: Path) -> None:
    plans = plan_inside(view_of(inside_tables(("image_mean",)), [OLD, NEW], ["t"]))
    own = plan_maps(view_of({}, [NEW], ["t"]), "t", places([(36.0, 140.0, "36, 141")]), [NEW])
    pictures = render_plans([*plans, *own], tmp_path)
    for picture in pictures:
        assert (tmp_path / "charts" / f"{picture.name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "charts" / f"{picture.name}.svg").read_text().startswith("<svg")
    assert {picture.csv for picture in pictures} == {
        "tables/similarity.csv", "tables/probes.csv", "tables/stability.csv", "charts/world_t_0.csv",
    }  # fmt: skip
    assert (tmp_path / "charts" / "world_t_0.csv").is_file()


def test_names_of_files_are_safe_and_do_not_clash(tmp_path: Path) -> None:
    table = build_table("agreement", [pair("a", "b")])
    view = view_of({"agreement": table, "scores": scores_of({})}, ["a", "b"], ["t"])
    plan = plan_agreement(view, "t")[0]
    names = ["a/b", "a_b", "A_B", "../../up", "x" * 500]
    renamed = [Plan(plan.section, name, plan.title, plan.about, plan.chart, "agreement", ("t",)) for name in names]
    found = [picture.name for picture in render_plans(renamed, tmp_path)]
    assert found == ["a_b", "a_b-2", "A_B-3", ".._.._up", "x" * 100]
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "charts"}


HOSTILE = "<script>alert(1)</script>\x00\u202e]]>&amp;" + "x" * 5000


def test_hostile_names_become_text_in_pictures(tmp_path: Path) -> None:
    table = build_table("agreement", [pair(HOSTILE, "b")])
    plans = plan_agreement(view_of({"agreement": table, "scores": scores_of({})}, [HOSTILE, "b"], ["t"]), "t")
    plans += plan_maps(view_of({}, [NEW], ["t"]), "t", places([(36.0, 140.0, "36, 141")] * 7, HOSTILE), [NEW])
    for name, svg in drawn(plans, tmp_path).items():
        assert "<script" not in svg, name
        assert "\x00" not in svg
        assert "\u202e" not in svg
        assert len(svg) < 60_000
    assert "&lt;script&gt;" in (tmp_path / "charts" / "frames_t_0.svg").read_text()


def test_pictures_do_not_share_ids(tmp_path: Path) -> None:
    found = places([(36.0, 140.0, "36, 141")] * 7)
    svg = drawn(plan_maps(view_of({}, [NEW], ["t"]), "t", found, [NEW]), tmp_path)
    import re

    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in svg.values()]
    assert all(ids)
    assert not set.intersection(*ids)
    for text, own in zip(svg.values(), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= own


def test_legible_text() -> None:
    assert legible("a\x00b\u202ec") == "aU+0000bU+202Ec"
    assert legible("é → ü\n\t") == "é → ü\n\t"
    assert legible("x" * 400) == "x" * 300 + "…"


def test_sizes_of_samples() -> None:
    assert sizes([654, 654]) == "n\u00a0=\u00a0654"
    assert sizes([1196, 654, None]) == "n\u00a0=\u00a0654 to 1,196"
    assert sizes([]) == ""


def test_one_run_has_curves_but_no_comparison(tmp_path: Path, make: SimpleNamespace) -> None:
    make.study(tmp_path, docs=120, runs={"solo": 0.7}, media=False, hostile=False)
    samples = read_samples([tmp_path])
    view = view_of({}, ["solo"], ["vqa_scene"], samples)
    assert len(plan_calibration(view, "vqa_scene")[0]) == 2
    assert plan_agreement(view, "vqa_scene") == []


def test_a_spoken_number_has_its_interval_its_unit_and_its_sign() -> None:
    frame = pl.DataFrame({"v": [-0.314, 0.5, None], "low": [-0.4, None, 0.1], "high": [-0.2, 0.6, 0.2]})
    said = frame.select(
        plain=ranged("v", "low", "high", digits=2),
        shares=ranged("v", "low", "high", digits=1, percent=True),
        sizes=ranged("v", "low", "high", digits=1, absolute=True),
    )
    undefined = "0.5 (interval not defined)"
    assert said["plain"].to_list() == ["-0.31 [-0.4, -0.2]", undefined, "not defined"]
    assert said["shares"].to_list() == ["-31.4 % [-40.0, -20.0]", "50.0 % (interval not defined)", "not defined"]
    assert said["sizes"].to_list() == ["0.3 [0.4, 0.2]", undefined, "not defined"]


def test_questions_are_counted_by_how_many_runs_solve_them() -> None:
    runs = [f"r{number}" for number in range(3)]
    counts = {"none": 4, "r0": 3, "r2": 2, "r0 + r1": 5, "r0 + r1 + r2": 7}
    rows = [{"task": "t", "runs_right": right, "count": count} for right, count in counts.items()]
    view = view_of({"solved_by": build_table("solved_by", rows)}, runs, ["t"])
    assert _solved_by_exactly(view, "t") == [(0, 4), (1, 5), (2, 5), (3, 7)]


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> list[dict[str, Any]]:
    """The charts of a whole report, of the states' sections and of the shipped leaderboard; none is drawn."""
    out, specs = tmp_path_factory.mktemp("charts"), list[dict[str, Any]]()

    def gather(given: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
        specs.extend(given)
        return [('<svg style="max-width:100px"></svg>', b"")] * len(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_all", gather)
        analyze([make.study(out / "study", docs=60)], out / "report", bootstrap=100)
        render_plans(plan_inside(view_of(inside_tables(), [OLD, NEW], ["t"])), out / "inside")
        write_leaderboard(
            ["vip-llava-study"], out / "board", runs={}, benchmarks=[], cluster_key=None, score_key=None,
            bootstrap=100, seed=0,
        )  # fmt: skip
    return specs


def test_charts_are_those_that_were_looked_at(charts: list[dict[str, Any]]) -> None:
    found = [{"config": CHART_CONFIG}, *map(without_rows, charts)]
    if found != json.loads(LOOKED_AT.read_text(encoding="utf-8")):
        BUILT.parent.mkdir(exist_ok=True)
        BUILT.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(LOOKED_AT.read_text(encoding="utf-8")), f"look at the report, then copy {BUILT}"


def test_every_field_of_a_chart_is_a_column_of_its_data(charts: list[dict[str, Any]]) -> None:
    assert len(charts) > 30
    for chart in charts:
        columns = {name for rows in chart["datasets"].values() for row in rows for name in row}
        named = [value for key, value in walk(chart) if key == "as"]
        made = {name for value in named for name in ([value] if isinstance(value, str) else value)}
        wanted = {value for key, value in walk(chart) if key == "field" and isinstance(value, str)}
        assert wanted <= columns | made, f"{wanted - columns - made} of {chart.get('title')}"


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth, but for rows."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key != "datasets":
                yield key, part
                yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)


def without_rows(chart: dict[str, Any]) -> dict[str, Any]:
    """Return a chart with the columns of its data in place of the rows."""
    datasets = chart.get("datasets", {})
    columns = sorted([sorted({name for row in rows for name in row}) for rows in datasets.values()])
    text = json.dumps({key: part for key, part in chart.items() if key not in ("datasets", "config")}, sort_keys=True)
    for number, name in enumerate(datasets):
        text = text.replace(name, f"data {number}")
    return {**json.loads(text), "columns": columns}
