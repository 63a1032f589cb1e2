"""The judge: the published prompt, lmms-eval's real provider against a local server, and grading from files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from vlm_backbones.done_files import damaged_files
from vlm_backbones.errors import LogError
from vlm_backbones.hashes import file_sha256, sealed_json
from vlm_backbones.tasks import judge
from vlm_backbones.tasks.judge_files import read_grades, write_questions
from vlm_backbones.tasks.judged import judged_result
from vlm_backbones.tasks.vip_bench_bbox.utils import process_results

DOC = {"question_id": "v1_0", "question": "What is it?", "answer": "5<AND>7", "capability": ["rec", "ocr"]}


class Server:
    """An OpenAI-compatible server that answers from a list and keeps the requests."""

    def __init__(self) -> None:
        self.replies: list[str] = []
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                message = {"role": "assistant", "content": outer.replies.pop(0)}
                body = {
                    "id": "x", "object": "chat.completion", "created": 0, "model": "gpt-4-0613",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                }  # fmt: skip
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_API_URL", f"http://127.0.0.1:{made.server.server_port}/v1")
    monkeypatch.setenv("API_TYPE", "openai")
    monkeypatch.delenv("MODEL_VERSION", raising=False)
    judge._judge.cache_clear()
    yield made
    made.server.shutdown()
    made.server.server_close()
    judge._judge.cache_clear()


@pytest.fixture
def no_judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("API_TYPE", "openai")
    judge._judge.cache_clear()
    yield
    judge._judge.cache_clear()


def test_the_published_prompt() -> None:
    lines = judge.judge_prompt("What is it?", "5<AND>7<OR>8", "five").split("\n")
    assert lines[0].startswith("Compare the ground truth and prediction from AI models, to give a correctness score")
    assert lines[1:4] == ["", "Question | Ground truth | Prediction | Correctness", "--- | --- | --- | ---"]
    marks = [line.split(" rectangle?")[0].split()[-1] for line in lines[4:11]]
    assert marks == ["yellow", "yellow", "yellow", "red", "orange", "blue", "blue"]
    assert lines[4] == "What is x in the equation within the yellow rectangle? | -1 <AND> -5 | x = 3 | 0.0"
    assert lines[11:] == ["", "What is it? | 5 <AND> 7 <OR> 8 | five | "]


def test_mm_vet_is_graded_by_its_own_rows() -> None:
    lines = judge.judge_prompt("What is it?", "5<AND>7", "five", "mm_vet").split("\n")
    assert lines[4] == "What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0"
    assert not any("rectangle" in line for line in lines)
    assert lines[11:] == ["", "What is it? | 5 <AND> 7 | five | "]


def test_the_real_provider_is_asked_as_the_published_evaluator_asks(server: Server) -> None:
    server.replies = ["0.7"]
    result = process_results(DOC, ["5 and 7"])
    assert result["judge_score"] == result["judge_score_rec"] == result["judge_score_ocr"] == 0.7
    assert "judge_score_math" not in result
    assert result["backbones"]["judged"]["judge"] == "gpt-4-0613"
    (request,) = server.requests
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("gpt-4-0613", 0.0, 3)
    assert request["messages"][0]["content"] == judge.judge_prompt("What is it?", "5<AND>7", "5 and 7")


def test_an_answer_that_is_no_grade_is_asked_for_again_and_never_counts_as_zero(server: Server) -> None:
    server.replies = ["Correct", "2.0", "0.5 partly"]
    assert judge.ask_judge("q", "a", "p") == 0.5
    assert [request["temperature"] for request in server.requests] == [0.0, 0.5, 1.0]
    assert server.requests[1]["messages"][0]["content"].endswith("\nPredict the correctness of the answer (digit): ")
    server.replies = ["no"] * 6
    result = process_results(DOC, ["5"])
    assert len(server.requests) == 9
    assert result["judge_score"] is None
    assert result["backbones"]["score"] is None


@pytest.mark.usefixtures("no_judge")
def test_a_log_of_mm_vet_is_graded_from_a_file_with_its_own_prompt(tmp_path: Path) -> None:
    doc = {"question_id": "v1_0", "question": "What is it?", "answer": "5", "capability": "ocr,spat"}
    result = judged_result(doc, ["five"], "mm_vet")
    assert result["judge_score_spat"] is None
    row = {"doc_id": 0, "target": "5", "filtered_resps": ["five"], **result}
    path = tmp_path / "logs" / "20260101_000000_samples_mmvet_study.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(row) + "\n")
    assert write_questions(tmp_path / "logs", tmp_path / "out") == 1
    (question,) = (json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines())
    assert question["prompt"] == judge.judge_prompt("What is it?", "5", "five", "mm_vet")
    (tmp_path / "grades.jsonl").write_text(json.dumps({"key": question["key"], "grade": 0.4}))
    assert read_grades(tmp_path / "logs", tmp_path / "grades.jsonl").graded == 1
    graded = json.loads(path.read_text())
    assert graded["judge_score"] == graded["judge_score_ocr"] == graded["judge_score_spat"] == 0.4


@pytest.mark.usefixtures("no_judge")
def test_without_a_judge_there_is_no_score() -> None:
    result = process_results(DOC, ["5"])
    assert result["judge_score"] is None
    assert result["backbones"]["question_type"] == "ocr+rec"
    assert json.loads(json.dumps(result, allow_nan=False))["backbones"]["judged"]["question_id"] == "v1_0"


def test_a_server_that_is_not_there_leaves_answers_ungraded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.server.shutdown()
    server.server.server_close()
    with pytest.warns(UserWarning, match="stays ungraded"):
        assert judge.ask_judge("q", "a", "p") is None


@pytest.mark.parametrize(("text", "grade"), [("0.7", 0.7), (" 1.0\n", 1.0), ("0", 0.0), ("1.1", None), ("", None),
                                             ("nan", None), ("-0.1", None), (None, None), (0.3, 0.3)])  # fmt: skip
def test_parsing_grades(text: object, grade: float | None) -> None:
    assert judge.parse_grade(text) == grade


def write_log(folder: Path, answers: list[str]) -> Path:
    folder.mkdir(parents=True)
    path = folder / "20260101_000000_samples_vip_bench_bbox.jsonl"
    with path.open("w") as lines:
        for place, answer in enumerate(answers):
            doc = {**DOC, "question_id": f"v1_{place}"}
            row = {
                "doc_id": place,
                "target": doc["answer"],
                "filtered_resps": [answer],
                **process_results(doc, [answer]),
            }
            lines.write(json.dumps(row) + "\n")
    results = {"results": {"vip_bench_bbox": {"alias": "x", "judge_score,none": float("nan")}}, "configs": {}}
    path.with_name("20260101_000000_results.json").write_text(json.dumps(results))
    return path


@pytest.mark.usefixtures("no_judge")
def test_answers_are_graded_from_a_file(tmp_path: Path) -> None:
    path = write_log(tmp_path / "logs" / "run", ["5", "7", "5"])
    assert write_questions(tmp_path / "logs", tmp_path / "out") == 2  # equal answers are one question
    rows = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    assert all(row["prompt"] == judge.judge_prompt("What is it?", "5<AND>7", said) for row, said in zip(rows, "57"))  # noqa: B905
    submission = json.loads((tmp_path / "out" / "submission-run-vip_bench_bbox.json").read_text())
    assert submission == {"v1_0": "5", "v1_1": "7", "v1_2": "5"}
    grades = tmp_path / "grades.jsonl"
    grades.write_text(json.dumps({"key": rows[0]["key"], "grade": "0.5 half"}) + '\n{"key": "other", "grade": 1}\n')
    counts = read_grades(tmp_path / "logs", grades)
    assert (counts.graded, counts.ungraded, counts.unused) == (2, 1, 1)
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert [sample["judge_score"] for sample in samples] == [0.5, None, 0.5]
    assert samples[0]["backbones"]["rungs"] == {"rec": 0.5, "ocr": 0.5}
    assert [sample["backbones"]["judged"]["judge"] for sample in samples] == ["grades.jsonl", None, "grades.jsonl"]
    results = json.loads(path.with_name("20260101_000000_results.json").read_text())
    assert results["results"]["vip_bench_bbox"]["judge_score,none"] == 0.5  # the mean of the graded, not of three


@pytest.mark.usefixtures("no_judge")
def test_a_finished_condition_knows_what_the_grades_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_log(tmp_path / "run" / "logs" / "clean" / "model", ["5"])
    done, results = tmp_path / "run" / "logs" / "clean" / "done.json", path.with_name("20260101_000000_results.json")
    row = {"samples": f"model/{path.name}", "sha256": file_sha256(path)}
    row |= {"files": {f"logs/clean/model/{results.name}": file_sha256(results)}}
    done.write_text(sealed_json({"tasks": {"vip_bench_bbox": row}}))
    write_questions(tmp_path / "run", tmp_path / "out")
    key = json.loads((tmp_path / "out" / "questions.jsonl").read_text())["key"]
    (tmp_path / "grades.jsonl").write_text(json.dumps({"key": key, "grade": 1}))
    before = file_sha256(path), file_sha256(results)
    monkeypatch.chdir(tmp_path / "run" / "logs")
    read_grades(Path("clean"), tmp_path / "grades.jsonl")
    assert not set(before) & {file_sha256(path), file_sha256(results)}
    assert damaged_files(done) == {}

    damaged = path.read_bytes().replace(b"5", b"6", 1)
    path.write_bytes(damaged)
    with pytest.raises(LogError, match=r"_samples_vip_bench_bbox\.jsonl is not the file that the evaluation wrote"):
        read_grades(Path("clean"), tmp_path / "grades.jsonl")
    assert path.read_bytes() == damaged


@pytest.mark.usefixtures("no_judge")
def test_bad_grades_are_named(tmp_path: Path) -> None:
    write_log(tmp_path / "logs" / "run", ["5"])
    grades = tmp_path / "grades.jsonl"
    for text, message in [
        ('{"key": "a"}', "line 1: expected an object with key and grade"),
        ('{"key": "a", "grade": 7}', "the grade 7 is outside 0 to 1"),
        ('{"key": "a", "grade": 1}\n{"key": "a", "grade": 0}', "line 2: key a has two different grades"),
        ('{"key": "a", "grade": 1}', "no grade of .* belongs to the answers"),
    ]:
        grades.write_text(text)
        with pytest.raises(LogError, match=message):
            read_grades(tmp_path / "logs", grades)
    with pytest.raises(LogError, match="holds no logged samples that a judge grades"):
        write_questions(tmp_path / "nowhere", tmp_path / "out")
