"""Chat templates rendered within bounds: a template of somebody else is a program, and may loop or grow without end.

jinja2's sandbox keeps templates from files and processes, not from time and memory. Here every step of a loop, every
call and every value that is made costs units of a budget, so that rendering ends, at the same place on every machine.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import _compile_jinja_template

__all__ = ["RenderedChat", "TemplateError", "render_chats"]

RenderedChat = tuple[str, Sequence[tuple[int, int]]]
"""A conversation's text, and where in it the answers stand that the template marks."""

_UNITS = 300_000
"""Of a conversation; enough for 30 million characters, or some thousand steps of a long template: under a second."""
_LONGEST_SOURCE, _LONGEST_FRAME = 200_000, 100_000
"""Characters of a template, and of what it writes around a conversation: tokenising takes its time too."""
_CHARACTERS_A_UNIT, _ITEMS_A_UNIT = 100, 3
_LARGEST_INTEGER_BITS = 10_000
_WIDE_FORMAT = re.compile(r"\d{5}|\*")
_GROWING = {"batch", "center", "expandtabs", "indent", "join", "ljust", "replace", "rjust", "slice", "tojson"}
_GROWING |= {"wordwrap", "zfill"}
"""Filters and methods whose result is as long as their arguments' product."""
_FORMATS = {"format", "format_map"}

_left: ContextVar[float] = ContextVar("units left")


def render_chats(
    tokenizer: Any, template: str, chats: Iterable[Sequence[Mapping[str, Any]]], *, add_generation_prompt: bool = False
) -> list[RenderedChat]:
    """Return each conversation's text and answers, as transformers' `apply_chat_template` renders them.

    Raises
    ------
    TemplateError
        Whatever goes wrong inside the template; where it would take more than a prompt may, or says another text on
        another day.
    """
    special = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str | list)}
    return [_render(template, list(chat), special, add_generation_prompt) for chat in chats]


def _render(template: Any, messages: list[Any], special: dict[str, Any], add_generation_prompt: bool) -> RenderedChat:
    blocks, spans = list[str](), list[tuple[int, int]]()
    units = _left.set(_UNITS)
    try:
        if not isinstance(template, str):
            raise TemplateError("it is no text")
        compiled = _compile(template)
        environment: Any = compiled.environment
        values = special | {"messages": messages, "tools": None, "documents": None}
        with environment.activate_tracker(blocks, spans):
            blocks.extend(compiled.generate(**values, add_generation_prompt=add_generation_prompt))
        text = "".join(blocks)
        if len(text) > _LONGEST_FRAME + 2 * len(str(messages)):
            raise TemplateError("it writes far more than any prompt around a question")
        text.encode()  # no tokenizer takes half of a character
        return text, spans
    except TemplateError:
        raise
    except Exception as error:  # the code of a template raises anything
        raise TemplateError(str(error)[:300] or type(error).__name__) from error
    finally:
        _left.reset(units)


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    if len(source) > _LONGEST_SOURCE:
        raise TemplateError(f"it has {len(source):,} characters, more than the {_LONGEST_SOURCE:,} of any prompt's")
    environment = _Bounded(source)
    tree = environment.parse(source)
    _count(tree)
    return environment.template_class.from_code(environment, environment.compile(tree), environment.globals)


def _count(tree: nodes.Template) -> None:
    """Let the loops, joined texts and comparisons of a template be counted."""
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = _counted(loop.iter, "_each_step")
    for joined in list(tree.find_all(nodes.Concat)):
        joined.nodes = [_counted(node, "_sized") for node in joined.nodes]
    for compared in list(tree.find_all(nodes.Compare)):
        compared.expr = _counted(compared.expr, "_sized")
        for operand in compared.ops:
            operand.expr = _counted(operand.expr, "_sized")


def _counted(node: Any, name: str) -> Any:
    if isinstance(node, nodes.Const):
        return node
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


# --- what things cost -------------------------------------------------------------------------------------------------


def _charge(units: float) -> None:
    left = _left.get() - units
    _left.set(left)
    if left < 0:
        raise TemplateError("it loops or grows without end, far beyond any prompt")


def _refuse_long(bits: int) -> None:
    if bits > _LARGEST_INTEGER_BITS:
        raise TemplateError("it makes a number of thousands of digits")


