"""Answers, log-probabilities and option scores against plain transformers, whatever the batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import Instance
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vlm_backbones.errors import CheckpointError, ConfigError, DataError
from vlm_backbones.model_wrappers._flight import Flight
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual
from vlm_backbones.tasks.vqa_scene.utils import doc_to_text

SETTINGS = {"max_new_tokens": 12, "until": ["\n\n"], "score_options": "options"}


def build(checkpoint: Path, rows: Any, batch_size: int = 16, **arguments: Any) -> BackboneVLM:
    model = BackboneVLM(pretrained=str(checkpoint), batch_size=batch_size, device="cpu", **arguments)
    model.task_dict = {"vqa_scene": {"test": rows}}
    return model


def instance(context: str, settings: Any, visual: Any, doc_id: int, kind: str = "generate_until") -> Instance:
    arguments = (context, settings, visual, doc_id, "vqa_scene", "test")
    metadata = {"task": "vqa_scene", "doc_id": doc_id, "repeats": 1}
    return Instance(request_type=kind, arguments=arguments, idx=0, metadata=metadata)


def ask(model: BackboneVLM, rows: Any, order: Any = None, settings: Any = SETTINGS) -> list[Any]:
    """Return the responses in the order of the rows, asked in another order where one is given."""
    order = list(order or range(len(rows)))
    requests = [instance(doc_to_text(rows[i]), dict(settings), doc_to_visual, i) for i in order]
    answers = dict(zip(order, model.generate_until(requests), strict=True))
    return [answers[index] for index in sorted(answers)]


def assert_same(first: list[Any], second: list[Any]) -> None:
    for (text_a, counts_a), (text_b, counts_b) in zip(first, second, strict=True):
        a, b = counts_a["reasoning_tokens"], counts_b["reasoning_tokens"]
        assert text_a == text_b
        assert (a["doc_key"], a["token_count"], a["truncated"]) == (b["doc_key"], b["token_count"], b["truncated"])
        assert a["logprob"] == pytest.approx(b["logprob"], abs=1e-4)
        assert (a["option_logprobs"] or {}) == pytest.approx(b["option_logprobs"] or {}, abs=1e-4)


def test_answers_do_not_depend_on_batch_size_or_order(checkpoint: Path, scene_rows: Any) -> None:
    single = ask(build(checkpoint, scene_rows, 1), scene_rows)
    assert len({text for text, _ in single}) > len(single) // 2
    counts = [row["reasoning_tokens"]["token_count"] for _, row in single]
    assert min(counts) < max(counts)  # rows leave the batch at different steps
    assert_same(single, ask(build(checkpoint, scene_rows, 16), scene_rows))
    assert_same(single, ask(build(checkpoint, scene_rows, 7), scene_rows, reversed(range(len(scene_rows)))))


def test_an_answer_among_the_options_is_read_off_their_pass(
    checkpoint: Path, scene_rows: Any, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    threads(1)  # a forked process would count for itself
    settings = {name: value for name, value in SETTINGS.items() if name != "score_options"}
    model = build(checkpoint, scene_rows)
    plain = ask(model, scene_rows, settings=settings)
    ended = [i for i, (_, counts) in enumerate(plain) if not counts["reasoning_tokens"]["truncated"]]
    kept = [i for i in ended if plain[i][0].isascii() and plain[i][0].isprintable() and plain[i][0].strip()]
    assert len(kept) >= 3
    rows = scene_rows.select(kept)
    options = [["another", plain[i][0]] for i in kept]
    rows = rows.remove_columns("options").add_column("options", options)
    steps: list[int] = []
    step = Flight.step

    def counted(flight: Flight[Any]) -> Any:
        steps.append(len(flight))
        return step(flight)

    monkeypatch.setattr(Flight, "step", counted)
    drafted = ask(build(checkpoint, rows), rows)
    assert not steps  # no pass of one new token a row
    for index, (text, counts) in zip(kept, drafted, strict=True):
        before, after = plain[index][1]["reasoning_tokens"], counts["reasoning_tokens"]
        assert (text, after["token_count"], after["truncated"]) == (plain[index][0], before["token_count"], False)
        assert after["logprob"] == pytest.approx(before["logprob"], abs=1e-4)
        assert after["option_logprobs"][text] == pytest.approx(after["logprob"], abs=1e-4)
    assert_same(plain, [(text, counts | {"reasoning_tokens": counts["reasoning_tokens"] | {"option_logprobs": None}})
                        for text, counts in ask(model, scene_rows)])  # fmt: skip
    assert steps  # answers beside the options are generated


def test_answers_and_logprobs_equal_plain_transformers(checkpoint: Path, scene_rows: Any) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    ours = ask(build(checkpoint, scene_rows), scene_rows)
    for row, (text, counts) in list(zip(scene_rows, ours, strict=True))[:6]:
        prompt = f"<s>USER: <image>\n{doc_to_text(row)} ASSISTANT: "
        inputs = processor(images=row["image"], text=prompt, add_special_tokens=False, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, length:]
        assert counts["input_tokens"] == length
        assert processor.tokenizer.decode(answer, skip_special_tokens=True).strip() == text
        assert counts["reasoning_tokens"]["logprob"] == pytest.approx(logprob(model, inputs, answer), abs=1e-4)
        for option, value in (counts["reasoning_tokens"]["option_logprobs"] or {}).items():
            ids = torch.tensor([*processor.tokenizer(option, add_special_tokens=False)["input_ids"], 2])
            assert value == pytest.approx(logprob(model, inputs, ids), abs=1e-4)


@pytest.mark.parametrize("own_pass", [False, True])
def test_an_answer_that_begins_as_an_option_and_leaves_it_is_the_one_of_transformers(
    checkpoint: Path, scene_rows: Any, monkeypatch: pytest.MonkeyPatch, own_pass: bool
) -> None:
    """As `A. cat` leaves the option `A`: after one of its tokens, after two, after three."""
    if own_pass:
        monkeypatch.setattr("vlm_backbones.model_wrappers._backbone.LEAN_PARAMETERS", 0)
    rows = scene_rows.select(range(12))
    settings = {"max_new_tokens": 12}
    generated = generate(checkpoint, rows)
    for shared in (1, 2, 3):
        beginnings = [text[:shared] if text[:shared].isascii() and text.isprintable() else "Q" for text in generated]
        assert len(beginnings) - beginnings.count("Q") >= 4
        asked = rows.remove_columns("options").add_column("options", [[text, f"{text}~zz"] for text in beginnings])
        for batch_size in (1, 16):
            found = ask(build(checkpoint, asked, batch_size), asked, settings=settings | {"score_options": "options"})
            assert [text for text, _ in found] == generated


def generate(checkpoint: Path, rows: Any) -> list[str]:
    """Return the greedy answers of transformers' own `generate`, one by one."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    texts = []
    for row in rows:
        prompt = f"<s>USER: <image>\n{doc_to_text(row)} ASSISTANT: "
        inputs = processor(images=row["image"], text=prompt, add_special_tokens=False, return_tensors="pt")
        answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        texts.append(processor.tokenizer.decode(answer, skip_special_tokens=True).strip())
    return texts


