"""The body of POST /v1/answer and its reply."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from osler.evaluation.looks import Look
from osler.evaluation.question import MAX_VOTES
from osler.serving.strict import StrictModel
from osler.serving.study_settings import StudySettings

MAX_CHOICES: Final = 26
MAX_FILES: Final = 2000


class AskedImage(StrictModel):
    """A picture or a DICOM file."""

    url: str = Field(description="data:image/png;base64,.. ; no other address is fetched")


class AskedFile(StrictModel):
    """A file of a study. Its name is display text and its folders; it names no file of the server."""

    name: str = Field(max_length=1000)
    data: str = Field(description="the bytes in base64")


class AskedStudy(StrictModel):
    """The files of a study: DICOM files, a NIfTI or NRRD volume, pictures."""

    files: Annotated[list[AskedFile], Field(min_length=1, max_length=MAX_FILES)]
    settings: StudySettings | None = None  # in place of `study_settings`


class AskedContext(StrictModel):
    """What is known about the patient beside the image; see `osler.Context`."""

    age: Annotated[str, Field(max_length=100)] | None = None
    sex: Annotated[str, Field(max_length=100)] | None = None
    indication: str | None = None
    history: str | None = None
    prior_findings: str | None = None
    laterality: Annotated[str, Field(max_length=100)] | None = None
    text: str | None = None


class AnswerRequest(StrictModel):
    """A question about images. At most one of `images`, `study` and `upload` is given."""

    question: Annotated[str, Field(min_length=1)]
    choices: Annotated[list[str], Field(max_length=MAX_CHOICES, default_factory=list)]  # none: an open question
    images: Annotated[list[AskedImage], Field(max_length=256, default_factory=list)]
    study: AskedStudy | None = None
    upload: Annotated[str, Field(max_length=100)] | None = None
    study_settings: StudySettings = StudySettings()
    context: AskedContext | None = None
    strategy: Annotated[str, Field(max_length=100)] = "think"
    votes: Annotated[int, Field(ge=1, le=MAX_VOTES)] = 1  # above 1: completions that are drawn, of which the most frequent answer counts
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # of the confidence, below which the answer abstains
    look: Annotated[list[Annotated[Look, Field(strict=False)]], Field(max_length=3, default_factory=list)]
    max_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None  # null: greedy; with votes 1
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    stream: bool = False


class _Reply(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class ChoiceReply(_Reply):
    """One of the choices."""

    letter: str
    text: str
    probability: float | None  # at the token of the answer, all choices together 1; with votes the mean; null where it is not known
    votes: float  # share of the completions with this answer


class LookReply(_Reply):
    """The same question with another image."""

    image: Look
    answer: str | None
    answer_text: str | None
    reasoning: str | None
    choices: list[ChoiceReply]
    changed: bool
    gain: float | None  # probability of the answer with the image, less that of the same answer with this one
    sentence: str


class ShownImages(_Reply):
    """What the policy sees."""

    count: int  # pictures of the prompt
    tokens: int  # that they take
    slice_numbers: list[int] | None  # of the study, from 1; null without one, and where several images are shown
    slices: list[int] | None  # the same, from 0: the older word


class PolicyReply(_Reply):
    """Which policy answered."""

    name: str
    fingerprint: str


class UsageReply(_Reply):
    """Tokens of the answer, those of images included; looks are not."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(_Reply):
    """Seconds from the arrival of the prompt at the policy; looks are not included."""

    queued: float
    first_token: float | None
    total: float


class AnswerReply(_Reply):
    """The answer and what it rests on."""

    answer: str | None  # the letter, or the text of an open answer; null where no rule reads one
    answer_text: str | None
    reasoning: str | None
    completion: str
    rule: str  # of the grader, by which the answer was read
    is_well_formed: bool
    finish_reason: Literal["stop", "length"]
    choices: list[ChoiceReply]
    vote_share: float | None
    confidence: float | None  # the share of votes, or the probability of the answer
    abstains: bool
    threshold: float | None
    look: list[LookReply]
    images: ShownImages
    notes: list[str]  # about the study: files that were left out, missing slices
    prompt: str
    policy: PolicyReply
    prompt_hash: str  # SHA-256 of `prompt`
    usage: UsageReply
    timings: Timings
    disclaimer: str
