"""The vocabulary of open answers: that of statements (`terms`), and words that only answers need, in English and Chinese.

Two phrases with the same canonical words are the same answer. Sources: organs, adjectives and directions as in Terminologia Anatomica
(FIPAT, 2nd edition 2019) and RadLex (Radiological Society of North America, radlex.org); modalities and views as in DICOM PS3.16, context
groups CID 29 and CID 4010; Chinese terms as in the annotation of SLAKE, whose English and Chinese questions are about the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from osler.facts import Kind
from osler.grading.terms import Phrase, fold_term, fold_word, general_terms

Canonical = tuple[str, ...]
"""What a phrase stands for: ("chest", "xray") for "CXR"."""

# Canonical words, joined by "+", and what stands for them, divided by "|".
_ENGLISH: Final[Mapping[Kind | None, Mapping[str, str]]] = {
    Kind.MODALITY: {
        "xray": "plain film|plain film xray|plain radiograph", "ct": "computerized tomography|computerised tomography",
        "chest+xray": "cxr",
    },
    Kind.PLANE: {"axial": "cross section|cross sectional|horizontal plane", "coronal": "frontal plane"},
    Kind.ANATOMY: {
        "lung": "pulmonary", "liver": "hepatic", "kidney": "renal", "heart": "cardiac", "spleen": "splenic", "stomach": "gastric",
        "brain": "cerebral", "pancreas": "pancreatic", "chest": "thoracic|thoracic cavity|chest cavity", "abdomen": "abdominal",
        "pelvis": "pelvic", "oesophagus": "oesophageal|esophageal|gullet", "trachea": "tracheal", "bronchus": "bronchial|lung bronchus",
        "large bowel": "large intestine", "larynx": "voice box", "parotid": "parotid gland|parotid salivary gland", "aorta": "aortic",
        "inferior vena cava": "ivc", "superior vena cava": "svc", "middle cerebral artery": "mca",
        "posterior inferior cerebellar artery": "pica", "central nervous system": "cns", "gastrointestinal": "gi",
    },
    Kind.SIDE: {"bilateral": "both|both the", "left": "lt", "right": "rt"},
    Kind.POSITION: {
        "central": "centre|middle|mid", "anterior": "front|ventral|anteriorly", "posterior": "back|dorsal|posteriorly",
        "upper": "uppermost", "lower": "lowermost", "posteroanterior": "pa|posterior anterior", "anteroposterior": "ap|anterior posterior",
    },
    Kind.PRESENCE: {
        "cardiomegaly": "heart enlarged|heart is enlarged|enlarged cardiac silhouette",
        "pleural effusion": "effusion in pleura|pleural fluid",
        "gallstone": "cholelithiasis|gallbladder stone", "kidney stone": "nephrolithiasis", "myocardial infarction": "heart attack",
        "pulmonary embolism": "pulmonary embolus", "multiple sclerosis": "ms", "diverticulum": "diverticula|diverticuli",
    },
    Kind.SIZE: {},
    Kind.COLOUR: {
        "hyperdense": "high density|high attenuation|hyperattenuating|hyper dense",
        "hypodense": "low density|low attenuation|hypoattenuating|hypo dense",
        "hyperintense": "high signal|hyper intense", "hypointense": "low signal|hypo intense",
    },
    None: {
        "circular": "round|circle|rounded", "oval": "elliptical|ellipse|ovoid", "irregular": "irregularly shaped", "u-shaped": "u shape",
        "female": "woman|women", "male": "man|men", "intravenous": "iv",
        "breathe": "breathing|respiration", "cerebrospinal fluid": "csf", "enhancing": "enhanced",
        "non-enhancing": "non enhanced|nonenhancing", "visible": "seen|visualised|visualized", "normal": "", "abnormal": "",
        "1st": "first", "2nd": "second", "3rd": "third", "4th": "fourth", "5th": "fifth", "6th": "sixth", "7th": "seventh",
        "8th": "eighth", "9th": "ninth", "10th": "tenth", "11th": "eleventh", "12th": "twelfth",
    },
}  # fmt: skip
_CHINESE: Final[Mapping[Kind | None, Mapping[str, str]]] = {
    Kind.MODALITY: {
        "mri": "核磁共振|磁共振|磁共振成像|核磁共振成像|核磁", "xray": "X光|X射线|X线|X光片|X线片", "ct": "计算机断层扫描|CT扫描",
        "ultrasound": "超声|B超",
    },
    Kind.TECHNIQUE: {"t1-weighted": "T1加权", "t2-weighted": "T2加权"},
    Kind.PLANE: {"axial": "横断面|横切面|横截面|轴位|轴状面|水平面", "coronal": "冠状面|冠状位", "sagittal": "矢状面|矢状位"},
    Kind.ANATOMY: {
        "lung": "肺|肺部|肺脏", "liver": "肝脏|肝|肝部", "heart": "心脏|心", "kidney": "肾脏|肾", "spleen": "脾脏|脾", "stomach": "胃|胃部",
        "brain": "大脑|脑|脑部", "head": "头部|头|头颅", "neck": "颈部|颈|脖子", "chest": "胸腔|胸部|胸", "abdomen": "腹部|腹腔|腹",
        "pelvis": "盆腔|骨盆", "small bowel": "小肠", "large bowel": "大肠", "colon": "结肠", "bowel": "肠|肠道", "bladder": "膀胱",
        "rectum": "直肠", "duodenum": "十二指肠", "oesophagus": "食管|食道", "trachea": "气管", "bronchus": "支气管|肺支气管",
        "larynx": "喉|喉部", "spinal cord": "脊髓", "spine": "脊椎|脊柱", "temporal lobe": "颞叶", "mandible": "下颌骨",
        "parotid": "腮腺", "eye": "眼|眼睛|眼部",
        "tooth": "牙齿|牙", "femoral head": "股骨头", "brain stem": "脑干", "pancreas": "胰腺", "gallbladder": "胆囊",
    },
    Kind.SIDE: {"left": "左|左侧|左边|左方|左部", "right": "右|右侧|右边|右方|右部", "bilateral": "双|双侧|两侧|左右两侧|两边"},
    Kind.POSITION: {
        "upper": "上|上部|上方|上侧|顶部", "lower": "下|下部|下方|下侧|底部", "central": "中心|中部|中间|中央",
        "left+upper": "左上角|左上侧|左上方|左上部", "left+lower": "左下角|左下侧|左下方|左下部",
        "right+upper": "右上角|右上侧|右上方|右上部", "right+lower": "右下角|右下侧|右下方|右下部",
    },
    Kind.PRESENCE: {
        "oedema": "水肿", "tumour": "肿瘤|瘤", "cancer": "癌|癌症", "pneumonia": "肺炎", "pneumothorax": "气胸", "atelectasis": "肺不张",
        "pleural effusion": "胸腔积液|胸水", "effusion": "积液", "cardiomegaly": "心脏肥大|心脏扩大", "nodule": "结节", "mass": "肿块",
        "infiltration": "浸润", "hydrocephalus": "脑积水", "fracture": "骨折", "cyst": "囊肿", "cirrhosis": "肝硬化",
    },
    Kind.COLOUR: {
        "black": "黑色|黑", "white": "白色|白", "grey": "灰色|灰", "dark+grey": "深灰色|深灰", "light+grey": "浅灰色|浅灰",
        "hyperdense": "高密度", "hypodense": "低密度", "red": "红色", "yellow": "黄色",
    },
    None: {
        "circular": "圆形|圆", "oval": "椭圆|椭圆形", "irregular": "不规则|不规则形", "u-shaped": "U形|U型", "enhancing": "增强型|增强",
        "non-enhancing": "非增强型|非增强", "normal": "正常", "abnormal": "不正常|异常", "lobe": "叶",
    },
}  # fmt: skip

IMPLIES_MRI: Final = frozenset({"t1-weighted", "t2-weighted", "flair", "diffusion-weighted"})
_OPPOSITES: Final = (
    "anterior posterior|medial lateral|proximal distal|ascending descending|benign malignant|normal abnormal|acute chronic|"
    "male female|hyperdense hypodense|hyperintense hypointense|larger smaller|posteroanterior anteroposterior|oral intravenous|"
    "enhancing non-enhancing|contrast-enhanced non-contrast|high low|solid cystic|above below|systolic diastolic|arterial venous|"
    "internal external|superficial deep|focal diffuse|convex concave|thick thin|open closed|inside outside|small large"
)
OPPOSITES: Final[Mapping[str, str]] = MappingProxyType(
    {word: other for pair in _OPPOSITES.split("|") for word, other in (pair.split(), pair.split()[::-1])}
)
"""Words of which two answers cannot have one each and be equal."""

NARROWER: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        wide: frozenset(narrow.split())
        for wide, narrow in {
            "tumour": "glioma glioblastoma meningioma cancer malignancy metastasis melanoma haemangioma mass",
            "cancer": "melanoma glioblastoma metastasis malignancy",
            "mass": "cancer cyst abscess nodule metastasis glioma haematoma",
            "lesion": "tumour mass nodule cyst abscess metastasis cancer infarction haemorrhage glioma meningioma haemangioma haematoma",
            "haemorrhage": "haematoma",
            "infection": "pneumonia tuberculosis abscess appendicitis",
            "inflammation": "pneumonia appendicitis infection",
            "opacity": "consolidation atelectasis pneumonia nodule mass infiltration effusion",
        }.items()
    }
)
"""Findings and narrower ones, so that "glioma" for "tumour" is left undecided."""


class AnswerTerms:
    """Phrases by their first word, the longest first, and the kind of each canonical word."""

    def __init__(self, entries: Mapping[Phrase, tuple[Kind | None, Canonical]]) -> None:
        """Index folded phrases."""
        self.kinds: dict[str, Kind | None] = {}
        self._by_first_word: dict[str, list[tuple[Phrase, Canonical]]] = {}
        for phrase, (kind, canonical) in entries.items():
            self._by_first_word.setdefault(phrase[0], []).append((phrase, canonical))
            if len(canonical) == 1:
                self.kinds.setdefault(canonical[0], kind)
        for found in self._by_first_word.values():
            found.sort(key=lambda entry: -len(entry[0]))

    def match(self, words: Sequence[str], position: int) -> tuple[int, Canonical] | None:
        """The longest phrase at a position: (its length, its canonical words); None without one."""
        for phrase, canonical in self._by_first_word.get(words[position], ()):
            if tuple(words[position : position + len(phrase)]) == phrase:
                return len(phrase), canonical
        return None


def own_phrases() -> dict[Phrase, tuple[Kind | None, Canonical]]:
    """The phrases of this module's table, folded."""
    return {
        phrase: (kind, tuple(canonical.split("+")))
        for table in (_ENGLISH, _CHINESE)
        for kind, values in table.items()
        for canonical, synonyms in values.items()
        for text in (canonical, *filter(None, synonyms.split("|")))
        if "+" not in text and (phrase := fold_term(text))
    }


@lru_cache(maxsize=1)
def answer_terms() -> AnswerTerms:
    """All phrases. Where the table of statements has a phrase too, this module's wins: "large bowel" is more than "colon" in an answer."""
    entries: dict[Phrase, tuple[Kind | None, Canonical]] = {}
    for found in general_terms().by_first_word.values():
        for phrase, values in found:
            kind, value = next((stated for stated in values if stated[0] is Kind.TECHNIQUE), values[0])  # "T2-weighted" is more than MRI
            vertical, _, side = value.partition(" ")
            is_pair = kind is Kind.POSITION and bool(side)
            entries[phrase] = kind, (side, vertical) if is_pair else (value,)
    return AnswerTerms(entries | own_phrases() | {(fold_word("bowel"),): (Kind.ANATOMY, ("bowel",))})
