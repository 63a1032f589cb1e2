"""The two pocket tokenizers and their chat formats: byte-level BPE that differs as LLaMA-1/2 and Llama-3 do."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlm_backbones.pocket.make.corpus import vocabulary_texts

__all__ = ["CLASSIC", "HEADERS", "ChatFormat", "build_tokenizer"]

# Images come first in a message; each is `<image>` and a newline.
_CONTENT = (
    "{%- macro content(message) -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)


@dataclass(frozen=True)
class ChatFormat:
    """The special tokens and the pieces around question and answer; `template` says the same in Jinja."""

    bos: str
    end_of_turn: str
    specials: tuple[str, ...]
    before_question: str
    before_answer: str
    answer_lead: str
    template: str


CLASSIC = ChatFormat(
    bos="<s>",
    end_of_turn="</s>",
    specials=("<pad>", "<s>", "</s>", "<image>"),
    before_question="<s>USER: ",
    before_answer=" ASSISTANT:",
    answer_lead=" ",
    template=_CONTENT + "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' + content(message) + ' ASSISTANT:' }}"
    "{%- else -%}{%- generation -%}{{ ' ' + content(message) + eos_token }}{%- endgeneration -%}{%- endif -%}"
    "{%- endfor -%}",
)
HEADERS = ChatFormat(
    bos="<|begin|>",
    end_of_turn="<|eot|>",
    specials=("<pad>", "<|begin|>", "<|eot|>", "<image>", "<|start|>", "<|end|>"),
    before_question="<|begin|><|start|>user<|end|>\n",
    before_answer="<|eot|><|start|>assistant<|end|>\n",
    answer_lead="",
    template=_CONTENT + "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{ '<|start|>' + message['role'] + '<|end|>\\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ content(message) + eos_token }}{%- endgeneration -%}"
    "{%- else -%}{{ content(message) + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start|>assistant<|end|>\\n' }}{%- endif -%}",
)


def build_tokenizer(
    chat: ChatFormat, *, vocabulary: int, digits_grouped: bool, context_tokens: int, texts: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the pretraining text.

    Parameters
    ----------
    digits_grouped
        True: numbers in groups of up to three digits, as Llama-3; False: every digit alone, as LLaMA-1/2.
    texts
        Number of passages to train on.
    """
    tokenizer = Tokenizer(models.BPE())
    if digits_grouped:
        pattern = Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+")
        split = pre_tokenizers.Split(pattern, behavior="isolated")
        pieces = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        digits = pre_tokenizers.Digits(individual_digits=True)
        pieces = [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(chat.specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(vocabulary_texts(texts, seed=7), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=chat.bos,
        eos_token=chat.end_of_turn,
        pad_token="<pad>",
        additional_special_tokens=[s for s in chat.specials if s not in ("<pad>", chat.bos, chat.end_of_turn)],
        model_max_length=context_tokens,
        padding_side="left",
        chat_template=chat.template,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )
