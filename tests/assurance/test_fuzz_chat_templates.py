"""Chat templates of other makers' checkpoints: programs, rendered for a training's check and for an evaluation."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from fuzzing import fuzz, lawful
from spoiling import ODD_TEXTS, among, any_of, spoilt_bytes
from transformers import AutoTokenizer

from vlm_backbones._study_loading import package_folder
from vlm_backbones.data.chat_format import (
    chat_messages,
    encode_chats,
    evaluation_prompt_ids,
    get_chat_template,
    stop_token_ids,
)
from vlm_backbones.model_wrappers._prompting import Prompter

GOOD = [path.read_text(encoding="utf-8") for path in sorted(
    (package_folder("vlm_backbones") / "data" / "chat_formats").glob("*.jinja"))]  # fmt: skip
EXPRESSIONS = [
    "'a' * 3000000000", "['a'] * 3000000000", "9 ** 9 ** 9", "2 ** n", "n ** n", "range(100000) | list",
    "range(10 ** 9)", "'a' | center(999999999)", "'a'.center(99999)", "'%999999999d' % n", "'{:99999999}'.format(n)",
    "x.replace('', x)", "x | replace('a', x)", "x ~ x", "x + x", "[x, x]", "{'a': x, 'b': x}", "x | tojson",
    "x | tojson(indent=99999)", "x | string", "x | pprint", "x | urlize", "x | wordwrap(1)", "x | indent(9999)",
    "x | batch(99999) | list", "x[::-1]", "x | map('upper') | list", "x | map('center', 9999) | join",
    "range(99999) | map('string') | join", "x | sort | list", "x | unique | list", "x | sum", "x.split('')",
    "x.split('a')", "x.encode('utf-8') * 99999", "x in x * 99", "f(x)", "f(f)", "namespace(a=x)",
    "dict.fromkeys(range(99999), x)", "lipsum(n)", "cycler(x).next()", "joiner(x)()", "n / 0",
    "messages.__class__.__mro__", "''.__class__", "messages | attr('append')", "messages.append(1)",
    "raise_exception(x)", "strftime_now('%Y')", "[1, 2] | random", "'a\\ud800b'", "'\\x00'", "'<image>'",
    "bos_token * 99", "loop.index", "messages[0]['content'] | map(attribute='text') | join", "none.a.b",
    "n | round(9999)", "n | filesizeformat", "-x",
]  # fmt: skip
STATEMENTS = [
    "{{ E }}", "{{ E }}{{ E }}", "{% for x in range(100000) %}S{% endfor %}", "{% for x in E %}S{% endfor %}",
    "{% if E %}S{% endif %}", "{% for i in range(99) %}S{% endfor %}",
    "{% for i in E recursive %}S{{ loop(E) }}{% endfor %}",
    "{% macro f(x) %}S{{ f(E) }}{{ f(x) }}{% endmacro %}{{ f(E) }}", "{% set x = E %}S", "{% set x %}S{% endset %}S",
    "{% set m = namespace(x=E) %}{% for i in range(99) %}{% set m.x = m.x ~ m.x %}{% endfor %}{{ m.x }}",
    "{% set m = namespace(x=E) %}{% for i in range(99) %}{% set m.x = [m.x, m.x] %}{% endfor %}{{ m.x }}",
    "{% generation %}S{% endgeneration %}", "{% generation %}{{ messages[-1]['content'] }}{% endgeneration %}S",
    "{% filter upper %}S{% endfilter %}", "{% call f(E) %}S{% endcall %}", "{% include E %}", "{% extends E %}",
    "{% import 'os' as x %}S", "{% block b %}S{{ self.b() }}{% endblock %}", "{% raw %}S{% endraw %}", "{% break %}",
    "SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSS",
]  # fmt: skip


def program(chance: Random, depth: int = 0) -> str:
    """Return a statement of statements, a few levels deep."""
    text = chance.choice(STATEMENTS)
    while "S" in text:
        text = text.replace("S", program(chance, depth + 1) if depth < 3 and chance.random() < 0.7 else "so", 1)
    while "E" in text:
        text = text.replace("E", chance.choice([*EXPRESSIONS, "n", "x"]), 1)
    return text


def hostile(chance: Random) -> bytes:
    """Return a good template with a program somewhere in it, which sometimes has values at hand."""
    good = chance.choice([*GOOD, ""])
    at = chance.choice([0, len(good), chance.randint(0, len(good))])
    given = "{% set n = 99999 %}{% set x = 'abc' * 999 %}" if chance.random() < 0.6 else ""
    return (good[:at] + given + program(chance) + good[at:]).encode("utf-8", "surrogatepass")


class Engine(SimpleNamespace):
    """What a prompter asks of the evaluation's engine."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found: Any = AutoTokenizer.from_pretrained(package_folder("vlm_backbones.pocket") / "assets" / "pocket-llama-2")
    found.add_tokens(["<image>"], special_tokens=True)
    return found


TEMPLATES = any_of(hostile, hostile, spoilt_bytes(among([text.encode() for text in GOOD])), spoilt_bytes(hostile))


@fuzz(content=TEMPLATES, text=among(["What is shown?", "A.", *ODD_TEXTS]))
def test_chat_templates(out: Path, tokenizer: Any, content: bytes, text: str) -> None:
    template = content.decode("utf-8", "replace")
    asked = text.encode("utf-8", "replace").decode()  # no row with half of a character comes so far
    with lawful(out):
        tokenizer.chat_template = template
        found = get_chat_template("native", tokenizer)
        stop_token_ids(tokenizer, found)
    with lawful(out):
        chats = [
            chat_messages([(asked, "So.")], with_image=True),
            chat_messages([("Why?", asked)] * 2, with_image=False),
        ]
        assert len(encode_chats(tokenizer, template, chats)) == 2
    with lawful(out):
        evaluation_prompt_ids(tokenizer, template, asked, with_image=True)
    with lawful(out):
        engine: Any = Engine(tokenizer=tokenizer, end_ids={2}, processor=SimpleNamespace(chat_template=template))
        prompter = Prompter(engine)
        prompter.ids([prompter.prompt(asked, 1)])
        prompter.answer_ids(asked)
        prompter.question_mask(asked, 1)


def test_the_good_templates_are_good(tokenizer: Any) -> None:
    for template in GOOD:
        assert evaluation_prompt_ids(tokenizer, template, "Why?", with_image=True)
