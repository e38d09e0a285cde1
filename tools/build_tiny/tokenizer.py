"""The tokenizer of `osler-tiny`: byte-level BPE with a pre-tokenizer that keeps whole phrases together.

A tiny policy learns to answer by letter only if every option is one token and prompts are short. So each option text of a phantom question
("axial brain", "upper left"), each visual sign ("a dark round area with a thin wall") and each instruction of a prompt is one entry of the
vocabulary. All other text falls back to words and then to bytes, so any Unicode string survives encoding and decoding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from osler.data.facts.findings import IMPRESSION
from osler.data.phantom import ATLASES
from osler.data.phantom.atlas import GRADES
from osler.data.phantom.facts import EXTENTS
from osler.data.phantom.rationales import CONCLUSIONS, EXTENT_FRAME, FIRST_FRAMES, FURTHER_FRAMES, PLACE_FRAME
from osler.prompts import BUILT_IN

SPECIAL_TOKENS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MAX_VOCABULARY: Final = 2048
NUM_BASE_TOKENS: Final = len(SPECIAL_TOKENS) + 256  # the first ids: special tokens and single bytes
NUM_MERGES: Final = 250  # pairs of bytes joined for text that is neither phrase nor known word
SYSTEM_MESSAGE: Final = "You are a helpful assistant."

# Renders the same text as Qwen2-VL's own template: a default system turn, and content as a string or as a list of parts.
CHAT_TEMPLATE: Final = (
    "{%- macro show(content) -%}"
    "{%- if content is string -%}{{- content -}}"
    "{%- else -%}{%- for part in content -%}"
    "{%- if part.type in ('image', 'image_url') -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
    "{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\n" + SYSTEM_MESSAGE + "<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + show(message.content) + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

_RATIONALE_CLAUSES: Final = tuple(
    clause.strip(" .")
    for frame in (*FIRST_FRAMES, *FURTHER_FRAMES, EXTENT_FRAME, PLACE_FRAME, *CONCLUSIONS.values(), IMPRESSION)
    for clause in frame.split("{}")
    if clause.strip(" .")
)
"""The words around signs, places and answers in the rationale of a phantom question."""

_SENTENCE: Final = re.compile(r"\S[^\n]*?[.:](?=\s|$)")
_COMMON_WORDS: Final = """
    the a an of in on at to for with without and or not no yes is are was were be been has have had this that these those it its
    as by from which what where when how why who there their left right upper lower middle centre central side both one two three
    four first second image picture scan film view slice section show shows shown seen see look looks suggest suggests suggesting
    indicate indicates most likely more less than because so therefore question answer choose choice option options letter best
    correct following below above describe explain reason think findings finding diagnosis disease patient year old man woman male
    female child history pain fever cough acute chronic normal abnormal healthy benign malignant tumour tumor mass lesion nodule
    cyst fluid blood vessel vessels bone brain lung lungs chest heart liver kidney kidneys spleen stomach bowel abdomen pelvis
    spine skull skin eye retina macula nerve disc cell cells tissue muscle artery vein fracture infection inflammation oedema
    edema haemorrhage hemorrhage infarct stroke abscess pneumonia effusion cancer carcinoma melanoma naevus stone small large big
    round oval bright dark light white black brown red pink purple blue grey ring edge border thick thin smooth irregular dense
    many few single multiple area region spot spots line lines shadow signal contrast weighted axial sagittal coronal frontal
    lateral plain colour color density size shape position location mild moderate severe minimal grade stage modality anatomy
    organ
    """


def list_phrases() -> tuple[str, ...]:
    """Every option text of every atlas, sorted, without repetitions, e.g. "axial brain"."""
    phrases = set(GRADES)
    for atlas in ATLASES.values():
        phrases.update((*atlas.techniques, *atlas.anatomies, *atlas.diseases, *atlas.others))
    return tuple(sorted(phrases))


def list_signs() -> tuple[str, ...]:
    """Every visual sign and size, as written within a sentence and at the start of one."""
    signs = {*EXTENTS.values(), *(sign for atlas in ATLASES.values() for sign in atlas.signs.values())}
    return tuple(sorted(signs | {sign[:1].upper() + sign[1:] for sign in signs}))


def list_clauses() -> tuple[str, ...]:
    """The sentences around the question in the prompts of all strategies, and the heads of chat turns."""
    clauses = {SYSTEM_MESSAGE, "system\n", "user\n", "assistant\n", *_RATIONALE_CLAUSES}
    for strategy in BUILT_IN:
        for template in (strategy.train_template, strategy.eval_template, strategy.open_template or ""):
            for fragment in template.split("{Question}"):
                clauses.update(_SENTENCE.findall(fragment))
    return tuple(sorted(clauses))


def split_pattern(options: Sequence[str] = ()) -> str:
    r"""A regular expression; each match is one pre-token. `options` are option texts beside those of phantoms.

    A space before a phrase or an option's letter belongs to the token before it, so that "A) cyst, B) .." and "A)cyst, B).." contain
    the same tokens "cyst" and "B".
    """
    units = sorted({*list_phrases(), *list_signs(), *options}, key=lambda unit: (-len(unit), unit))
    unit = r"(?<![\p{L}\p{N}])(?:" + "|".join(map(re.escape, units)) + r")(?![\p{L}\p{N}])"
    clause = "|".join(
        re.escape(clause).replace("\\\n", r"\n") for clause in sorted(list_clauses(), key=lambda clause: (-len(clause), clause))
    )
    blank = rf" (?={unit}|[A-Z]\))"
    plain = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]"
    return rf"</?think>|</?answer>| ?(?:{clause})(?:{blank})?|{unit}|{blank}|(?:{plain})(?:{blank})?| {{2,}}|\s"


def build_tokenizer(corpus: Iterable[str], options: Sequence[str] = ()) -> Any:
    """A `PreTrainedTokenizerFast` in which every pre-token of `corpus` is one token, and each of `options`, which are option texts.

    The same arguments yield the same tokenizer.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    splitter = pre_tokenizers.Split(Regex(split_pattern(options)), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    chain = pre_tokenizers.Sequence([splitter, byte_level])
    lines = (*corpus, *_vocabulary_lines(), *(f"A) {option}" for option in options))
    pieces = {piece for line in lines for piece, _ in chain.pre_tokenize_str(line)}

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = byte_level
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + NUM_MERGES, initial_alphabet=alphabet, special_tokens=[], show_progress=False, min_frequency=2
    )
    trained.train_from_iterator((f" {word}" for word in sorted(_COMMON_WORDS.split())), trainer)
    vocabulary, merges = _read_bpe(trained)
    names = [*SPECIAL_TOKENS, *sorted(vocabulary, key=lambda token: vocabulary[token])]
    names += sorted(pieces - set(names))
    assert len(names) <= MAX_VOCABULARY, f"{len(names)} tokens"

    # With ignore_merges a pre-token that is in the vocabulary is one token, without a chain of merges that builds it.
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = chain
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return finish(tokenizer, SPECIAL_TOKENS, 2048)


def finish(backend: Any, special_tokens: Sequence[str], max_length: int) -> Any:
    """Transformers' tokenizer around `backend`, with the padding, the stop token and the chat template of Qwen2-VL."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(special_tokens[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _read_bpe(trained: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _vocabulary_lines() -> Iterable[str]:
    """Lines that contain each phrase, sign, clause, letter and common word in every form that must be one token."""
    yield from (f"A) {phrase}\n({phrase})" for phrase in list_phrases())
    yield from list_signs()
    yield from list_clauses()
    yield from ("<think></think><answer></answer>", *(f"{letter}) x\n{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    for word in _COMMON_WORDS.split():
        yield f"{word} {word}"
        yield word.capitalize()
