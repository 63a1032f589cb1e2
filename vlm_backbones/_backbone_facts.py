"""What one backbone makes of the training examples: tokens, truncation, labels that decode to their answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vlm_backbones._config_facts import attention_window, dropouts, rotary_positions
from vlm_backbones._hub import loading_options, opening_error, part_files
from vlm_backbones._label_facts import LostText, around_difference, check_labels, kept_of_cut, lost_text, special_words
from vlm_backbones._prompt_facts import prompt_problems, room_problems
from vlm_backbones._untrained_tokens import untrained_tokens
from vlm_backbones.backbones import Backbone, get_backbone
from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.chat_format import get_chat_template
from vlm_backbones.data.conversations import Example
from vlm_backbones.data.evaluation_data import Asked
from vlm_backbones.data.packing import PackedExample, pack_examples
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.vision import VisionTower

__all__ = [
    "BackboneFacts",
    "BackboneView",
    "StageFacts",
    "StageInput",
    "TextParts",
    "number_pieces",
    "open_tokenizer",
    "view_data",
]

_DIGITS = ("36.12", "142.86", "7.3")
_IMAGE_TOKEN = "<image>"

_SHOWN_EXAMPLES = 3
_SHOWN_CHARACTERS = 600


@dataclass(frozen=True)
class StageInput:
    """One training stage as its data is about to be read."""

    name: str
    examples: Sequence[Example]
    order: Sequence[Sequence[int]]
    recipe: StageRecipe


@dataclass(frozen=True)
class StageFacts:
    """One training stage seen through one backbone's tokenizer."""

    optimizer_steps: int
    examples_seen: int
    supervised_tokens: int
    """Over the data once."""
    supervised_tokens_seen: int
    """Over all steps."""
    tokens_an_answer: float
    tokens_an_example: float
    """With the picture's."""
    image_tokens_seen: int
    truncated_answers: int
    truncated_rows: str
    """Hash over which examples are cut, and what is left of their answers."""
    dropped_examples: int
    longest_tokens: int


@dataclass(frozen=True)
class BackboneFacts:
    """One backbone's column of the certificate."""

    files: str
    """Its repository and commit, or a hash over its folder."""
    context_tokens: int | None
    digits: dict[str, list[str]]
    trained_parameters: dict[str, int]
    chat_template: str
    """Its sha256."""
    answer_ends: list[str]
    """Tokens that end an answer: its own files', and the chat format's end of turn."""
    dropout: dict[str, float]
    """What its configuration drops at random; training takes 0 in its place."""
    attention_window: int | None
    rotary_positions: dict[str, Any]
    unplaced_weights: str
    """Tensors of its files that have no place in the model."""
    lost_questions: str
    """How many rows have a question that is another text after its tokenizer, and an example."""
    untrained_tokens: dict[str, str]
    """Tokens of the training text whose embedding the backbone never learnt, and how that is seen."""
    untold_tokens: dict[str, str]
    """Those added to its vocabulary of which it cannot be told, and why not."""
    stages: dict[str, StageFacts]


@dataclass(frozen=True)
class BackboneView:
    """The training data as one backbone sees it."""

    facts: BackboneFacts
    supervised_text: dict[str, list[str]]
    """By stage, the first three examples, decoded; what is supervised stands in double brackets."""
    cut_places: dict[str, frozenset[str]]
    """By stage, file and row of the examples that are cut."""
    special_taught: Mapping[str, frozenset[str]]
    """By file and row of the training text, the words in it that the tokenizer reads as special tokens."""
    special_asked: Mapping[str, frozenset[str]]
    """Of the test splits' questions."""
    lost_taught: LostText
    """The training data's questions that are another text after the tokenizer."""
    lost_asked: LostText
    """The test splits'."""
    problems: tuple[str, ...]
    """Why this backbone would be evaluated otherwise than it is trained, or taught other text than the answers."""


@dataclass(frozen=True)
class TextParts:
    """A backbone without its weights, which were looked at."""

    name: str
    tokenizer: Any
    template: str
    config: Any
    files: str
    row: Backbone
    answer_ends: list[str]
    unplaced_weights: str


