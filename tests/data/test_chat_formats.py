"""The original projects' chat formats: exact text, what is supervised, and the prompt as a prefix of training."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vlm_backbones.backbones import get_backbone
from vlm_backbones.data.chat_format import chat_messages, encode_chats, get_chat_template, stop_token_ids
from vlm_backbones.errors import CheckpointError, ConfigError

SYS_U = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
SYS_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
TURNS = [("What is it?", "A dot."), ("And now?", "No.")]


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.add_tokens(["<image>"], special_tokens=True)
    return fast


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    """LLaMA-1/2 and Phi-3's kind: a word carries the space before it, and the text starts with one."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special)
    tokenizer.train_from_iterator(
        [f"{SYS_U} {SYS_2} USER: ASSISTANT: What is it? And now? A dot. No. [INST]"] * 5, trainer
    )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # bytes are part of the vocabulary, not special tokens
    tokenizer = Tokenizer.from_str(json.dumps(content))
    fast = _fast(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.add_tokens(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], special_tokens=True)
    return fast


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """Llama-3's kind: bytes, digits in threes, headers as tokens, no padding token."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    headers = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=headers, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([f"{SYS_2} user assistant system What is it? And now? A dot. No."] * 5, trainer)
    return _fast(tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def encoded(tokenizer: Any, name: str, turns: list[tuple[str, str]] = TURNS) -> tuple[list[int], list[list[int]]]:
    """Return the ids, and the supervised ids of each answer."""
    (chat,) = encode_chats(tokenizer, get_chat_template(name, tokenizer), [chat_messages(turns, with_image=True)])
    answers: list[list[int]] = [[]]
    for token, is_answer in zip(chat.ids, chat.supervised, strict=True):
        if is_answer:
            answers[-1].append(token)
        elif answers[-1]:
            answers.append([])
    return chat.ids, [answer for answer in answers if answer]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def apart(tokenizer: Any, text: str) -> list[int]:
    """Return the ids as the original `tokenizer_image_token` makes them: each side of the image is tokenised alone."""
    before, after = text.split("<image>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    return [tokenizer.bos_token_id, *ids_of(tokenizer, before), image, *ids_of(tokenizer, after)]


@pytest.mark.parametrize(
    ("name", "text", "answers"),
    [
        (
            "vicuna_v1",
            f"{SYS_U} USER: <image>\nWhat is it? ASSISTANT: A dot.</s>USER: And now? ASSISTANT: No.</s>",
            ["A dot.</s>", "No.</s>"],
        ),
        (
            "llava_llama_2",
            f"[INST] <<SYS>>\n{SYS_2}\n<</SYS>>\n\n<image>\nWhat is it? [/INST] A dot. </s>"
            "<s>[INST] And now? [/INST] No. </s>",
            ["A dot. </s>", "No. </s>"],
        ),
        (
            "llava_phi_3",
            f"<|system|>\n{SYS_2}<|end|>\n<|user|>\n<image>\nWhat is it?<|end|>\n<|assistant|>\nA dot.<|end|>\n"
            "<|user|>\nAnd now?<|end|>\n<|assistant|>\nNo.<|end|>\n",
            ["A dot.<|end|>", "No.<|end|>"],
        ),
    ],
)
def test_sentencepiece_formats(
    sentencepiece: PreTrainedTokenizerFast, name: str, text: str, answers: list[str]
) -> None:
    ids, supervised = encoded(sentencepiece, name)
    assert ids == apart(sentencepiece, text)
    assert [sentencepiece.decode(answer).strip() for answer in supervised] == answers
    assert ids.count(sentencepiece.bos_token_id) == 1 + text.count("<s>")


def test_the_text_of_the_shared_format_is_one_for_all(
    sentencepiece: PreTrainedTokenizerFast, byte_level: PreTrainedTokenizerFast
) -> None:
    assert get_chat_template("shared", sentencepiece) == get_chat_template("shared", byte_level)
    assert get_chat_template("vicuna_v1", sentencepiece) != get_chat_template("vicuna_v1", byte_level)


def test_llama_3_format(byte_level: PreTrainedTokenizerFast) -> None:
    def header(role: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    text = (
        f"<|begin_of_text|>{header('system')}{SYS_2}<|eot_id|>{header('user')}<image>\nWhat is it?<|eot_id|>"
        f"{header('assistant')}A dot.<|eot_id|>{header('user')}And now?<|eot_id|>{header('assistant')}No.<|eot_id|>"
    )
    ids, supervised = encoded(byte_level, "llava_llama_3")
    assert ids == ids_of(byte_level, text)
    assert ids.count(byte_level.bos_token_id) == 1  # the text holds it: a tokenizer that adds one would make two
    assert [byte_level.decode(answer) for answer in supervised] == ["A dot.<|eot_id|>", "No.<|eot_id|>"]
    assert byte_level.pad_token is None


def test_end_marks_that_swallow_their_line_break_end_answers_too(sentencepiece: PreTrainedTokenizerFast) -> None:
    """Phi-3's own tokenizer.json sets `rstrip` for its marks: `<|end|>` is one token with the line break behind it."""
    content = json.loads(sentencepiece.backend_tokenizer.to_str())
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"].startswith("<|")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    greedy = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **special)
    template = get_chat_template("llava_phi_3", greedy)
    (chat,) = encode_chats(greedy, template, [chat_messages(TURNS, with_image=True)])
    assert chat.problem is None
    supervised = [token for token, is_answer in zip(chat.ids, chat.supervised, strict=True) if is_answer]
    assert greedy.decode(supervised) == "A dot.<|end|>No.<|end|>"
    assert stop_token_ids(greedy, template)[-1] == greedy.convert_tokens_to_ids("<|end|>")