@torch.inference_mode()
def logprob(model: Any, inputs: Any, answer: torch.Tensor) -> float:
    """Return the summed log-probability of the answer's tokens by one plain forward pass."""
    ids = torch.cat([inputs["input_ids"], answer[None]], dim=1)
    logits = model(input_ids=ids, pixel_values=inputs["pixel_values"], attention_mask=torch.ones_like(ids)).logits
    table = logits[0, inputs["input_ids"].shape[1] - 1 : -1].log_softmax(-1)
    return float(table.gather(1, answer[:, None]).sum())


def test_record_has_options_where_the_row_has_and_marks_truncation(checkpoint: Path, scene_rows: Any) -> None:
    for row, (_, counts) in zip(scene_rows, ask(build(checkpoint, scene_rows), scene_rows), strict=True):
        extras = counts["reasoning_tokens"]
        assert list(extras["option_logprobs"] or {}) == row["options"]
        assert extras["token_count"] == 12 or not extras["truncated"]
        assert extras["cluster"] == extras["image_key"]
        assert extras["condition"] == "clean"
        assert counts["output_tokens"] == extras["token_count"]


def test_stop_strings_cut_the_answer(checkpoint: Path, scene_rows: Any) -> None:
    free = ask(build(checkpoint, scene_rows), scene_rows, settings={"max_new_tokens": 12, "until": []})
    text = next(text for text, counts in free if len(text) > 6 and "\ufffd" not in text[:4])
    stop = text[2]
    stopped = ask(build(checkpoint, scene_rows), scene_rows, settings={"max_new_tokens": 12, "until": [stop]})
    for (whole, before), (cut, after) in zip(free, stopped, strict=True):
        assert cut == whole.split(stop)[0].strip()
        assert after["output_tokens"] <= before["output_tokens"]