def _charge_for(value: Any) -> Any:
    """Charge for a value with all that lies in it, as often as it lies there."""
    if isinstance(value, str | bytes):
        _charge(len(value) / _CHARACTERS_A_UNIT)
    elif isinstance(value, int):
        _refuse_long(value.bit_length())
    elif isinstance(value, Mapping):
        for pair in value.items():
            _charge_for(pair)
    elif isinstance(value, list | tuple):
        _charge(len(value) / _ITEMS_A_UNIT)
        for item in value:
            _charge_for(item)
    elif isinstance(value, range):
        _charge(len(value) / _ITEMS_A_UNIT)
    return value


def _charge_for_call(name: str, value: Any, arguments: Sequence[Any]) -> None:
    """Charge before a filter or a method makes its result."""
    for item in (value, *arguments):
        _charge_for(item)
    if name in _FORMATS:
        _refuse_wide(value, arguments)
    if name in _GROWING:
        sizes = [len(item) for item in (value, *arguments) if isinstance(item, str | bytes | list | tuple) and item]
        widths = [abs(item) for item in arguments if isinstance(item, int) and item]
        product = max(widths, default=1)
        for size in sizes:
            product *= size
        _charge(product / _CHARACTERS_A_UNIT)


def _refuse_wide(pattern: Any, arguments: Sequence[Any]) -> None:
    """Refuse a pattern that writes thousands of spaces or digits for a value."""
    asked = [item for item in arguments if isinstance(item, int) and item > _LARGEST_INTEGER_BITS]
    if isinstance(pattern, bytes):
        pattern = pattern.decode("latin-1")
    if isinstance(pattern, str) and (_WIDE_FORMAT.search(pattern) or ("{" in pattern and asked)):
        raise TemplateError("it formats a value wider than any prompt")


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # with the mark of what jinja2 passes first
    def bounded(*given: Any, **named: Any) -> Any:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0
        _charge(1)
        _charge_for_call(name, given[first] if len(given) > first else None, [*given[first + 1 :], *named.values()])
        return _charge_for(function(*given, **named))

    return bounded


class _Bounded(ImmutableSandboxedEnvironment):
    """transformers' environment of chat templates, which also counts."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self, source: str) -> None:
        theirs = _compile_jinja_template("").environment
        super().__init__(
            trim_blocks=theirs.trim_blocks,
            lstrip_blocks=theirs.lstrip_blocks,
            extensions=[type(one) for one in theirs.extensions.values()],
            finalize=_charge_for,
        )
        self._step = 1 + len(source) / _CHARACTERS_A_UNIT  # a loop's body, or a macro's, is a part of the source
        self.globals |= theirs.globals | {"strftime_now": _refuse_date}
        del self.globals["lipsum"]
        self.filters |= {name: _bounded_filter(name, function) for name, function in theirs.filters.items()}
        self.filters |= {"random": _refuse_chance, "_each_step": self._each_step, "_sized": _charge_for}

    def _each_step(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            _charge(self._step)
            yield item

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Charge for what an operator makes, before it does."""
        if operator == "*":
            for items, times in ((left, right), (right, left)):
                if isinstance(items, str | bytes | list | tuple) and isinstance(times, int):
                    _charge(len(items) * max(times, 0) / _ITEMS_A_UNIT)
        elif operator == "%" and isinstance(left, str | bytes):
            _charge_for_call("format", left, right if isinstance(right, tuple) else [right])
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _refuse_long(left.bit_length() * abs(right))
        return _charge_for(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Charge for a part that is cut out; an item is there already."""
        found = super().getitem(obj, argument)
        return _charge_for(found) if isinstance(argument, slice) else found

    def call(self, context: Any, obj: Any, *given: Any, **named: Any) -> Any:  # type: ignore[override]
        """Charge for a call and for what it returns."""
        _charge(self._step)
        if isinstance(obj, LoopContext):
            given = (self._each_step(given[0]), *given[1:])
        else:
            method = getattr(obj, "__wrapped__", obj)
            owner, name = getattr(method, "__self__", None), str(getattr(method, "__name__", ""))
            _charge_for_call(name if isinstance(owner, str) else "", owner, [*given, *named.values()])
        return _charge_for(super().call(context, obj, *given, **named))


def _refuse_date(*_: object) -> str:
    raise TemplateError(
        "it asks for the date (strftime_now): on another day every question would be another. Write a fixed date there"
    )


def _refuse_chance(*_: object) -> str:
    raise TemplateError("it draws at random: the same question would be another each time. Write what it draws there")