def test_the_space_before_an_answer_belongs_to_it_only_where_words_carry_their_space(
    sentencepiece: PreTrainedTokenizerFast, byte_level: PreTrainedTokenizerFast
) -> None:
    _, (first, _) = encoded(sentencepiece, "vicuna_v1")
    assert sentencepiece.convert_ids_to_tokens(first[0]).startswith("▁A")
    _, (first, _) = encoded(byte_level, "llava_llama_3")
    assert byte_level.convert_ids_to_tokens(first[0]).startswith("A")


@pytest.mark.parametrize("name", ["vicuna_v1", "llava_v1", "llava_llama_2", "llava_phi_3"])
def test_the_prompt_alone_is_how_training_begins(sentencepiece: PreTrainedTokenizerFast, name: str) -> None:
    """What evaluation asks is the exact prefix of what was trained: no token reaches over the border."""
    ids, (first, _) = encoded(sentencepiece, name)
    template = get_chat_template(name, sentencepiece)
    question = chat_messages(TURNS[:1], with_image=True)[:1]
    text = sentencepiece.apply_chat_template(
        question, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    prompt = ids_of(sentencepiece, text)
    assert ids[: len(prompt)] == prompt
    assert ids[len(prompt) : len(prompt) + len(first)] == first


def test_plain_supervises_the_caption_and_its_newline(sentencepiece: PreTrainedTokenizerFast) -> None:
    ids, (caption,) = encoded(sentencepiece, "plain", [("Describe it.", "A dot.")])
    assert ids == apart(sentencepiece, "<image>A dot.\n")
    assert sentencepiece.convert_ids_to_tokens(caption[0]) == "▁A"
    assert sentencepiece.decode(caption).strip() == "A dot."
    assert sentencepiece.eos_token_id not in ids


def test_vip_llava_says_human(sentencepiece: PreTrainedTokenizerFast) -> None:
    said = get_chat_template("llava_v1", sentencepiece)
    assert "curious human and an" in said
    assert "to the human's questions" in said
    assert "user's" not in said


@pytest.fixture(scope="module")
def legacy_sentencepiece(sentencepiece: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As LLaMA-1's files set it (`legacy`): every piece of text between special tokens starts with a space."""
    tokenizer = Tokenizer.from_str(sentencepiece.backend_tokenizer.to_str())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    return _fast(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_legacy_tokenizers_start_every_piece_with_a_space_and_the_labels_still_fit(
    sentencepiece: PreTrainedTokenizerFast, legacy_sentencepiece: PreTrainedTokenizerFast
) -> None:
    """The original code tokenised the text after `<image>` alone, so a space stood before its line break: in both."""
    shapes = {}
    for kind, tokenizer in (("new", sentencepiece), ("legacy", legacy_sentencepiece)):
        ids, (first, _) = encoded(tokenizer, "vicuna_v1")
        image = ids.index(tokenizer.convert_tokens_to_ids("<image>"))
        after_answer = ids.index(tokenizer.eos_token_id) + 1
        shapes[kind] = tokenizer.convert_ids_to_tokens([ids[image + 1], ids[after_answer]])
        assert tokenizer.convert_ids_to_tokens(first[0]).startswith("▁A")
        assert first[-1] == tokenizer.eos_token_id
    assert shapes["new"] == ["▁", "USER"]
    assert shapes["legacy"] == ["▁", "▁USER:"]


@pytest.mark.parametrize("kind", ["sentencepiece", "byte_level"])
def test_a_tokenizer_that_adds_its_start_token_does_not_make_two(kind: str, request: pytest.FixtureRequest) -> None:
    plain = request.getfixturevalue(kind)
    tokenizer = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    bos = plain.bos_token
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, plain.bos_token_id)]
    )
    adding = _fast(tokenizer, bos_token=bos, eos_token=plain.eos_token)
    assert adding("A")["input_ids"][0] == plain.bos_token_id
    name = "vicuna_v1" if kind == "sentencepiece" else "llava_llama_3"
    assert encoded(adding, name)[0].count(plain.bos_token_id) == 1
    assert encoded(adding, name) == encoded(plain, name)


