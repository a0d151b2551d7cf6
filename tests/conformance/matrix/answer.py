"""The answer to a call, in one form for all interfaces (SQL, HTTP, clients)."""

from dataclasses import asdict, dataclass

from tests.conformance.matrix.case import (
    Case,
    ExpectedError,
    Json,
    PlaceholderValues,
    fill_placeholders,
    matches,
    normalise,
    our_error,
)

#: PostgREST's code for an error, by the SQLSTATE of the same error.
_POSTGREST_CODES = {"42883": "PGRST202"}


@dataclass(frozen=True)
class Request:
    """A call that a role makes one or more times; the last answer is compared.

    Args:
        case: The id of the case.
        role: The role that calls; see `Case`.
        function: The function, in the schema ``public``.
        args: The arguments by name.
        times: The number of calls.
        is_void: True if the function returns void.
        no_retry: True if a client must not retry the call.
    """

    case: str
    role: str
    function: str
    args: dict[str, Json]
    times: int = 1
    is_void: bool = False
    no_retry: bool = False


@dataclass(frozen=True)
class Answer:
    """Data or an error; a field that the interface does not return is None.

    Args:
        data: The value that the function returned.
        code: The error code: ours (``PQ_…``), or that of PostgreSQL or PostgREST.
        message: The error's message, without the code.
        detail: The error's detail.
        hint: The error's hint.
        status: The HTTP status.
        exception: The name of the exception's class.
    """

    data: Json = None
    code: str | None = None
    message: str | None = None
    detail: str | None = None
    hint: str | None = None
    status: int | None = None
    exception: str | None = None

    def text(self) -> str:
        """Return the fields that are set, for a message."""
        return str({name: value for name, value in asdict(self).items() if value is not None})


def error_answer(
    sqlstate: str | None,
    message: str | None,
    detail: str | None,
    hint: str | None,
    status: int | None = None,
) -> Answer:
    """Return the answer for a PostgreSQL error.

    The SQLSTATE of our errors has the HTTP status, as in PT404; their message begins with our code.
    """
    code, text = sqlstate or "?", message or ""
    if code.startswith("PT") and text.startswith("PQ_"):
        status = status or int(code[2:])
        code, _, text = text.partition(": ")
        # The exceptions of this library begin with a capital letter.
        text = text[:1].upper() + text[1:]
    return Answer(
        code=_POSTGREST_CODES.get(code, code),
        message=text,
        detail=detail or None,
        hint=hint or None,
        status=status,
    )


def build_request(case: Case, placeholders: PlaceholderValues, is_void: bool) -> Request:
    """Return the request of a case, with its placeholders replaced."""
    args = fill_placeholders(dict(case.args), placeholders)
    no_retry = case.expected == our_error("PQ_BUSY")
    return Request(case.id, case.role, case.function, args, case.times, is_void, no_retry)


def select_compared_part(case: Case, answer: Answer, placeholders: PlaceholderValues) -> Answer:
    """Return the parts of an answer that are compared.

    Of a successful answer, these are the data and the class of the status (2 for 200 and 204). Of
    an error that is not ours, these are the code and the status, because the texts differ by
    server and version.
    """
    if answer.code is None:
        data: Json = "<any>"
        if case.expected is not ...:
            compared = answer.data if case.view is None else case.view(answer.data, placeholders)
            data = normalise(compared, placeholders)
        return Answer(data=data, status=answer.status and answer.status // 100)
    if not answer.code.startswith("PQ_"):
        return Answer(code=answer.code, status=answer.status)
    texts = (normalise(text, placeholders) for text in (answer.message, answer.detail, answer.hint))
    return Answer(None, answer.code, *texts, status=answer.status)


def describe_difference(case: Case, compared: Answer) -> str | None:
    """Return the difference from the expected answer as text, or None.

    Args:
        case: The case.
        compared: The compared part of the answer.
    """
    expected = case.expected
    if isinstance(expected, ExpectedError):
        if compared.code != expected.code or compared.status not in (None, expected.status):
            return f"expected {expected.code} ({expected.status}), got {compared.text()}"
    elif compared.code is not None or not matches(expected, compared.data):
        return f"expected {expected}, got {compared.text()}"
    return None


def differs(first: Answer, second: Answer) -> bool:
    """Return True if two answers differ.

    The class of the exception is not compared. The status is not compared if an interface does not
    return it.
    """
    ignored = {"exception"}
    if first.status is None or second.status is None:
        ignored.add("status")
    fields = asdict(first).keys() - ignored
    return any(getattr(first, name) != getattr(second, name) for name in fields)
