"""Chat templates say what transformers makes them say, and none loops, grows, dates or draws."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from vlm_backbones.data import chat_format
from vlm_backbones.data.chat_format import chat_messages
from vlm_backbones.data.chat_rendering import TemplateError, render_chats

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<t>"]}
TOKENIZER: Any = SimpleNamespace(special_tokens_map=SPECIAL)
CHAT = chat_messages([("What is <this>?", "A {{ dot }}."), ("And 'now'?", "No.")], with_image=True)
PACKAGED = sorted((Path(chat_format.__file__).parent / "chat_formats").glob("*.jinja"))
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | map(attribute='text') | select('string') | join | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{% generation %}{{ content }}{% endgeneration %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
BUSY = (
    "{%- macro said(m) -%}{%- for c in m.content if c.type == 'text' -%}{{ c['text'].replace('o', '0')[:99] }}"
    "{{- loop.length ~ loop.last ~ ('%05d' % 7) ~ '{:>4}'.format(3) -}}{%- endfor -%}{%- endmacro -%}"
    "{%- set ns = namespace(n=0, last=messages[-1]) -%}{%- for m in messages recursive -%}"
    "{%- set ns.n = ns.n + 2 * 3 -%}"
    "{{ said(m) | indent(2) }}{{ ns.n ** 2 }}{{ m | tojson(indent=1) }}{%- endfor -%}{{ [1, 2] + [3] }}{{ 'ab' * 3 }}"
    "{{ additional_special_tokens }}{{ tools is none }}{{ documents }}{{ strftime_now is defined }}"
)


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize("template", [*(path.read_text(encoding="utf-8") for path in PACKAGED), LLAMA_3, BUSY])
def test_an_honest_template_says_what_transformers_renders(template: str, add_generation_prompt: bool) -> None:
    expected: Any = render_jinja_template(
        conversations=[CHAT, CHAT[:2]], chat_template=template, return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt, **SPECIAL,
    )  # fmt: skip
    found = render_chats(TOKENIZER, template, [CHAT, CHAT[:2]], add_generation_prompt=add_generation_prompt)
    assert [text for text, _ in found] == expected[0]
    assert [list(spans) for _, spans in found] == expected[1]


def test_a_long_conversation_has_room() -> None:
    """Two hundred turns of a thousand words each."""
    chat = chat_messages([("What? " * 1000, "So. " * 1000)] * 200, with_image=True)
    for path in PACKAGED:
        ((text, _),) = render_chats(TOKENIZER, path.read_text(encoding="utf-8"), [chat])
        assert len(text) > 200 * 4000


GROW = "{% set n = namespace(a=[START]) %}{% for i in range(60) %}{% set n.a = STEP %}{% endfor %}{{ n.a }}"
ENDLESS = {
    "loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for i in range(99999) recursive %}{% if loop.depth < 3 %}{{ loop(range(99999)) }}{% endif %}"
    "{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "constant text": '{{ "a" * 3000000000 }}',
    "bytes": '{{ "a".encode("utf-8") * 3000000000 }}',
    "text": "{{ messages[0].role * 3000000000 }}",
    "list": '{{ ["a"] * 3000000000 }}',
    "joined text": GROW.replace("[START]", '"aaaa"').replace("STEP", "n.a ~ n.a"),
    "added list": GROW.replace("START", "1").replace("STEP", "n.a + n.a"),
    "nested list": GROW.replace("START", "1").replace("STEP", "[n.a, n.a]"),
    "filter": '{{ "a" | center(9999999999) }}',
    "method": '{{ "a".center(9999999999) }}',
    "replaced": '{{ ("a" * 100000).replace("a", "b" * 100000) }}',
    "many filters": '{{ range(100000) | map("center", 100000) | join }}',
    "sums": "{% for i in range(100000) %}{{ range(100000) | sum }}{% endfor %}",
    "printed": "{% for i in range(100000) %}{{ messages[0].role * 1000 }}{% endfor %}",
    "compared": '{% set a = "a" * 9000000 %}{% for i in range(100000) %}{% if "b" in a %}{% endif %}{% endfor %}',
    "cut": '{% set a = "a" * 9000000 %}{% for i in range(100000) %}{% set b = a[1:] %}{% endfor %}',
}
WRONG = {
    "9 ** (9 ** 9)": "a number of thousands of digits",
    '"%1000000000d" % 1': "wider than any prompt",
    '"%*d" % (1000000000, 1)': "wider than any prompt",
    '"{:9999999999}".format(1)': "wider than any prompt",
    '"{:{}}".format(1, 999999999)': "wider than any prompt",
    "1 / 0": "division by zero",
    "range(99999) | join": "far more than any prompt around a question",
    "lipsum(9)": "'lipsum' is undefined",
    "[1, 2] | random": "it draws at random",
    'strftime_now("%d %b %Y")': "it asks for the date .strftime_now.: on another day every question would be another",
    '"a\\ud800b"': "surrogates not allowed",
    "(" * 5000 + "1" + ")" * 5000: "recursion",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_loops_or_grows_without_end_is_refused(template: str) -> None:
    started = time.process_time()
    with pytest.raises(TemplateError, match="loops or grows without end"):
        render_chats(TOKENIZER, template, [CHAT])
    assert time.process_time() - started < 5  # it would be hours


@pytest.mark.parametrize(("expression", "why"), WRONG.items())
def test_what_a_template_may_not_do_is_said(expression: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why):
        render_chats(TOKENIZER, "{{ " + expression + " }}", [CHAT])


def test_a_template_is_a_text_of_some_length() -> None:
    with pytest.raises(TemplateError, match="300,000 characters"):
        render_chats(TOKENIZER, "a" * 300_000, [CHAT])
    names: Any = {"default": "a"}
    with pytest.raises(TemplateError, match="it is no text"):
        render_chats(TOKENIZER, names, [CHAT])
