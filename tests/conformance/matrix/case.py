"""A case of the matrix, and the comparison of an answer with the expected answer."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from picture_queue.errors import BY_CODE

Json = Any
#: Takes an answer and the placeholders of its case. Returns the part of the answer to compare.
View = Callable[[Json, "PlaceholderValues"], Json]


@dataclass(frozen=True)
class ExpectedError:
    """An error that every interface must return.

    Args:
        code: Our code (``PQ_…``), a SQLSTATE or a code of PostgREST.
        status: The HTTP status.
    """

    code: str
    status: int

    @property
    def is_ours(self) -> bool:
        """Return True if our SQL raises this error. The texts of such errors are compared too."""
        return self.code.startswith("PQ_")


def our_error(code: str) -> ExpectedError:
    """Return the expected error for one of our codes."""
    status = BY_CODE[code].http_status
    assert status is not None
    return ExpectedError(code, status)


INVALID = our_error("PQ_INVALID_ARGUMENT")
NO_JOB = our_error("PQ_UNKNOWN_JOB")
#: No function has these parameters. This is the code of PostgREST; PostgreSQL has 42883.
NO_SUCH_FUNCTION = ExpectedError("PGRST202", 404)
#: The argument is not a value of the parameter's type.
NOT_A_VALUE = ExpectedError("22P02", 400)
NOT_A_TIME = ExpectedError("22007", 400)
#: The role may not execute the function. The status is 401 for `anon` and 403 for other roles.
ANONYMOUS = ExpectedError("42501", 401)
FORBIDDEN = ExpectedError("42501", 403)
#: These errors occur before the function reads a row, so their cases need no setup.
ERRORS_BEFORE_ANY_READ = (NO_SUCH_FUNCTION, NOT_A_VALUE, NOT_A_TIME, ANONYMOUS, FORBIDDEN)

#: For each type: a value that the type cannot hold, and the error. The types text and jsonb accept
#: any value, so `Function.wrong` has an invalid value for each of their parameters.
WRONG_VALUES: dict[str, tuple[Json, ExpectedError]] = {
    "uuid": ("seven", NOT_A_VALUE),
    "integer": ("many", NOT_A_VALUE),
    "real": ("much", NOT_A_VALUE),
    "numeric": ("much", NOT_A_VALUE),
    "boolean": ("perhaps", NOT_A_VALUE),
    "timestamp with time zone": ("soon", NOT_A_TIME),
    "text[]": (7, NOT_A_VALUE),
    "uuid[]": (["seven"], NOT_A_VALUE),
    "real[]": (7, NOT_A_VALUE),
}


@dataclass(frozen=True)
class Case:
    """One call and its expected answer.

    ``$name`` in arguments and answers is a placeholder. It stands for the value that the setup
    stored under this name, or for a new id or name.

    Args:
        id: ``function/kind``, and more parts if needed for uniqueness.
        function: The function, in the schema ``public``.
        role: ``anon``, ``ada``, ``bob``, ``service``, or ``no_user``, whose token names no user.
        args: The arguments by name.
        expected: An answer (for an object, the compared fields) or an `ExpectedError`; ``...``
            accepts any answer.
        setup: The name of the setup in `setups.SETUPS`.
        times: The number of calls; the last answer is compared.
        view: Selects the compared part of an answer that covers the whole project.
        read_only: True if the function only reads, so that its cases share one setup.
        needs: A key of `NEEDS`, or "".
    """

    id: str
    function: str
    role: str
    args: Mapping[str, Json]
    expected: Json | ExpectedError
    setup: str = ""
    times: int = 1
    view: View | None = None
    read_only: bool = False
    needs: str = ""


#: The requirements of some cases besides the address and the keys of a project.
NEEDS = {
    "locks": "needs the address of the database (PICTURE_QUEUE_TEST_DB_URL), to hold locks",
    "secret": "needs the secret of the tokens (SUPABASE_JWT_SECRET), to sign a token",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function."""

    name: str
    type: str
    optional: bool


