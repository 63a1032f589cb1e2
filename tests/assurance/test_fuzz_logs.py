"""A log that anybody wrote is read, or refused by name; so are the files beside it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import fuzz, lawful
from spoiling import among, any_of, as_json, odd_text, some, spoilt, spoilt_bytes, written

from vlm_backbones.analysis.leaderboard.sources import read_standing
from vlm_backbones.analysis.report.certificate import read_certificate
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, load_logs
from vlm_backbones.errors import LogError

EXTRAS = {"doc_key": "k0", "image_key": "i0", "cluster": "i0", "logprob": -0.5, "token_count": 4, "truncated": False,
          "option_logprobs": {"yes": -0.1, "no": -2.3}, "checkpoint": "c", "condition": "clean"}  # fmt: skip
OURS = {
    "doc_id": 0, "target": "yes", "filtered_resps": ["yes"], "doc_hash": "h", "input": "Is it?", "vqa_accuracy": 1.0,
    "token_counts": [{"input_tokens": 9, "output_tokens": 4, "reasoning_tokens": EXTRAS}],
    "backbones": {"parsed": "yes", "score": 1.0, "rungs": {"a": 1.0}, "question_type": "t", "frame": "Japan",
                  "targets": '{"n": 1}'},
}  # fmt: skip
COORDS = {"doc_id": 1, "target": '{"lat": 1, "lon": 2}', "filtered_resps": '{"lat": 1, "lon": 3}', "input": "Where?",
          "error_km": 111.2, "within_100_km": 0.0, "parsed": 1.0}  # fmt: skip
CHOICES = {"doc_id": "2", "target": "A", "filtered_resps": [[-0.1, "True"], [-2.0, "False"]], "acc": 1.0, "doc": {}}
MME = {"doc_id": 3, "target": "Yes", "resps": [["yes"]], "category": "ocr",
       "mme_perception_score": {"question_id": "a.png", "category": "ocr", "score": 1.0}}  # fmt: skip
POPE = {"doc_id": 4, "target": "no", "filtered_resps": "no", "pope_accuracy": {"score": 1.0},
        "pope_f1_score": {"prediction": "no", "ground_truth": "no", "question_id": 4}}  # fmt: skip
JUDGE = {"doc_id": 5, "target": "a", "filtered_resps": [{"text": "a"}], "gpt_eval_score": {"score": "8"}, "wer": 0.1}
ROWS = [OURS, COORDS, CHOICES, MME, POPE, JUDGE]
RUN = {"backbone": "b", "seed": 1, "config": {"backbone": {"id": "b"}, "seed": 1}, "state": "done"}
DONE = {"tasks": {"t": {"samples": "samples_t.jsonl", "documents": 2}}}
KEYS = ["vqa_accuracy", "backbones.score", "doc_id", "doc_id//2", "doc_id%3", "image_key", "mme_perception_score"]


def as_lines(rows: Any) -> bytes:
    return b"\n".join(map(as_json, rows if isinstance(rows, list) else [rows]))


lines = any_of(written(spoilt([ROWS]), as_lines), written(some(spoilt(ROWS), 1, 4), as_lines))
key = any_of(*[among([None])] * 6, among(KEYS), odd_text)


@fuzz(
    first=lines,
    second=lines,
    packed=among([True, False]),
    run=written(spoilt([RUN])),
    done=written(spoilt([DONE])),
    score_key=key,
    cluster_key=key,
)
def test_logs_of_samples(
    out: Path, first: bytes, second: bytes, packed: bool, run: bytes, done: bytes, score_key: Any, cluster_key: Any
) -> None:
    folder = out / "in" / "run" / "logs" / "clean"
    folder.mkdir(parents=True, exist_ok=True)
    (out / "in" / "other").mkdir(exist_ok=True)
    (out / "in" / "run" / "run.json").write_bytes(run)
    (folder / "done.json").write_bytes(done)
    (folder / "samples_t.jsonl").write_bytes(first)
    for file in (out / "in" / "other").iterdir():
        file.unlink()
    name = "samples_t.jsonl.gz" if packed else "samples_t.jsonl"
    (out / "in" / "other" / name).write_bytes(gzip.compress(second) if packed else second)
    with lawful(out):
        logs = load_logs([out / "in"], score_key=score_key, cluster_key=cluster_key)
        assert logs.samples.columns == list(SAMPLE_SCHEMA)
        assert logs.samples.height > 0
        assert set(logs.headline) == set(logs.samples["task"].cast(str).unique())


packed_rows = spoilt_bytes(among([gzip.compress(as_lines(ROWS) + b"\n")]))


@fuzz(data=packed_rows)
def test_damaged_compressed_logs(out: Path, data: bytes) -> None:
    file = out / "run" / "samples_t.jsonl.gz"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    with lawful(out):
        load_logs([file])


def test_a_row_that_unpacks_without_end_is_refused(out: Path) -> None:
    """A row of 70 MB packs into 70 KB."""
    file = out / "bomb" / "samples_t.jsonl.gz"
    file.parent.mkdir()
    with gzip.open(file, "wb", compresslevel=6) as stream:
        stream.write(as_json(OURS) + b"\n")
        for _ in range(70):
            stream.write(b" " * 2**20)
    with pytest.raises(LogError, match="row 2: longer than 64 MB"):
        load_logs([file])


CERTIFICATE = {
    "equal": {"recipe": "ab" * 32, "images": {"a": 1}}, "varies": {"tokens": "why"}, "confounds": ["c"],
    "backbones": {"b": {"stages": {"align": {"tokens": 3, "digits": ["1", "2"]}}}, "c": {"stages": {}}},
}  # fmt: skip


@fuzz(content=written(spoilt([CERTIFICATE])))
def test_certificates(out: Path, content: bytes) -> None:
    (out / "certificate.json").write_bytes(content)
    with lawful(out):
        found = read_certificate(out)
        assert found is not None
        assert all(isinstance(line.name, str) for line in found.equal + found.varies)


COLUMNS = ["architecture", "backbone", "checkpoint", "benchmark", "value", "metric", "unit", "higher_is_better",
           "worst", "best", "n", "source"]  # fmt: skip
TABLE = [COLUMNS, ["LLaVA", "Vicuna", "v1.5", "GQA", "62.0", "acc", "percent", "true", "0", "100", "500", "paper"],
         ["LLaVA", "Llama", "v1.5", "GQA", "63.0", "acc", "percent", "true", "0", "100", "500", "paper"]]  # fmt: skip
RESULTS = {
    "results": {"gqa": {"alias": "gqa", "exact_match,none": 0.6, "exact_match_stderr,none": 0.01, "n": 5}},
    "configs": {"gqa": {"metric_list": [{"metric": "exact_match", "higher_is_better": True}]}},
    "n-samples": {"gqa": {"original": 9, "effective": 5}}, "model_name": "m", "date": "20260101_000000",
    "higher_is_better": {"gqa": {"exact_match": True}}, "config": {"model": "m", "model_args": "a=b"},
}  # fmt: skip


def as_csv(table: Any) -> bytes:
    rows = table if isinstance(table, list) else [table]
    lines = [",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@fuzz(
    table=written(spoilt([TABLE]), as_csv),
    results=written(spoilt([RESULTS])),
)
def test_tables_and_results_of_the_leaderboard(out: Path, table: bytes, results: bytes) -> None:
    folder = out / "board" / "m"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "20260101_000000_results.json").write_bytes(results)
    (out / "table.csv").write_bytes(table)
    with lawful(out):
        read_standing([str(out / "table.csv")], bootstrap=100)
    with lawful(out):
        read_standing([str(out / "board")], bootstrap=100)


def test_the_good_inputs_are_good(out: Path) -> None:
    """Spoiling nothing must succeed, else the fuzzers would test a refusal alone."""
    folder = out / "good" / "run"
    folder.mkdir(parents=True)
    (folder / "samples_t.jsonl").write_bytes(b"\n".join(map(as_json, ROWS)))
    (out / "certificate.json").write_bytes(as_json(CERTIFICATE))
    assert load_logs([folder]).samples.height == len(ROWS)
    assert read_certificate(out) is not None
    (out / "good.csv").write_bytes(as_csv(TABLE))
    (folder / "20260101_000000_results.json").write_text(json.dumps(RESULTS))
    assert len(read_standing([str(out / "good.csv")], bootstrap=100).entries) == 2
    assert len(read_standing([str(folder / "20260101_000000_results.json")], bootstrap=100).entries) == 1
