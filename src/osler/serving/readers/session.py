"""Where every reader stands: which case comes next, what it shows, and the answer that is saved before the next one is shown."""

from __future__ import annotations

import hmac
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from osler.errors import DataError
from osler.evaluation.readings import Part, Reading, Showing, append_event, events_file, read_events
from osler.evaluation.records import answer_text_of, append_records
from osler.prompts import layout_context
from osler.serving.errors import ApiError
from osler.serving.readers.plan import Step
from osler.serving.readers.results import grade_answer, load_readings, majority_record, reading_record, rebuild_records
from osler.serving.readers.study import Study
from osler.types import LETTERS, PLACE, Record

MAX_REASONING: Final = 5000
"""Characters of a policy's reasoning that are shown."""

_PLACES: Final = re.compile(f"(?:{re.escape(PLACE)})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a reader sends."""

    position: int
    answer: str
    comment: str
    seconds: float


class Sessions:
    """The readers of one study. Every method takes a token; an unknown one is an ApiError (404). Methods may be called from any thread."""

    def __init__(self, study: Study) -> None:
        """Continue where the saved answers end, and make the records from them. Raises DataError for files that do not agree."""
        self.study = study
        self._lock = threading.Lock()
        self._readings = {reader: list(given) for reader, given in load_readings(study).items()}
        self._views: dict[int, int] = {}
        self._shown: dict[int, datetime] = {}
        for reader, given in self._readings.items():
            events = read_events(events_file(study.run.root, reader))
            self._views[reader] = sum(isinstance(one, Showing) and one.position == len(given) for one in events)
        rebuild_records(study, self._readings)

    def find(self, token: str) -> int:
        """The number of the reader with that token."""
        given = token.encode()
        found = [number for number, known in enumerate(self.study.tokens, start=1) if hmac.compare_digest(known.encode(), given)]
        if not found:
            raise ApiError(404, "this address belongs to no reader: copy the whole address that you were given")
        return found[0]

    def progress(self) -> dict[int, tuple[int, int]]:
        """Number of each reader -> cases answered, and cases in all."""
        with self._lock:
            return {reader: (len(given), len(self.study.plan.steps[reader - 1])) for reader, given in self._readings.items()}

    def state(self, token: str) -> dict[str, Any]:
        """Where the reader stands, without the case."""
        reader = self.find(token)
        with self._lock:
            return self._state(reader)

    def open_case(self, token: str) -> dict[str, Any]:
        """The case that the reader answers next; it is noted as shown."""
        reader = self.find(token)
        with self._lock:
            step = self._next(reader)
            position, now = len(self._readings[reader]), datetime.now(UTC)
            append_event(events_file(self.study.run.root, reader), Showing(position=position, at=_text(now)))
            self._views[reader] += 1
            self._shown[reader] = now
            return self._describe(step, position)

    def case_of(self, token: str, position: int) -> Step:
        """The step whose images the reader may see now: the next one, and no other. An ApiError (404) where it is not that one."""
        reader = self.find(token)
        with self._lock:
            if position != len(self._readings[reader]) or not self._views[reader]:
                raise ApiError(404, "this case is not the one that is open")
            return self._next(reader)

    def answer(self, token: str, given: Answer) -> dict[str, Any]:
        """Save an answer, and say where the reader stands then. The same answer again, as after a lost reply, changes nothing.

        An ApiError: 409 for a case that is not the one that is open, 400 for an answer that is none of the choices.
        """
        reader = self.find(token)
        with self._lock:
            done = self._readings[reader]
            if given.position == len(done) - 1 and (done[-1].answer, done[-1].comment) == (given.answer, given.comment):
                return self._state(reader)
            if given.position < len(done):
                raise ApiError(409, "this case is answered already, and there is no way back: reload the page", code="answered")
            step = self._next(reader)
            if given.position != len(done) or not self._views[reader]:
                raise ApiError(409, "this case is not the one that is open: reload the page", code="not_open")
            self._save(reader, step, given)
            return self._state(reader)

    def finish(self) -> None:
        """Put the records in the order of the questions."""
        with self._lock:
            rebuild_records(self.study, self._readings)

    def _next(self, reader: int) -> Step:
        """The step that the reader answers next. An ApiError (409) where there is none, or not yet."""
        steps, done = self.study.plan.steps[reader - 1], len(self._readings[reader])
        if done == len(steps):
            raise ApiError(409, "every case is answered", code="finished")
        if (opens := self._opens(reader)) is not None:
            raise ApiError(409, f"the next part opens at {_text(opens)}", code="waiting")
        return steps[done]

    def _opens(self, reader: int) -> datetime | None:
        """When the part with the policy's answers opens, where the reader must wait for it."""
        done, steps = self._readings[reader], self.study.plan.steps[reader - 1]
        is_due = 0 < len(done) < len(steps) and steps[len(done)].part is Part.WITH_MODEL and done[-1].part is not Part.WITH_MODEL
        if not is_due:
            return None
        opens = datetime.fromisoformat(done[-1].at) + timedelta(days=self.study.plan.settings.washout_days)
        return opens if opens > datetime.now(UTC) else None

    def _state(self, reader: int) -> dict[str, Any]:
        steps, done = self.study.plan.steps[reader - 1], self._readings[reader]
        opens = self._opens(reader)
        is_finished = len(done) == len(steps)
        state: dict[str, Any] = {
            "reader": f"Reader {reader}",
            "phase": "finished" if is_finished else "waiting" if opens else "open",
            "opens": opens and _text(opens),
            "done": len(done),
            "total": len(steps),
            "part": None,
        }
        if not is_finished:
            parts = [part for part in Part if self.study.plan.count(reader, part)]
            part = steps[len(done)].part
            state["part"] = {
                "name": part.value,
                "number": parts.index(part) + 1,
                "of": len(parts),
                "done": sum(one.part is part for one in done),
                "total": self.study.plan.count(reader, part),
            }
        return state

    def _describe(self, step: Step, position: int) -> dict[str, Any]:
        """What a reader sees of a case: nothing tells the right answer, the source of the question or whether it was asked before."""
        name = self.study.plan.sample_ids[step.case]
        sample = self.study.prompts[step.part][name].sample
        return {
            "position": position,
            "part": step.part.value,
            "context": None if sample.context is None else name_places(layout_context(sample.context)) or None,
            "question": name_places(sample.question),
            "choices": [{"letter": letter, "text": text} for letter, text in zip(LETTERS, sample.choices, strict=False)],
            "model": _describe_model(self.study.model[name]) if step.part is Part.WITH_MODEL else None,
        }

    def _save(self, reader: int, step: Step, given: Answer) -> None:
        """Append the event, then the records that follow from it. Raises ApiError for an answer that cannot be saved."""
        name = self.study.plan.sample_ids[step.case]
        prompt = self.study.prompts[step.part][name]
        if prompt.sample.choices and given.answer not in LETTERS[: len(prompt.sample.choices)]:
            raise ApiError(400, "choose one of the answers", param="answer")
        try:
            record = grade_answer(prompt, given.answer, given.comment, self.study.policy_name(reader, step.part))
        except DataError as error:
            raise ApiError(400, str(error), param="comment") from None
        now = datetime.now(UTC)
        shown = self._shown.get(reader)
        reading = Reading(
            position=given.position,
            at=_text(now),
            part=step.part,
            sample_id=name,
            is_repeat=step.is_repeat,
            answer=given.answer,
            comment=given.comment,
            seconds=given.seconds,
            wall_seconds=None if shown is None else round((now - shown).total_seconds(), 3),
            views=self._views[reader],
        )
        append_event(events_file(self.study.run.root, reader), reading)
        self._readings[reader].append(reading)
        self._views[reader] = 0
        self._shown.pop(reader, None)
        if not step.is_repeat:
            self._append_records(reader, reading, record)

    def _append_records(self, reader: int, reading: Reading, record: Record) -> None:
        append_records(self.study.records_file(reader, reading.part), [record])
        given = [self._first(number, reading) for number in self._readings]
        answered = [one for one in given if one is not None]
        if len(answered) == len(given) > 1:
            records = [reading_record(self.study, number, one) for number, one in zip(self._readings, answered, strict=True)]
            append_records(self.study.records_file(None, reading.part), [majority_record(self.study, reading.part, records)])

    def _first(self, reader: int, like: Reading) -> Reading | None:
        """The reader's own first answer to the same question in the same part."""
        key = (like.part, like.sample_id, False)
        return next((one for one in self._readings[reader] if (one.part, one.sample_id, one.is_repeat) == key), None)


def _describe_model(record: Record) -> dict[str, Any]:
    reasoning = record.reasoning and record.reasoning[:MAX_REASONING]
    return {"answer": record.answer if record.choices else None, "text": answer_text_of(record), "reasoning": reasoning}


def name_places(text: str) -> str:
    """The text with "[image]" at the place of an image, and "[8 images]" at that of a study of which so many are shown."""
    return _PLACES.sub(lambda run: "[image]" if run[0] == PLACE else f"[{run[0].count(PLACE)} images]", text)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
