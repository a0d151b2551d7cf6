"""An answer as a way saw it, in words all ways share."""

from dataclasses import asdict, dataclass

from tests.conformance.matrix.case import (
    Case,
    Json,
    Names,
    Refusal,
    filled,
    fits,
    normalised,
    refused,
)

#: The same, said by SQL and by PostgREST.
_SAME = {"42883": "PGRST202"}


@dataclass(frozen=True)
class Request:
    """A call with its arguments, as a role; made as often as asked, and the last answer counts.

    Args:
        case: Its id.
        role: See `Case`.
        function: In the schema ``public``.
        args: By name.
        times: How often.
        is_void: The function returns nothing.
        once: A client that repeats calls by itself is not to.
    """

    case: str
    role: str
    function: str
    args: dict[str, Json]
    times: int = 1
    is_void: bool = False
    once: bool = False


@dataclass(frozen=True)
class Answer:
    """Data, or an error; what a way does not show is None.

    Args:
        data: What the function answered; None for nothing.
        code: ``PQ_…`` of ours, else PostgreSQL's or PostgREST's.
        message: Of the error, without the code.
        detail: Of the error.
        hint: Of the error.
        status: Of HTTP.
        kind: Name of the typed exception.
    """

    data: Json = None
    code: str | None = None
    message: str | None = None
    detail: str | None = None
    hint: str | None = None
    status: int | None = None
    kind: str | None = None

    def text(self) -> str:
        """For people."""
        return str({name: value for name, value in asdict(self).items() if value is not None})


def failure(
    sqlstate: str | None,
    message: str | None,
    detail: str | None,
    hint: str | None,
    status: int | None = None,
) -> Answer:
    """The answer of an error with the fields of PostgreSQL; ours say the status in the SQLSTATE."""
    code, rest = sqlstate or "?", message or ""
    if code.startswith("PT") and rest.startswith("PQ_"):
        status = status or int(code[2:])
        code, _, rest = rest.partition(": ")
        rest = rest[:1].upper() + rest[1:]
    return Answer(
        code=_SAME.get(code, code),
        message=rest,
        detail=detail or None,
        hint=hint or None,
        status=status,
    )


def request_of(case: Case, names: Names, is_void: bool) -> Request:
    """The call of a case under these names."""
    args = filled(dict(case.args), names)
    once = case.expected == refused("PQ_BUSY")
    return Request(case.id, case.role, case.function, args, case.times, is_void, once)


def compared(case: Case, answer: Answer, names: Names) -> Answer:
    """Return the parts of an answer that are compared: of errors that are not ours the code,
    since servers and versions word them differently."""
    if answer.code is None:
        data: Json = "<any>"
        if case.expected is not ...:
            viewed = answer.data if case.view is None else case.view(answer.data, names)
            data = normalised(viewed, names)
        return Answer(data=data, status=answer.status and answer.status // 100)
    if not answer.code.startswith("PQ_"):
        return Answer(code=answer.code, status=answer.status)
    words = (normalised(text, names) for text in (answer.message, answer.detail, answer.hint))
    return Answer(None, answer.code, *words, status=answer.status)


def complaint(case: Case, seen: Answer) -> str | None:
    """Return the fault of an answer, as `compared` gives it; None if it is as expected."""
    expected = case.expected
    if isinstance(expected, Refusal):
        if seen.code != expected.code or seen.status not in (None, expected.status):
            return f"expected {expected.code} ({expected.status}), got {seen.text()}"
    elif seen.code is not None or not fits(expected, seen.data):
        return f"expected {expected}, got {seen.text()}"
    return None


def differs(one: Answer, other: Answer) -> bool:
    """Return whether two interfaces differ; a field that one does not show is no difference."""
    a, b = asdict(one) | {"kind": None}, asdict(other) | {"kind": None}
    if one.status is None or other.status is None:
        a["status"] = b["status"] = None
    return a != b