def open_tokenizer(backbone: str, chat_format: str, *, trust_remote_code: bool = False) -> TextParts:
    """Return a backbone's tokenizer, chat template and configuration, after a look at its weights where they lie.

    Raises
    ------
    CheckpointError
        If a file cannot be opened, weights are missing or not finite, or a word of ordinary text would end answers.
    ConfigError
        If the chat format does not fit the tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer

    from vlm_backbones.vlm.answer_ends import answer_ends
    from vlm_backbones.vlm.start_token import add_no_tokens
    from vlm_backbones.vlm.whole_weights import check_files

    row = get_backbone(backbone)
    options = {**loading_options(row), "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(row.source, **options)
        config = AutoConfig.from_pretrained(row.source, **options)
    except Exception as error:  # a damaged file makes tokenizers and transformers raise nearly anything
        raise opening_error("backbone", row, error) from error
    if _IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([_IMAGE_TOKEN], special_tokens=True)
    add_no_tokens(tokenizer)  # as the composed checkpoint's
    template = get_chat_template(chat_format, tokenizer, native=row.chat_format)
    ends = [str(tokenizer.convert_ids_to_tokens(token)) for token in answer_ends(row, tokenizer, config, template)]
    unplaced = check_files(row, config, trust_remote_code=trust_remote_code)
    return TextParts(row.id, tokenizer, template, config, part_files(row), row, ends, unplaced)


def view_data(
    parts: TextParts, tower: VisionTower, stages: Sequence[StageInput], asked: Sequence[Asked], bad: BadRows
) -> BackboneView:
    """Tokenise every stage's examples as training does, check the labels and the prompts of `asked`, and count.

    Rows that cannot be packed, or whose supervised tokens do not decode to their answers, are gathered in `bad`;
    then the view is of the others.
    """
    packed = {stage.name: _pack(parts, tower, stage, bad) for stage in stages}
    turns = {turn: None for stage in stages for example in stage.examples for turn in example.turns}
    lost_taught = lost_text(parts.tokenizer, ((turn.place, turn.question) for turn in turns))
    lost_asked = lost_text(parts.tokenizer, ((row.place, row.question) for row in asked))
    added = untrained_tokens(parts.row, parts.tokenizer, parts.config, _used_tokens(parts, packed))
    facts = BackboneFacts(
        files=parts.files,
        context_tokens=getattr(parts.config, "max_position_embeddings", None),
        digits={number: number_pieces(parts.tokenizer, number) for number in _DIGITS},
        trained_parameters={stage.name: _trained_parameters(parts, tower, stage.recipe) for stage in stages},
        chat_template=hashlib.sha256(parts.template.encode()).hexdigest(),
        answer_ends=parts.answer_ends,
        dropout=dropouts(parts.config),
        attention_window=attention_window(parts.config),
        rotary_positions=rotary_positions(parts.config),
        unplaced_weights=parts.unplaced_weights,
        lost_questions=_said_of_lost(lost_taught, lost_asked),
        untrained_tokens=added.untrained,
        untold_tokens=added.untold,
        stages={stage.name: _stage_facts(parts, tower, stage, packed[stage.name].rows) for stage in stages},
    )
    shown = {stage.name: [_shown(parts, row) for row in packed[stage.name].rows[:_SHOWN_EXAMPLES]] for stage in stages}
    cut = {
        stage.name: frozenset(
            example.turns[turn].place
            for example, row in zip(stage.examples, packed[stage.name].rows, strict=False)
            for turn in row.cut_turns
        )
        for stage in stages
    }
    problems = [found.problem for found in packed.values() if found.problem]
    taught = [
        Asked(turn.place, turn.question, example.image is not None)
        for example in stages[-1].examples
        for turn in example.turns
    ]
    problems += prompt_problems(parts.name, parts.tokenizer, parts.template, stages[-1].recipe, [*taught, *asked])
    if facts.context_tokens is not None:
        problems += room_problems(
            parts.name, parts.tokenizer, parts.template, facts.context_tokens, tower.image_tokens, asked
        )
    return BackboneView(
        facts,
        shown,
        cut,
        special_words(parts.tokenizer, ((turn.place, f"{turn.question}\n{turn.answer}") for turn in turns)),
        special_words(parts.tokenizer, ((row.place, row.question) for row in asked)),
        lost_taught,
        lost_asked,
        tuple(problems),
    )


def _said_of_lost(*lost: LostText) -> str:
    """As in `2 of 76: 'CAF\u00c9?' becomes 'cafe?'`."""
    found = [texts[0] for part in lost for texts in part.changed.values()]
    example = f": {' becomes '.join(around_difference(*found[0]))}" if found else ""
    return f"{len(found):,} of {sum(part.rows for part in lost):,}{example}"


def _used_tokens(parts: TextParts, packed: Mapping[str, _Packed]) -> set[int]:
    """Return every token of the training text; the image's own is not among them: features take its place."""
    rows = [row.ids for stage in packed.values() for row in stage.rows]
    used = set(np.unique(np.concatenate(rows)).tolist()) if rows else set()
    return used - {parts.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)}