def test_an_answer_that_starts_with_a_digit_keeps_the_space_of_its_tokenizer(
    sentencepiece: PreTrainedTokenizerFast, byte_level: PreTrainedTokenizerFast
) -> None:
    _, (answer,) = encoded(sentencepiece, "vicuna_v1", [("How many?", "36.125")])
    assert sentencepiece.convert_ids_to_tokens(answer) == [
        "▁",
        "<0x33>",
        "<0x36>",
        ".",
        *["<0x31>", "<0x32>", "<0x35>"],
        "</s>",
    ]
    _, (answer,) = encoded(byte_level, "shared", [("How many?", "36.125")])
    pieces = byte_level.convert_ids_to_tokens(answer)
    assert pieces[0] == "Ġ"  # a space never joins digits in Llama-3's pattern
    assert byte_level.decode(answer) == " 36.125<|end_of_text|>"


def test_native_is_what_the_registry_row_says(sentencepiece: PreTrainedTokenizerFast) -> None:
    for backbone, name in (
        ("vicuna-1.5-7b", "vicuna_v1"),
        ("llama-2-7b-chat", "llava_llama_2"),
        ("llama-3-8b-instruct", "llava_llama_3"),
        ("phi-3-mini", "llava_phi_3"),
    ):
        native = get_backbone(backbone).chat_format
        found = get_chat_template("native", sentencepiece, native=native)
        assert found == get_chat_template(name, sentencepiece)
    with pytest.raises(
        ConfigError, match=r"this tokenizer has no template\. Use chat_format: shared, or name .*vicuna_v1"
    ):
        get_chat_template("native", sentencepiece, native=get_backbone("llama-3-8b").chat_format)


def test_an_own_template_without_marks_is_refused(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.chat_template = "{{ messages[0]['content'] }}"
    try:
        with pytest.raises(ConfigError, match="its template has no such mark"):
            get_chat_template("native", byte_level)
    finally:
        byte_level.chat_template = None


@pytest.mark.parametrize(
    ("kind", "name", "row", "stops"),
    [
        ("sentencepiece", "vicuna_v1", ["</s>"], ["</s>"]),
        ("sentencepiece", "llava_llama_2", [], ["</s>"]),
        ("sentencepiece", "llava_phi_3", [], ["</s>", "<|end|>"]),
        ("byte_level", "llava_llama_3", ["<|end_of_text|>"], ["<|end_of_text|>", "<|eot_id|>"]),
        ("byte_level", "shared", [], ["<|end_of_text|>"]),
    ],
)
def test_an_answer_stops_at_the_models_end_and_at_the_formats(
    kind: str, name: str, row: list[str], stops: list[str], request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    found = stop_token_ids(tokenizer, get_chat_template(name, tokenizer), row)
    assert tokenizer.convert_ids_to_tokens(found) == stops


def test_a_format_that_does_not_fit_the_tokenizer_is_refused(
    sentencepiece: PreTrainedTokenizerFast, byte_level: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match=r"ends an answer as '.*<\|eot_id\|>'.* no answer would ever end"):
        stop_token_ids(sentencepiece, get_chat_template("llava_llama_3", sentencepiece))
    with pytest.raises(CheckpointError, match=r"does not know the stop token <\|end\|>"):
        stop_token_ids(byte_level, get_chat_template("shared", byte_level), ["<|end|>"])
    nameless = PreTrainedTokenizerFast(tokenizer_object=byte_level.backend_tokenizer)
    with pytest.raises(ConfigError, match="eos_token"):
        stop_token_ids(nameless, get_chat_template("vicuna_v1", nameless))


def test_a_format_works_without_a_start_token(byte_level: PreTrainedTokenizerFast) -> None:
    """Qwen has none: the format's text then begins at once."""
    startless = PreTrainedTokenizerFast(tokenizer_object=byte_level.backend_tokenizer, eos_token="<|end_of_text|>")
    ids, _ = encoded(startless, "vicuna_v1")
    assert startless.decode(ids).startswith("A chat between")
