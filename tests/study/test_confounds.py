"""The gallery of docs/certificate.md: what would make a comparison unfair, made for real, and where it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlm_backbones._check_display import render_check
from vlm_backbones._label_facts import around_difference
from vlm_backbones._study_loading import package_folder
from vlm_backbones.control import check_study
from vlm_backbones.errors import CheckpointError, ConfigError, DataError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.study import load_study
from vlm_backbones.vlm import compose


def variant(tiny_study: Path, folder: Path, change: Callable[[str], str]) -> str:
    """Copy tiny-2 with another chat template, and return the override that puts it into the study."""
    copy = folder / "variant"
    shutil.copytree(tiny_study.parent / "tiny-2", copy)
    template = copy / "chat_template.jinja"
    changed = change(template.read_text(encoding="utf-8"))
    assert changed != template.read_text(encoding="utf-8")
    template.write_text(changed, encoding="utf-8")
    return f"backbones=[{tiny_study.parent / 'tiny-1'},{copy}]"


def confounds(study: Path, out: Path, *overrides: str) -> list[str]:
    return [str(problem) for problem in check_study(load_study(study, overrides), out)["confounds"]]


def rows(folder: Path, *turns: tuple[str, str]) -> list[str]:
    """Write conversations without pictures, and return the overrides that train on them alone."""
    said = [[{"from": "human", "value": ask}, {"from": "gpt", "value": answer}] for ask, answer in turns]
    (folder / "rows.json").write_text(json.dumps([{"conversations": talk} for talk in said]), encoding="utf-8")
    return [f"data.finetune=[{folder / 'rows.json'}]", "recipe.align=null"]


def test_a_mask_that_leaks_the_question(tiny_study: Path, tmp_path: Path) -> None:
    """The generation mark opens before the question, which would be learnt as if it were an answer."""

    def leak(template: str) -> str:
        return template.replace("[Q] {% for", "[Q] {% generation %}{% for").replace(
            "{% endfor %} [A]", "{% endfor %}{% endgeneration %} [A]"
        )

    with pytest.raises(DataError) as caught:
        confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, leak))
    assert "the labels of variant decode to '" in str(caught.value)
    assert "What colour is it 0?" in str(caught.value)
    assert "does not mark answers rightly" in str(caught.value)


def test_a_prompt_that_holds_its_answer(tiny_study: Path, tmp_path: Path) -> None:
    """Training would read the answer off the question; an evaluation has none to show."""

    def leak(template: str) -> str:
        return template.replace("[A]", "({{ messages[1]['content'][0]['text'] if messages | length > 1 }}) [A]")

    (found,) = confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, leak))
    assert "variant is trained with the prompt '<s>[Q] <image>\\nWhat is shown? (A star.) [A]" in found
    assert "and evaluated with '<s>[Q] <image>\\nWhat is shown? () [A]" in found


def test_another_prompt_in_evaluation_than_in_training(tiny_study: Path, tmp_path: Path) -> None:
    def hint(template: str) -> str:
        return template + "{% if add_generation_prompt %} Think first.{% endif %}"

    (found,) = confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, hint))
    assert "and evaluated with" in found
    assert "Think first." in found


HINT = "{% if WHEN %}Look closely. {% endif %} [A]"
WHENS = {
    "alone": "messages|length == 1 and 'colour' in messages[0]['content'][-1]['text']",
    "odd": "messages|length == 1 and messages[0]['content'][-1]['text']|length % 2",
}


@pytest.mark.parametrize("when", WHENS.values(), ids=WHENS)
def test_a_hint_for_some_questions_in_evaluation(tiny_study: Path, tmp_path: Path, when: str) -> None:
    override = variant(tiny_study, tmp_path, lambda template: template.replace(" [A]", HINT.replace("WHEN", when)))
    (found,) = confounds(tiny_study, tmp_path / "out", override)
    assert "variant is trained with the prompt" in found
    assert " row " in found.split(":")[0] or "/test:" in found
    assert "Look closely." in found


def test_a_hint_for_some_questions_in_training_too(tiny_study: Path, tmp_path: Path) -> None:
    hint = HINT.replace("WHEN", "'colour is it 1' in messages[0]['content'][-1]['text']")
    override = variant(tiny_study, tmp_path, lambda template: template.replace(" [A]", hint))
    (found,) = confounds(tiny_study, tmp_path / "out", override)
    assert "row 1: variant is asked '<s>[Q] <image>\\nWhat colour is it 1?\\nAnswer briefly.Look closely.  [A]" in found
    assert "other questions as '<s>[Q] <image>\\nWhat is shown? [A]" in found


def test_a_template_that_trims_questions_is_innocent(tiny_study: Path, tmp_path: Path) -> None:
    override = variant(tiny_study, tmp_path, lambda template: template.replace("c['text'] }}", "c['text'] | trim }}"))
    data = rows(tmp_path, (" What colour? ", "red"), ("What is shown?", "a dot"), ("What is shown? Say it.", "a dot"))
    assert confounds(tiny_study, tmp_path / "out", override, *data) == []


def test_a_template_that_writes_the_date(tiny_study: Path, tmp_path: Path) -> None:
    def dated(template: str) -> str:
        return template.replace("[Q] ", "[Q] {% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}")

    with pytest.raises(ConfigError, match=r"asks for the date .strftime_now.: .* Write a fixed date there"):
        confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, dated))


@pytest.mark.parametrize("extra", ["{{ eos_token }}{{ bos_token }}{{ eos_token }}", "{{ bos_token }}"])
def test_more_than_the_end_of_turn_is_taught(tiny_study: Path, tmp_path: Path, extra: str) -> None:
    override = variant(tiny_study, tmp_path, lambda text: text.replace("{{ eos_token }}", "{{ eos_token }}" + extra))
    found = confounds(tiny_study, tmp_path / "out", override)
    assert [problem.split(": ")[0] for problem in found] == ["align", "finetune"]
    assert "row 0: variant is taught '</s>" in found[0]
    assert "behind 1 answer. The chat template must mark an answer and one end of turn" in found[0]


def test_an_end_of_turn_for_some_answers_only(tiny_study: Path, tmp_path: Path) -> None:
    def some(template: str) -> str:
        return template.replace(
            "{{ eos_token }}", "{% if m['content'][0]['text'] != 'blue' %}{{ eos_token }}{% endif %}"
        )

    found = confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, some), "recipe.align=null")
    assert "row 1: variant is taught '' behind 1 answer." in found[0]


def test_the_same_answers_cut_at_other_words(tiny_study: Path, tmp_path: Path) -> None:
    """tiny-1 splits numbers into digits, tiny-2 does not: both cut the row, and keep other parts of it."""
    data = rows(tmp_path, ("What?", "36.1 142.9 " * 40), ("What?", "red"))
    short = "recipe.finetune.max_length_tokens=60"
    (found,) = confounds(tiny_study, tmp_path / "out", *data, short)
    assert found.startswith(
        "finetune: tiny-2 cuts 1 answers, tiny-1 cuts 1, elsewhere in them: raise max_length_tokens."
    )
    leave_out = f"data.leave_out={tmp_path / 'out' / 'leave_out.txt'}"
    assert found.endswith(f"--set {leave_out}")
    assert confounds(tiny_study, tmp_path / "out", *data, short, leave_out) == []
    # without digits the two read alike, and cut alike
    assert confounds(tiny_study, tmp_path / "out", *rows(tmp_path, ("What?", "What colour? " * 90)), short) == []


def with_token(folder: Path, word: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([word], special_tokens=True)
    tokenizer.save_pretrained(folder)


def test_a_question_that_one_tokenizer_reads_as_a_special_token(tiny_study: Path, tmp_path: Path) -> None:
    override = variant(tiny_study, tmp_path, lambda template: template + "{# #}")
    with_token(tmp_path / "variant", "<|im_start|>")
    turns = [("What?", "red"), ("What is <|im_start|> and <s>?", "red"), ("see </s> here", "red")]
    data = rows(tmp_path, *turns, ("<|im_start|>?", "red"))
    *_, found = confounds(tiny_study, tmp_path / "out", override, *data)
    assert found.startswith(f"{tmp_path}/rows.json row 1: variant reads '<s>', '<|im_start|>' in its text as special")
    assert "special tokens, tiny-1 reads '<s>' (1 more such row): write the text otherwise." in found
    leave_out = f"data.leave_out={tmp_path / 'out' / 'leave_out.txt'}"
    assert found.endswith(f"--set {leave_out}")
    # what both read alike, as </s>, is no difference
    assert confounds(tiny_study, tmp_path / "out", override, *data, leave_out) == []


def test_a_test_question_that_one_tokenizer_reads_as_a_special_token(tiny_study: Path, tmp_path: Path) -> None:
    override = variant(tiny_study, tmp_path, lambda template: template + "{# #}")
    with_token(tmp_path / "variant", "it 1?")
    data = rows(tmp_path, ("What?", "red"))
    (found,) = confounds(tiny_study, tmp_path / "out", override, *data)
    assert "vqa_scene/test row 1: variant reads 'it 1?' in its text as special tokens, tiny-1 reads nothing" in found
    assert "(5 more such rows)" in found
    assert "leave_out" not in found


def test_a_test_question_that_leaves_a_context_no_room_for_its_answer(tiny_study: Path, tmp_path: Path) -> None:
    """48 tokens of coordinates behind the longest prompt: one backbone's context is a token too short for them."""
    copy = Path(shutil.copytree(tiny_study.parent / "tiny-2", tmp_path / "variant"))
    asked = 81  # the prompt of coordinates, 17 of the image's among them
    data = rows(tmp_path, ("What?", "red"))
    backbones = f"backbones=[{tiny_study.parent / 'tiny-1'},{copy}]"
    tasks = "tasks=[vqa_scene,seismic_coords]"
    config = json.loads((copy / "config.json").read_text())
    for context, expected in ((asked + 48, 0), (asked + 47, 1)):
        (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
        found = confounds(tiny_study, tmp_path / str(context), backbones, tasks, *data)
        assert len(found) == expected
    said = (
        "seismic_coords/test: a prompt of 81 tokens and an answer of up to 48 do not fit the context of variant (128 "
    )
    assert said in found[0]


INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + ']\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] | map(attribute='text') | join | trim }}{{ eos_token }}{% endgeneration %}{% else %}"
    "{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] | trim }}{% endfor %}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
PACKAGED = ["shared", "vicuna_v1", "llava_v1", "llava_llama_2"]


@pytest.mark.parametrize("chat_format", [*PACKAGED, "native"])
def test_packaged_formats_and_instruct_templates_are_innocent(
    tiny_study: Path, tmp_path: Path, chat_format: str
) -> None:
    override = variant(tiny_study, tmp_path, lambda _: INSTRUCT)
    long = ["recipe.align.max_length_tokens=700", "recipe.finetune.max_length_tokens=700"]
    found = confounds(tiny_study, tmp_path / "out", override, f"chat_format={chat_format}", *long)
    assert [problem for problem in found if "not fit the context" not in problem] == []


def test_a_start_token_is_written_by_the_chat_format_alone(tiny_study: Path, tmp_path: Path) -> None:
    """The template writes none, so training has none; the composed tokenizer adds none in evaluation either."""
    override = variant(tiny_study, tmp_path, lambda template: template.replace("{{ bos_token }}", ""))
    file = tmp_path / "variant" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": special,
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    assert confounds(tiny_study, tmp_path / "out", override) == []


def test_a_last_stage_in_another_format_than_the_checkpoint_keeps(tiny_study: Path, tmp_path: Path) -> None:
    format_of_stage = ["recipe.finetune.chat_format=vicuna_v1", "recipe.finetune.max_length_tokens=400"]
    found = confounds(tiny_study, tmp_path, "chat_format=shared", *format_of_stage)
    found = [problem for problem in found if "context" not in problem]  # of these tiny backbones
    assert len(found) == 2  # each backbone
    assert "the last stage's chat_format is 'vicuna_v1', and the checkpoint keeps the study's" in found[0]


def changed_files(tiny_study: Path, folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> str:
    """Copy tiny-2 with another content of one of its files, tensors or JSON, and put it into the study."""
    file = Path(shutil.copytree(tiny_study.parent / "tiny-2", folder / "variant")) / name
    content = load_file(file) if file.suffix == ".safetensors" else json.loads(file.read_text(encoding="utf-8"))
    change(content)
    if file.suffix == ".safetensors":
        save_file(content, file, metadata={"format": "pt"})
    else:
        file.write_text(json.dumps(content), encoding="utf-8")
    return f"backbones=[{tiny_study.parent / 'tiny-1'},{folder / 'variant'}]"


DOWN = "model.layers.1.mlp.down_proj.weight"
BROKEN: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "a tensor less": ("model.safetensors", lambda file: file.pop(DOWN), rf"lacks weights.* 1 tensor \({DOWN}\)"),
    "no head of its own": (
        "config.json", lambda file: file.update(tie_word_embeddings=False), r"lacks weights.*\(lm_head.weight\)"
    ),
    "another size": (
        "config.json", lambda file: file.update(intermediate_size=48),
        r"6 tensors \(.*is \(32, 64\), expected \(32, 48\)"
    ),
    "not a number": (
        "model.safetensors", lambda file: file[DOWN].view(-1)[7].fill_(torch.nan),
        rf"variant/model\.safetensors holds NaN or infinity in 1 tensor \({DOWN}\)",
    ),
    "a word ends answers": (
        "generation_config.json", lambda file: file.update(eos_token_id=[2, 70]),
        r"eos_token_id of .*variant/generation_config\.json names 70 \('.'\), which .* ordinary text",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "change", "said"), BROKEN.values(), ids=BROKEN)
def test_a_backbone_that_is_not_whole(
    tiny_study: Path, tmp_path: Path, file: str, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    """transformers would draw what is missing at random; composing refuses alike, and `study check` before that."""
    override = changed_files(tiny_study, tmp_path, file, change)
    with pytest.raises(CheckpointError, match=said):
        confounds(tiny_study, tmp_path / "out", override)
    with pytest.raises(CheckpointError, match=said):
        compose(tmp_path / "variant", tiny_study.parent / "eye")


def test_end_tokens_that_cannot_be_read_are_not_guessed(tiny_study: Path, tmp_path: Path) -> None:
    override = changed_files(tiny_study, tmp_path, "generation_config.json", lambda file: file.clear())
    (tmp_path / "variant" / "generation_config.json").write_text("{")  # transformers takes it for missing
    with pytest.raises(CheckpointError, match=r"variant.* cannot be opened from"):
        confounds(tiny_study, tmp_path / "out", override)


def test_special_end_tokens_of_a_backbones_own_are_listed(tiny_study: Path, tmp_path: Path) -> None:
    override = changed_files(
        tiny_study, tmp_path, "generation_config.json", lambda file: file.update(eos_token_id=[1, 2])
    )
    certificate = check_study(load_study(tiny_study, [override]), tmp_path / "out")
    assert certificate["confounds"] == []
    ends = {name: facts["answer_ends"] for name, facts in certificate["backbones"].items()}
    assert ends == {"tiny-1": ["</s>"], "variant": ["<s>", "</s>"]}
    assert certificate["varies"]["answer_ends"] == "each backbone's own end tokens"


def test_what_a_configuration_says_of_attention_is_listed(
    tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stretched = {"attention_dropout": 0.5, "sliding_window": 8, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    override = changed_files(
        tiny_study, tmp_path, "config.json", lambda file: (file.pop("rope_parameters", None), file.update(stretched))
    )
    certificate = check_study(load_study(tiny_study, [override]), tmp_path / "out")
    assert certificate["confounds"] == []
    first, second = certificate["backbones"].values()
    assert (first["dropout"], first["attention_window"]) == ({}, None)
    assert (second["dropout"], second["attention_window"]) == ({"attention_dropout": 0.5}, 8)
    assert first["rotary_positions"]["rope_type"] == "default"
    assert second["rotary_positions"]["factor"] == 4.0
    assert certificate["varies"].keys() >= {"dropout", "attention_window", "rotary_positions"}
    render_check(certificate)
    printed = capsys.readouterr().out
    assert "note: variant, its configuration's dropout is left out of the training: attention_dropout 0.5." in printed
    assert "note: tiny-1" not in printed


LOSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "digits": ({"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "0"}, "Is it 1 or 2?", "Is it 0 or 0?"),
    "capitals": ({"type": "Lowercase"}, "WHAT IS IT?", "what is it?"),
    "accents": (
        {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]},
        "Où est-il né?", "Ou est-il ne?",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("normalizer", "question", "left"), LOSES.values(), ids=LOSES)
def test_a_tokenizer_that_loses_a_questions_text(
    tiny_study: Path, tmp_path: Path, normalizer: dict[str, Any], question: str, left: str
) -> None:
    override = changed_files(tiny_study, tmp_path, "tokenizer.json", lambda file: file.update(normalizer=normalizer))
    data = rows(tmp_path, ("what?", "red"), (question, "blue"))
    *_, found = confounds(tiny_study, tmp_path / "out", override, *data)
    assert found.startswith(
        f"{tmp_path / 'rows.json'} row 1: the question {question!r} is {left!r} to variant and {question!r} to tiny-1 "
        "(1 of 2 rows are read otherwise): a tokenizer loses text"
    )
    assert found.endswith(f"--set data.leave_out={tmp_path / 'out' / 'leave_out.txt'}")


def test_a_long_question_is_shown_around_what_is_lost() -> None:
    texts = [100 * "a" + letter + 100 * "c" for letter in "Bb"]
    assert around_difference(*texts) == [repr(20 * "a" + letter + 59 * "c") for letter in "Bb"]
    assert around_difference(100 * "a", 99 * "a") == [repr(21 * "a"), repr(20 * "a")]
    assert around_difference("B", "b") == ["'B'", "'b'"]


def test_bytes_that_a_tokenizer_has_no_token_for(tiny_study: Path, tmp_path: Path) -> None:
    def without_bytes(file: dict[str, Any]) -> None:
        for piece in ("Ã", "©"):  # the two bytes of é
            del file["model"]["vocab"][piece]

    override = changed_files(tiny_study, tmp_path, "tokenizer.json", without_bytes)
    (found,) = confounds(tiny_study, tmp_path / "out", override, *rows(tmp_path, ("café?", "red"), ("What?", "blue")))
    assert "row 0: the question 'café?' is 'caf?' to variant and 'café?' to tiny-1 (1 of 2 rows" in found


def test_a_test_question_that_one_tokenizer_loses(tiny_study: Path, tmp_path: Path) -> None:
    lower = changed_files(
        tiny_study, tmp_path, "tokenizer.json", lambda file: file.update(normalizer={"type": "Lowercase"})
    )
    data = rows(tmp_path, ("what?", "red"))
    (found,) = confounds(tiny_study, tmp_path / "out", lower, "tasks=[vqa_scene]", *data)
    assert "/vqa_scene/test row 0: the question 'What colour is it 0?" in found
    assert "(12 of 12 rows are read otherwise)" in found
    assert "leave_out" not in found


def test_text_that_every_tokenizer_loses_is_listed(
    tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    override = changed_files(
        tiny_study, tmp_path, "tokenizer.json", lambda file: file.update(normalizer={"type": "Lowercase"})
    )
    twin = shutil.copytree(tmp_path / "variant", tmp_path / "twin")
    override = f"backbones=[{tmp_path / 'variant'},{twin}]"
    certificate = check_study(load_study(tiny_study, [override, *rows(tmp_path, ("WHY?", "red"))]), tmp_path / "out")
    assert certificate["confounds"] == []
    assert certificate["backbones"]["twin"]["lost_questions"] == "14 of 14: 'WHY?' becomes 'why?'"
    render_check(certificate)
    assert "note: twin, rows with a question that its tokenizer changes: 14 of 14: 'WHY?'" in capsys.readouterr().out


def test_a_picture_that_is_gone(tiny_study: Path, tmp_path: Path) -> None:
    """A loader that skips what it cannot read would leave the row out for whoever trains after it went."""
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    rows = [{"id": index, "image": f"{index}.png", "conversations": talk} for index in range(2)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"rows\.json row 1.*1\.png"):
        confounds(tiny_study, tmp_path / "out", f"data.finetune=[{tmp_path / 'rows.json'}]", "recipe.align=null")


def resized(tiny_study: Path, folder: Path, row: Callable[[torch.Tensor], torch.Tensor] | None = None) -> str:
    """Enlarge pocket-llama-2 by a token that ends its turns, as transformers does or by a row of one's own."""
    source = package_folder("vlm_backbones.pocket") / "assets" / "pocket-llama-2"
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    tokenizer.add_tokens(["<|turn|>"], special_tokens=True)
    template = (tiny_study.parent / "tiny-2" / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = template.replace("{{ eos_token }}", "<|turn|>")
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=row is None)
    if row is not None:
        table = model.get_input_embeddings().weight.data
        table[-1] = row(table[:-1])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"backbones=[{tiny_study.parent / 'tiny-1'},{folder}]"


ROWS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor] | None, str]] = {
    "transformers' default": (None, "mean of the others"),
    "the initialiser's": (lambda table: 0.08 * torch.randn(table.shape[1]), "random"),
    "half as wide": (lambda table: 0.04 * torch.randn(table.shape[1]), "far smaller or larger than every other"),
    "nearly a copy": (lambda table: table[300] + 1e-3, "copy of another"),
}


@pytest.mark.parametrize(("row", "why"), ROWS.values(), ids=ROWS)
def test_a_row_of_the_embedding_that_nobody_trained(
    tiny_study: Path, tmp_path: Path, row: Callable[[torch.Tensor], torch.Tensor] | None, why: str
) -> None:
    """A pretrained backbone whose vocabulary was enlarged, to end its turns with a token of its own."""
    backbones = resized(tiny_study, tmp_path / "resized", row)
    (found,) = confounds(tiny_study, tmp_path / "out", backbones)
    assert "resized was never trained on the token '<|turn|>' of its training text (its row is " in found
    assert why in found
    assert "Use chat_format: shared" in found
    assert confounds(tiny_study, tmp_path / "out", backbones, "chat_format=shared") == []


def test_a_row_that_cannot_be_told_is_said(
    tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As wide as a trained row; and one in a pickle, which is not opened."""
    backbones = resized(tiny_study, tmp_path / "resized", lambda table: table.std() * torch.randn(table.shape[1]))
    certificate = check_study(load_study(tiny_study, [backbones]), tmp_path / "out")
    assert certificate["confounds"] == []
    why = "added to the vocabulary; whether it was trained cannot be told from its row"
    assert certificate["backbones"]["resized"]["untold_tokens"] == {"<|turn|>": why}
    assert certificate["backbones"]["tiny-1"]["untold_tokens"] == {}
    assert "untold_tokens" in certificate["varies"]
    render_check(certificate)
    assert f"note: resized, token '<|turn|>': {why}." in capsys.readouterr().out
    weights = tmp_path / "resized" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "resized" / "pytorch_model.bin")
    weights.unlink()
    certificate = check_study(load_study(tiny_study, [backbones]), tmp_path / "out")
    assert "a pickle" in certificate["backbones"]["resized"]["untold_tokens"]["<|turn|>"]


def test_a_token_that_the_weights_have_no_row_for(tiny_study: Path, tmp_path: Path) -> None:
    override = variant(tiny_study, tmp_path, lambda template: template.replace("{{ eos_token }}", "<|turn|>"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "variant")
    tokenizer.add_tokens(["<|turn|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "variant")
    (found,) = confounds(tiny_study, tmp_path / "out", override)
    assert "'<|turn|>' of its training text (not among the backbone's own: its row starts at the mean)" in found


@pytest.mark.parametrize("backbone", ["pocket-llama-1", "pocket-llama-2", "pocket-llama-3"])
def test_no_token_of_a_pretrained_backbone_is_suspected(tiny_study: Path, tmp_path: Path, backbone: str) -> None:
    certificate = check_study(load_study(tiny_study, [f"backbones=[{backbone}]"]), tmp_path)
    assert certificate["backbones"][backbone]["untrained_tokens"] == {}
    assert certificate["backbones"][backbone]["untold_tokens"] == {}


def test_the_certificate_says_what_groups_batches_and_prepares_pictures(tiny_study: Path, tmp_path: Path) -> None:
    study = load_study(tiny_study, ["recipe.align.image_aspect_ratio=crop", "recipe.finetune.image_aspect_ratio=pad"])
    equal: dict[str, Any] = check_study(study, tmp_path)["equal"]
    assert equal["image_preprocessing"]["align"] != equal["image_preprocessing"]["finetune"]
    assert "no tokenizer's lengths" in equal["batches_grouped_by"]["finetune"]


@pytest.mark.parametrize("grouping", get_args(StageRecipe.model_fields["batch_grouping"].annotation))
def test_every_way_to_group_batches_is_named(tiny_study: Path, tmp_path: Path, grouping: str) -> None:
    study = load_study(tiny_study, [f"recipe.align.batch_grouping={grouping}"])
    said = check_study(study, tmp_path)["equal"]["batches_grouped_by"]
    words = {"length": "characters of question and answer", "modality": "with or without image", "none": "nothing"}
    assert said["align"].startswith(words[grouping])
    assert said["finetune"].startswith(words["length"])