@dataclass(frozen=True)
class Function:
    """A public function, and the data from which `build_cases` makes its cases.

    Args:
        name: The name, in the schema ``public``.
        callers: ``user`` (signed-in users, for their own rows, and service keys) or ``service``.
        signature: The parameters, separated by commas: ``name type``, then ``=`` if optional.
        args: The arguments of a valid call.
        right: The answer to the valid call.
        repeated: The answer if the valid call is repeated; ``...`` if it is the same.
        setup: The required setup.
        absent: By parameter, the answer to a call without this argument. The default is
            `NO_SUCH_FUNCTION` for a required parameter, and otherwise the answer to the valid call.
        null: By parameter without a default, the answer to a call with null.
        wrong: By parameter, a value of the wrong type, and the answer to a call with this value.
            `WRONG_VALUES` has the defaults.
        foreign: The answer to a user who does not own the rows.
        view: See `Case`.
        read_only: True for a stable function, which PostgREST calls in a read-only transaction.
    """

    name: str
    callers: str
    signature: str
    args: Mapping[str, Json] = field(default_factory=dict)
    right: Json = None
    repeated: Json = ...
    setup: str = ""
    absent: Mapping[str, Json] = field(default_factory=dict)
    null: Mapping[str, Json] = field(default_factory=dict)
    wrong: Mapping[str, tuple[Json, Json]] = field(default_factory=dict)
    foreign: Json = ...
    view: View | None = None
    read_only: bool = False

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters, parsed from the signature."""
        return [
            Parameter(*text.strip().rstrip("=").strip().split(" ", 1), text.strip().endswith("="))
            for text in self.signature.split(",")
            if text.strip()
        ]


def build_cases(function: Function) -> list[Case]:
    """Return the six kinds of cases of a function.

    Raises:
        KeyError: The answer to null or to a wrong type is missing for a parameter.
    """
    cases: list[Case] = []

    def add(kind: str, role: str, args: Mapping[str, Json], expected: Json, times: int = 1) -> None:
        is_error = isinstance(expected, ExpectedError)
        setup = "" if is_error and expected in ERRORS_BEFORE_ANY_READ else function.setup
        view = None if is_error else function.view
        name = f"{function.name}/{kind}"
        cases.append(
            Case(name, function.name, role, args, expected, setup, times, view, function.read_only)
        )

    args, right = dict(function.args), function.right
    add("right", "service", args, right)
    repeated = right if function.repeated is ... else function.repeated
    add("repeated", "service", args, repeated, times=2)
    add("unauthorised/anon", "anon", args, ANONYMOUS)
    if function.callers == "user":
        add("right/owner", "ada", args, right)
        add("repeated/owner", "ada", args, repeated, times=2)
        add("unauthorised/other", "bob", args, function.foreign)
    else:
        add("unauthorised/user", "ada", args, FORBIDDEN)
    for kind, build_variants in (
        ("absent", _variants_without_argument),
        ("null", _variants_with_null),
        ("wrong", _variants_with_wrong_type),
    ):
        for name, changed_args, expected in build_variants(function):
            add(f"{kind}/{name}", "service", changed_args, expected)
    return cases


#: Changed calls: the name of the changed parameter, all arguments, and the expected answer.
Variants = list[tuple[str, dict[str, Json], Json]]
#: For a function without parameters, the name of the variant that passes an unknown argument.
_NO_PARAMETER = "no such parameter"


def _variants_without_argument(function: Function) -> Variants:
    variants: Variants = []
    for parameter in function.parameters:
        others = {name: value for name, value in function.args.items() if name != parameter.name}
        default = function.right if parameter.optional else NO_SUCH_FUNCTION
        variants.append((parameter.name, others, function.absent.get(parameter.name, default)))
    return variants or [("all", {}, function.right)]


def _variants_with_null(function: Function) -> Variants:
    variants: Variants = []
    for parameter in function.parameters:
        # For a parameter with a default, null means the default.
        absent = function.absent.get(parameter.name, function.right)
        expected = absent if parameter.optional else function.null[parameter.name]
        variants.append((parameter.name, {**function.args, parameter.name: None}, expected))
    return variants or [(_NO_PARAMETER, {"unknown": None}, NO_SUCH_FUNCTION)]


def _variants_with_wrong_type(function: Function) -> Variants:
    variants: Variants = []
    for parameter in function.parameters:
        name, default = parameter.name, WRONG_VALUES.get(parameter.type)
        value, expected = function.wrong.get(name, default) or function.wrong[name]
        variants.append((name, {**function.args, name: value}, expected))
    return variants or [(_NO_PARAMETER, {"unknown": 7}, NO_SUCH_FUNCTION)]


# Placeholders


#: The values of the placeholders, by name.
PlaceholderValues = dict[str, Json]
#: A placeholder whose name begins with one of these words gets a new text; others get a new UUID.
_TEXTS = ("queue", "worker", "name", "key", "event", "tenant", "text", "plan")
_PLACEHOLDER = re.compile(r"\$([a-z_]+)")


def fill_placeholders(value: Json, placeholders: PlaceholderValues) -> Json:
    """Replace placeholders by their values; a placeholder without a value gets a new value."""
    if isinstance(value, dict):
        return {key: fill_placeholders(item, placeholders) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill_placeholders(item, placeholders) for item in value]
    if not isinstance(value, str):
        return value
    match = _PLACEHOLDER.fullmatch(value)
    if match:  # The value of the placeholder may have any type.
        return _resolve(match[1], placeholders)
    return _PLACEHOLDER.sub(lambda match: str(_resolve(match[1], placeholders)), value)


def _resolve(name: str, placeholders: PlaceholderValues) -> Json:
    if name not in placeholders:
        is_text = name.startswith(_TEXTS)
        placeholders[name] = f"conform-{uuid4().hex[:12]}" if is_text else str(uuid4())
    return placeholders[name]


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::?\d\d)?|Z)?")
_WAIT = re.compile(r"retry_after is [\d.]+ s")
#: Fields whose numbers depend on the other jobs of the project, or on time.
_VOLATILE = {"seq", "duration_seconds", "rank", "turn"}


def normalise(value: Json, placeholders: PlaceholderValues, key: str = "") -> Json:
    """Replace the parts of an answer that differ from one call to the next.

    The values of placeholders become ``$name``; other ids, times and numbers become ``<uuid>``,
    ``<time>`` and ``<number>``. `key` is the field that contains the value.
    """
    if isinstance(value, dict):
        # The keys of an object can be values of placeholders too.
        return {
            normalise(name, placeholders): normalise(item, placeholders, name)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [normalise(item, placeholders) for item in value]
    if isinstance(value, str):
        for name, known in placeholders.items():
            # A short value could also occur inside other words.
            if isinstance(known, str) and len(known) > 8:
                value = value.replace(known, f"${name}")
        value = _WAIT.sub("retry_after is <number> s", value)
        return _TIME.sub("<time>", _UUID.sub("<uuid>", value))
    if key in _VOLATILE and isinstance(value, int | float):
        return "<number>"
    return value


def matches(expected: Json, answer: Json) -> bool:
    """Return True if an answer is as expected; of an object, only the expected fields count."""
    if expected is ...:
        return True
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(
            name in answer and matches(item, answer[name]) for name, item in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(map(matches, expected, answer))
        )
    return type(expected) is type(answer) and bool(expected == answer)


# Views


def select_items(key: str, value: str) -> View:
    """Return a view of the items of a list whose field `key` has this value."""
    return lambda answer, placeholders: [
        item for item in answer if item.get(key) == fill_placeholders(value, placeholders)
    ]


def select_fields(*wanted: str) -> View:
    """Return a view of these fields of each item of a list."""
    return lambda answer, placeholders: [
        {name: item.get(name) for name in wanted} for item in answer
    ]


def remove_fields(*unwanted: str) -> View:
    """Return a view of an object without these fields."""
    return lambda answer, placeholders: {
        name: item for name, item in answer.items() if name not in unwanted
    }


def field_types(answer: Json, placeholders: PlaceholderValues) -> Json:
    """Return the type of the value of each field of an object."""
    return {name: type(item).__name__ for name, item in sorted(answer.items())}