def test_settings_of_lmms_eval_are_not_changed(checkpoint: Path, scene_rows: Any) -> None:
    request = instance(doc_to_text(scene_rows[0]), dict(SETTINGS), doc_to_visual, 0)
    build(checkpoint, scene_rows).generate_until([request])
    assert request.args[1] == SETTINGS


def test_settings_that_are_not_greedy_are_named_once(
    checkpoint: Path, scene_rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(**settings: Any) -> str:
        requests = [instance("?", {"max_new_tokens": 1, **settings}, doc_to_visual, row) for row in (0, 1)]
        model.generate_until(requests)
        return "".join(line for line in capsys.readouterr().out.splitlines() if "greedily" in line)

    model = build(checkpoint, scene_rows)
    assert said(temperature=0.0, do_sample=False, num_beams=1, top_p=1.0, repetition_penalty=None) == ""
    assert said(temperature=0, do_sample=True) == ""  # lmms-eval's own models are greedy too
    line = said(temperature=0.2, do_sample=True, num_beams=4)
    assert line.startswith("backbone_vlm: task 'vqa_scene' asks for temperature: 0.2, do_sample: True, num_beams: 4;")
    assert line.count("greedily") == 1
    with pytest.raises(ConfigError, match=r"task 'vqa_scene' has max_new_tokens: 0; expected .* 1 or more"):
        said(max_new_tokens=0)


def test_text_only_and_two_images(checkpoint: Path, scene_rows: Any) -> None:
    def two(row: Any) -> list[Any]:
        return [row["image"], row["image"].rotate(90)]

    settings = {"max_new_tokens": 6}
    requests = [
        instance("No picture here?", settings, lambda row: [], 0),
        instance("Which is turned?", settings, two, 1),
        instance("First <image> then <image>?", settings, two, 2),
    ]
    text_only, pair, placed = build(checkpoint, scene_rows).generate_until(requests)
    alone = build(checkpoint, scene_rows, 1).generate_until(requests[:1])[0]
    assert text_only[0] == alone[0]  # no image of a neighbour leaks in
    extras = text_only[1]["reasoning_tokens"]
    assert extras["image_key"] is None
    assert extras["cluster"] == extras["doc_key"]
    # One token a byte, one for the start, and five and a line break an image.
    assert pair[1]["input_tokens"] == len("USER: Which is turned? ASSISTANT: ") + 1 + 2 * (5 + 1)
    assert placed[1]["reasoning_tokens"]["image_key"] is not None


def test_a_prompt_may_end_in_a_picture_that_others_share(
    checkpoint: Path, scene_rows: Any, tmp_path: Path, threads: Callable[[int], None]
) -> None:
    threads(1)
    place = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    parts = "{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}"
    template = f"{{% for m in messages %}}{parts}{{% endfor %}}"
    (place / "chat_template.jinja").write_text(template, encoding="utf-8")
    requests = [instance("Colour? <image>", {"max_new_tokens": 6}, doc_to_visual, row // 4) for row in range(8)]
    together, alone = (build(place, scene_rows, size).generate_until(requests) for size in (8, 1))
    assert_same(alone, together)


def test_loglikelihood_is_the_sum_without_end_of_turn(checkpoint: Path, scene_rows: Any) -> None:
    model = build(checkpoint, scene_rows)
    context = doc_to_text(scene_rows[1])
    options = ask(model, scene_rows)[1][1]["reasoning_tokens"]["option_logprobs"]
    ((value, greedy),) = build(checkpoint, scene_rows).loglikelihood(
        [instance(context, " red", doc_to_visual, 1, "loglikelihood")]
    )
    assert value > options["red"]  # the end of turn costs more
    assert greedy is False
    text, _ = ask(build(checkpoint, scene_rows), scene_rows, settings={"max_new_tokens": 1})[1]
    if text.isascii() and text:
        ((_, greedy),) = model.loglikelihood([instance(context, text, doc_to_visual, 1, "loglikelihood")])
        assert greedy is True


def test_a_continuation_of_no_tokens_has_probability_1(checkpoint: Path, scene_rows: Any) -> None:
    """The sum over no tokens is 0, and nothing contradicts the greedy answer; its neighbours keep their scores."""
    model = build(checkpoint, scene_rows)

    def scores(*texts: str) -> list[tuple[float, bool]]:
        return model.loglikelihood([instance("?", text, doc_to_visual, 0, "loglikelihood") for text in texts])

    red, blue = scores("red", "blue")
    assert scores("", " ") == [(0.0, True), (0.0, True)]
    found = scores("red", "", "blue", "")
    assert [greedy for _, greedy in found] == [red[1], True, blue[1], True]
    assert [value for value, _ in found] == pytest.approx([red[0], 0.0, blue[0], 0.0], abs=1e-5)


def test_bad_requests_raise_and_name_the_row(checkpoint: Path, scene_rows: Any) -> None:
    model = build(checkpoint, scene_rows)
    with pytest.raises(DataError, match=r"row 3.*image"):
        model.generate_until([instance("An <image> in the <image> text", {}, doc_to_visual, 3)])
    with pytest.raises(DataError, match="row 2: prompt and answer need"):
        model.generate_until([instance("long " * 200, {}, doc_to_visual, 2)])
    with pytest.raises(DataError, match=r"row 1.*broken"):
        model.generate_until([instance("?", {}, broken_visual, 1)])
    with pytest.raises(ConfigError, match="no such column"):
        model.generate_until([instance("?", {"score_options": "choices"}, doc_to_visual, 1)])
    with pytest.raises(ConfigError, match="one round"):
        model.generate_until_multi_round([])


def test_weights_that_give_no_numbers_are_refused_by_name(checkpoint: Path, scene_rows: Any) -> None:
    model = build(checkpoint, scene_rows)
    assert model.engine is not None
    model.engine.model.lm_head.weight.data[5] = float("nan")
    message = rf"row 0: {checkpoint}: the weights give no numbers \(NaN\) in torch.float32.*make the checkpoint again"
    with pytest.raises(CheckpointError, match=message):
        model.generate_until([instance("?", {"max_new_tokens": 3}, doc_to_visual, 0)])
    with pytest.raises(CheckpointError, match=message):
        model.loglikelihood([instance("?", "red", doc_to_visual, 0, "loglikelihood")])


def broken_visual(row: Any) -> Any:
    raise OSError("broken PNG")


def test_arguments_are_checked(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="Did you mean 'pretrained'"):
        BackboneVLM(pretraind=str(checkpoint))
    with pytest.raises(ConfigError, match="Did you mean 'jpeg40'"):
        BackboneVLM(pretrained=str(checkpoint), condition="jpeg50")
    with pytest.raises(ConfigError, match=r"batch_size 'many' is no .*auto"):
        BackboneVLM(pretrained=str(checkpoint), batch_size="many")
    with pytest.raises(ConfigError, match="vlm-backbones study run"):
        BackboneVLM()
    model = BackboneVLM.create_from_arg_string(
        f"pretrained={checkpoint.parent},batch_size=3", {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    )
    assert model.batch_size == 3


def test_last_study_is_used_and_printed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlm_backbones.cache import write_last_study

    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path))
    write_last_study(tmp_path, "pocket-llama-3", checkpoint, "a short one")
    assert BackboneVLM().engine is not None
    printed = capsys.readouterr().out
    assert f"using pocket-llama-3 of the last study (a short one): {checkpoint}" in printed
    assert "pretrained=DIR takes another" in printed
