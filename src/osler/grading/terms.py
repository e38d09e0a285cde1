"""The general vocabulary of statements: modalities, techniques, planes, organs, findings, places and other values, with their synonyms.

A value is a singular noun or an adjective in lower case and British spelling ("tumour", "axial", "upper left"). Texts and phrases are
compared word by word after `fold_word`, without articles, so "Tumors" and "a tumour" are both "tumour".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from osler.facts import Kind, Term
from osler.taxonomy import Modality
from osler.text import ARTICLES, split_words

Phrase = tuple[str, ...]
Vocabulary = Mapping[str, frozenset[Phrase]]


def phrases(*texts: str) -> frozenset[Phrase]:
    """Each text as the tuple of its words."""
    return frozenset(tuple(text.split()) for text in texts)


MODALITY_WORDS: Final[Vocabulary] = MappingProxyType(
    {
        Modality.CT.value: phrases("ct", "computed tomography", "cat scan"),
        Modality.MRI.value: phrases("mri", "mr", "magnetic resonance", "t1 weighted", "t2 weighted", "flair"),
        Modality.XRAY.value: phrases("x ray", "x rays", "xray", "radiograph", "radiographs", "radiography", "roentgenogram"),
        Modality.ULTRASOUND.value: phrases("ultrasound", "ultrasonography", "sonogram", "sonography", "echocardiogram"),
        Modality.DERMOSCOPY.value: phrases("dermoscopy", "dermoscopic", "dermatoscopy", "dermatoscopic"),
        Modality.FUNDUS.value: phrases(
            "fundus photograph", "fundus photography", "fundus image", "colour fundus", "color fundus", "fundoscopy"
        ),
        Modality.OCT.value: phrases("oct", "optical coherence tomography"),
        Modality.MICROSCOPY.value: phrases("microscopy", "micrograph", "microscopic", "microscope", "histology slide", "histopathology"),
    }
)
NOT_A_SIDE: Final = phrases(
    "answer", "option", "choice", "one", "diagnosis", "letter", "angle", "away", "out", "over", "untreated", "behind"
)
"""Words after "left" or "right" where neither is a side: "the right answer", "left untreated"."""

_NUMBER_WORDS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS: Final = MappingProxyType({word: str(number) for number, word in enumerate(_NUMBER_WORDS, start=1)} | {"single": "1", "both": "2"})
# Synonyms are divided by "|". Every value is a phrase too.
_SYNONYMS: Final[Mapping[Kind, Mapping[str, str]]] = {
    Kind.TECHNIQUE: {
        "t1-weighted": "t1|t1w",
        "t2-weighted": "t2|t2w",
        "flair": "fluid attenuated inversion recovery",
        "diffusion-weighted": "dwi|diffusion weighted imaging",
        "contrast-enhanced": "with contrast|post contrast|contrast agent|gadolinium enhanced",
        "non-contrast": "without contrast|unenhanced|noncontrast|no contrast|pre contrast",
    },
    Kind.PLANE: {
        "axial": "transverse|transaxial|transversal|axial plane|transverse plane|axial section|transverse section",
        "sagittal": "sagittal plane|sagittal section",
        "coronal": "coronal plane|coronal section",
    },
    Kind.ANATOMY: {
        "head": "", "brain": "cerebrum", "skull": "cranium", "cerebellum": "", "brain stem": "brainstem", "ventricle": "",
        "temporal lobe": "", "frontal lobe": "", "parietal lobe": "", "occipital lobe": "", "face": "", "mandible": "jaw", "tooth": "teeth",
        "tongue": "", "neck": "", "thyroid": "thyroid gland", "larynx": "", "spine": "spinal column|vertebral column",
        "spinal cord": "", "vertebra": "vertebrae|vertebral body", "intervertebral disc": "", "chest": "thorax", "lung": "",
        "heart": "", "trachea": "windpipe", "bronchus": "bronchi|pulmonary bronchus", "oesophagus": "", "diaphragm": "", "rib": "",
        "clavicle": "collarbone", "mediastinum": "", "aorta": "", "breast": "", "abdomen": "abdominal cavity", "upper abdomen": "",
        "liver": "", "gallbladder": "gall bladder", "spleen": "", "kidney": "", "pancreas": "", "stomach": "", "duodenum": "",
        "small bowel": "small intestine", "colon": "large bowel|large intestine", "bowel": "intestine", "rectum": "",
        "adrenal gland": "", "pelvis": "pelvic cavity", "bladder": "urinary bladder", "prostate": "", "uterus": "", "ovary": "",
        "hip": "", "femur": "", "femoral head": "", "knee": "", "patella": "", "tibia": "", "fibula": "", "foot": "feet", "ankle": "",
        "shoulder": "", "humerus": "", "elbow": "", "forearm": "", "wrist": "", "hand": "", "finger": "", "eye": "", "retina": "",
        "macula": "", "fovea": "", "optic disc": "optic disk", "cornea": "", "lens": "", "choroid": "", "vitreous": "",
    },
    Kind.SIDE: {
        "left": "left sided|left side",
        "right": "right sided|right side",
        "bilateral": "both sides|on each side|bilaterally",
        "midline": "",
    },
    Kind.POSITION: {
        "upper": "top|superior", "lower": "bottom|inferior", "anterior": "", "posterior": "",
        "central": "in centre|at centre|in middle|near centre|near middle",
    },
    Kind.PRESENCE: {
        "tumour": "neoplasm|neoplastic lesion", "cancer": "carcinoma", "malignancy": "", "metastasis": "metastases", "mass": "",
        "nodule": "",
        "cyst": "", "abscess": "", "haematoma": "", "haemorrhage": "bleeding|bleed", "haemangioma": "", "oedema": "", "effusion": "",
        "pleural effusion": "", "ascites": "", "pneumonia": "", "pneumothorax": "", "atelectasis": "", "consolidation": "", "opacity": "",
        "infiltration": "infiltrate", "emphysema": "", "fibrosis": "", "tuberculosis": "", "cardiomegaly": "enlarged heart", "fracture": "",
        "dislocation": "", "calcification": "", "stone": "calculus|calculi", "hydronephrosis": "", "infarction": "infarct|stroke",
        "ischaemia": "", "aneurysm": "", "stenosis": "", "thrombus": "thrombosis", "embolism": "", "hernia": "", "inflammation": "",
        "infection": "", "glioma": "", "glioblastoma": "", "meningioma": "", "melanoma": "", "naevus": "naevi", "keratosis": "",
        "glaucoma": "", "drusen": "", "exudate": "", "microaneurysm": "", "retinopathy": "", "cirrhosis": "", "steatosis": "fatty liver",
        "scoliosis": "", "osteoarthritis": "", "polyp": "", "appendicitis": "", "obstruction": "", "atrophy": "", "hydrocephalus": "",
        "midline shift": "", "mass effect": "", "free air": "", "lymphadenopathy": "", "swelling": "",
    },
    Kind.SIZE: {
        "tiny": "minute", "small": "", "medium-sized": "medium size", "large": "big", "enlarged": "",
        "normal-sized": "normal size|of normal size|normal in size",
    },
    Kind.SEVERITY: {"minimal": "", "mild": "slight", "moderate": "", "severe": ""},
    Kind.COLOUR: dict.fromkeys(
        ("black", "white", "grey", "red", "blue", "brown", "green", "yellow", "orange", "pink", "purple"), ""
    ),
    Kind.CHANGE: {
        "larger": "bigger|increased|increase|has grown", "smaller": "decreased|decrease|shrunk", "unchanged": "stable|no change",
        "new": "newly developed", "resolved": "disappeared", "improved": "improvement", "worse": "worsened|progression|progressed",
    },
}  # fmt: skip
GENERIC: Final = frozenset(
    {"lesion", "abnormality", "anomaly", "finding", "area", "region", "change", "disease", "collection", "spot", "patch", "focus"}
)
"""Nouns that stand for the only lesion of an image, so what is said about them is about None."""
LESION: Final = "lesion"
LESION_WORDS: Final = frozenset({"lesion", "abnormality", "anomaly"})
"""The generic nouns whose presence or absence is stated: "there is no abnormality" states that there is no lesion."""
VAGUE_FINDINGS: Final = frozenset({"opacity", "swelling", "nodule"})
"""Words for almost any lesion, so they are not false where a lesion of another name is known."""
NAMESAKES: Final = MappingProxyType(
    {
        "head": phrases("pancreatic", "humeral", "humerus", "radial", "fibular", "caudate", "metatarsal", "muscle"),
        "neck": phrases("femoral", "surgical", "anatomical", "gallbladder", "pancreatic", "bladder"),
        "pelvis": phrases("renal", "kidney"),
        "ventricle": phrases("cardiac", "heart", "left", "right"),
        "hand": phrases("other", "one"),
        "eye": phrases("naked"),
    }
)
"""Words before a name that make it another thing: "the pancreatic head" is no head, "on the other hand" is no hand."""
NOT_AN_ORGAN: Final = frozenset({"failure", "function", "rate", "transplant", "transplantation"})
"""Words behind an organ with which it names no part of the image: "heart failure"."""
NOT_A_PLANE: Final = frozenset(
    {"diameter", "dimension", "width", "axis", "process", "sinus", "sinuses", "colon", "suture", "sutures", "fissure"}
)
"""Words behind "transverse" and others where it is no plane: "the transverse diameter"."""
SUBSTANCES: Final = frozenset({"fluid", "fat", "air", "tissue"})
"""Not a finding behind a word for brightness: "bright fluid" describes the image."""

_PARTS: Final[Mapping[str, str]] = {
    "head": "brain skull cerebellum brain_stem ventricle temporal_lobe frontal_lobe parietal_lobe occipital_lobe face eye mandible tooth "
    "tongue scalp",
    "brain": "cerebellum brain_stem ventricle temporal_lobe frontal_lobe parietal_lobe occipital_lobe",
    "face": "eye mandible tooth tongue",
    "neck": "thyroid larynx trachea oesophagus spine spinal_cord vertebra mandible",
    "spine": "spinal_cord vertebra intervertebral_disc",
    "chest": "lung heart trachea bronchus oesophagus diaphragm rib clavicle mediastinum aorta breast spine vertebra spinal_cord shoulder "
    "liver stomach",
    "abdomen": "upper_abdomen kidney_level "
    "liver gallbladder spleen kidney pancreas stomach duodenum small_bowel colon bowel adrenal_gland aorta spine "
    "vertebra spinal_cord rib diaphragm lung heart",
    "upper abdomen": "liver gallbladder spleen kidney pancreas stomach duodenum small_bowel colon bowel adrenal_gland aorta spine vertebra "
    "spinal_cord rib diaphragm lung heart",
    "kidney level": "liver gallbladder pancreas duodenum small_bowel colon bowel aorta spine vertebra spinal_cord",
    "pelvis": "bladder prostate uterus ovary rectum colon small_bowel bowel hip femur femoral_head spine vertebra",
    "bowel": "small_bowel colon duodenum rectum",
    "hip": "femur femoral_head",
    "knee": "femur tibia fibula patella",
    "hand": "finger wrist palm",
    "eye": "retina macula fovea optic_disc cornea lens choroid vitreous peripheral_retina",
    "retina": "macula fovea optic_disc peripheral_retina choroid",
    "macula": "fovea retina choroid",
    "fovea": "macula retina choroid vitreous",
    "optic disc": "retina",
    "cornea": "lens",
}
PARTS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {whole: frozenset(part.replace("_", " ") for part in parts.split()) for whole, parts in _PARTS.items()}
)
"""What an image of a region can show too, e.g. a lung on an image of the chest."""

_SPELLINGS: Final = {
    "tumor": "tumour", "color": "colour", "colored": "coloured", "gray": "grey", "edema": "oedema", "esophagus": "oesophagus",
    "center": "centre", "nevus": "naevus", "nevi": "naevi", "fiber": "fibre", "disk": "disc",
    "cecum": "caecum", "esophageal": "oesophageal", "fetal": "foetal", "fetus": "foetus", "polarized": "polarised", "naevi": "naevus",
}  # fmt: skip
_AMERICAN_BLOOD: Final = ("hema", "hemo", "heman")


@lru_cache(maxsize=8192)
def fold_word(word: str) -> str:
    """A word of `split_words` as a singular in British spelling: "hemorrhages" -> "haemorrhage"."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        if word.endswith("ies"):
            word = word[:-3] + "y"
        elif word.endswith(("sses", "xes", "ches", "shes")):
            word = word[:-2]
        else:
            word = word[:-1]
    if word.startswith(_AMERICAN_BLOOD):
        word = "ha" + word[1:]
    if word.endswith(("emia", "emic")) and word[-5:-4] != "a":
        word = f"{word[:-4]}a{word[-4:]}"
    return _SPELLINGS.get(word, word)


