"""Synthetic studies of several pictures with known truth, and questions that no single picture answers.

`build_studies` makes the questions; `PhantomStudy` is one study, `StudyPicture` one of its pictures.
"""

from osler.data.phantom.studies.questions import ask, build_studies
from osler.data.phantom.studies.source import PhantomStudy, StudyPicture
from osler.data.phantom.studies.truth import ASPECTS, Aspect, StudyKind, Truth

__all__ = ["ASPECTS", "Aspect", "PhantomStudy", "StudyKind", "StudyPicture", "Truth", "ask", "build_studies"]