def number_pieces(tokenizer: Any, number: str) -> list[str]:
    """Return the tokens of a number inside a text, as text, without the space that some tokenizers put first."""
    encoded = tokenizer(f"({number}", add_special_tokens=False, return_offsets_mapping=True)
    ids = [token for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True) if end > 1]
    return [str(tokenizer.decode([token])) for token in ids]


class _Packed(NamedTuple):
    """A stage's examples as training sees them, and what is wrong with how their answers end."""

    rows: list[PackedExample]
    problem: str | None


def _pack(parts: TextParts, tower: VisionTower, stage: StageInput, bad: BadRows) -> _Packed:
    template = parts.template
    if stage.recipe.chat_format is not None:
        template = get_chat_template(stage.recipe.chat_format, parts.tokenizer)
    packed = pack_examples(
        stage.examples,
        parts.tokenizer,
        template,
        image_token_id=parts.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN),
        image_tokens=tower.image_tokens,
        max_length_tokens=stage.recipe.max_length_tokens,
        bad=bad,
    )
    problem = None
    if len(packed) == len(stage.examples):
        problem = check_labels(parts.name, parts.tokenizer, template, stage.examples, packed, bad)
    return _Packed(packed, problem and f"{stage.name}: {problem}")


def _stage_facts(
    parts: TextParts, tower: VisionTower, stage: StageInput, packed: Sequence[PackedExample]
) -> StageFacts:
    if len(packed) < len(stage.examples):  # the caller refuses the study: only the bad rows matter
        return StageFacts(0, 0, 0, 0, 0.0, 0.0, 0, 0, "", 0, 0)
    supervised = np.array([len(row.targets) for row in packed])
    with_image = np.array([row.has_image for row in packed])
    seen = np.fromiter((index for step in stage.order for index in step), dtype=np.int64)
    answers = sum(len(example.turns) for example in stage.examples)
    return StageFacts(
        optimizer_steps=len(stage.order),
        examples_seen=len(seen),
        supervised_tokens=int(supervised.sum()),
        supervised_tokens_seen=int(supervised[seen].sum()),
        tokens_an_answer=round(float(supervised.sum()) / max(1, answers), 3),
        tokens_an_example=round(float(np.mean([len(row.ids) for row in packed])), 1),
        image_tokens_seen=int(with_image[seen].sum()) * tower.image_tokens,
        truncated_answers=sum(row.truncated for row in packed),
        truncated_rows=kept_of_cut(parts.tokenizer, packed),
        dropped_examples=int((supervised == 0).sum()),
        longest_tokens=max(row.lengths[0] + max(row.lengths[1:]) for row in packed),
    )


def _shown(parts: TextParts, row: PackedExample) -> str:
    """Return an example as text: the image as one token, what is supervised in brackets, line breaks as \\n."""
    image = parts.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)
    supervised = set((row.predict_at + 1).tolist())
    ids: list[int] = []
    marks: list[bool] = []
    for index, token in enumerate(row.ids.tolist()):
        if token != image or not ids or ids[-1] != image:
            ids.append(token)
            marks.append(index in supervised)
    text, done = "", ""
    for end in range(1, len(ids) + 1):
        if end == len(ids) or marks[end] != marks[end - 1]:
            # only a text decoded from its start shows the space that a word carries
            whole = str(parts.tokenizer.decode(ids[:end]))
            text += f"\u27e6{whole[len(done) :]}\u27e7" if marks[end - 1] else whole[len(done) :]
            done = whole
    text = text.replace("\n", "\\n")
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _trained_parameters(parts: TextParts, tower: VisionTower, recipe: StageRecipe) -> int:
    """Count from the shapes alone: the model is built without storage."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    from vlm_backbones.vlm.full_size import vision_config

    with torch.device("meta"):
        llm: Any = AutoModelForCausalLM.from_config(parts.config)
    count = 0
    if "projector" in recipe.trainable:
        hidden = int(parts.config.hidden_size)
        width = int(vision_config(tower).hidden_size) * len(tower.feature_layers)
        count += width * hidden + hidden + hidden * hidden + hidden
        count += 2 * width if tower.is_multi_layer else 0  # VipLlava's norm
    if "llm" in recipe.trainable and recipe.lora is None:
        count += sum(weight.numel() for weight in llm.parameters())
    if "llm" in recipe.trainable and recipe.lora is not None:
        head = llm.get_output_embeddings()
        targets = recipe.lora.target
        for name, layer in llm.named_modules():
            leaf = name.rsplit(".", 1)[-1]
            if isinstance(layer, nn.Linear) and layer is not head and (targets == "all-linear" or leaf in targets):
                count += recipe.lora.r * (layer.in_features + layer.out_features)
    return count