@lru_cache(maxsize=8192)
def fold_term(text: str) -> Phrase:
    """The words of a phrase or value as they are compared: "The T2-weighted images" -> ("t2", "weighted", "image")."""
    return tuple(fold_word(word) for word in split_words(text).folded if word not in ARTICLES)


Values = tuple[tuple[Kind, str], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class TermIndex:
    """Phrases and the values that each states, by first word; the longest phrase first. Two indexes are equal if they are the same."""

    by_first_word: Mapping[str, Sequence[tuple[Phrase, Values]]]
    meanings: Mapping[str, frozenset[Kind]] = field(default_factory=dict)  # of each sign, what it is a sign of
    values: Mapping[Kind, frozenset[Phrase]] = field(default_factory=dict)  # of each kind, the folded values of the dataset

    def match(self, words: Sequence[str], position: int) -> tuple[int, Values] | None:
        """The longest phrase that begins at a position of the folded words: (its length, its values); None without one."""
        for phrase, values in self.by_first_word.get(words[position], ()):
            if tuple(words[position : position + len(phrase)]) == phrase:
                return len(phrase), values
        return None


_MAX_INDEXES: Final = 256
_indexes: dict[tuple[int, ...], tuple[tuple[Term, ...], TermIndex]] = {}  # with the terms, which keeps their identities theirs


def index_terms(terms: Sequence[Term]) -> TermIndex:
    """Index the phrases of a dataset.

    All samples of a dataset share its terms, so an index is kept by their identities: to hash 200 terms takes as long as to read a
    reasoning.
    """
    key = tuple(map(id, terms))
    if key not in _indexes:
        if len(_indexes) >= _MAX_INDEXES:
            _indexes.clear()
        own = tuple(terms)
        _indexes[key] = own, _index_terms(own)
    return _indexes[key][1]


@lru_cache(maxsize=_MAX_INDEXES)
def _index_terms(terms: tuple[Term, ...]) -> TermIndex:
    meanings: dict[str, frozenset[Kind]] = {}
    for term in terms:
        if term.sign_of is not None:
            meanings[term.value] = meanings.get(term.value, frozenset()) | {term.sign_of}
    index = _index((fold_term(term.phrase), term.kind, term.value) for term in terms)
    values = {kind: frozenset(fold_term(term.value) for term in terms if term.kind is kind) for kind in {term.kind for term in terms}}
    return TermIndex(by_first_word=index.by_first_word, meanings=meanings, values=values)


@lru_cache(maxsize=1)
def general_terms() -> TermIndex:
    """Index the general vocabulary. A weighting states its modality too: "T2-weighted" is MRI."""
    entries = [
        (fold_term(phrase), kind, value)
        for kind, values in _SYNONYMS.items()
        for value, synonyms in values.items()
        for phrase in (value, *filter(None, synonyms.split("|")))
    ]
    entries += [
        (tuple(fold_word(word) for word in phrase), Kind.MODALITY, modality)
        for modality, names in MODALITY_WORDS.items()
        for phrase in sorted(names)
    ]
    entries += [((noun,), Kind.PRESENCE, noun) for noun in sorted(GENERIC)]
    for vertical, verticals in (("upper", ("upper", "top", "superior")), ("lower", ("lower", "bottom", "inferior"))):
        for side in ("left", "right"):
            value = f"{vertical} {side}"
            entries += [(phrase, Kind.POSITION, value) for word in verticals for phrase in ((word, side), (side, word))]
    return _index(entries)


@lru_cache(maxsize=8192)
def fold_value(kind: Kind, value: str) -> Phrase:
    """The folded value that a text with these words states, so that facts may be spelt as texts are: "MR" -> ("mri",)."""
    phrase = fold_term(value)
    entries = general_terms().by_first_word.get(phrase[0], ()) if phrase else ()
    stated = (known for words, values in entries if words == phrase for of_kind, known in values if of_kind is kind)
    return next(map(fold_term, stated), phrase)


def _index(entries: Iterable[tuple[Phrase, Kind, str]]) -> TermIndex:
    values: dict[Phrase, dict[tuple[Kind, Phrase], tuple[Kind, str]]] = {}
    for phrase, kind, value in entries:
        if phrase:  # "haemorrhage" and "haemorrhages" are one value
            values.setdefault(phrase, {}).setdefault((kind, fold_term(value)), (kind, value))
    by_first_word: dict[str, list[tuple[Phrase, Values]]] = {}
    for phrase, stated in values.items():
        by_first_word.setdefault(phrase[0], []).append((phrase, tuple(stated.values())))
    for found in by_first_word.values():
        found.sort(key=lambda entry: -len(entry[0]))
    return TermIndex(by_first_word=by_first_word)


@lru_cache(maxsize=1)
def organs() -> frozenset[Phrase]:
    """The folded names of the organs and body regions of the general vocabulary."""
    return frozenset(fold_term(value) for value in _SYNONYMS[Kind.ANATOMY])


@lru_cache(maxsize=1)
def findings() -> frozenset[Phrase]:
    """The folded names of the findings of the general vocabulary."""
    return frozenset(fold_term(value) for value in _SYNONYMS[Kind.PRESENCE])
