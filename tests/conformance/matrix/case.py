"""A case of the matrix, and the comparison of an answer with the expected answer."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from picture_queue.errors import BY_CODE

Json = Any
#: Takes an answer and the names of its case, and returns the part that is compared.
View = Callable[[Json, "Names"], Json]


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
        """Return True if our SQL raises this error. Then its texts are compared too."""
        return self.code.startswith("PQ_")


def our_error(code: str) -> ExpectedError:
    """Return the expected error for one of our codes."""
    status = BY_CODE[code].http_status
    assert status is not None
    return ExpectedError(code, status)


INVALID = our_error("PQ_INVALID_ARGUMENT")
NO_JOB = our_error("PQ_UNKNOWN_JOB")
#: No function has these parameters. SQL answers 42883.
MISSING = ExpectedError("PGRST202", 404)
NOT_A_VALUE = ExpectedError("22P02", 400)
NOT_A_TIME = ExpectedError("22007", 400)
#: The privilege to execute is missing: 401 without a signed-in user.
ANONYMOUS = ExpectedError("42501", 401)
FORBIDDEN = ExpectedError("42501", 403)
#: These errors occur before the function looks for rows, so that no setup is needed.
EARLY = (MISSING, NOT_A_VALUE, NOT_A_TIME, ANONYMOUS, FORBIDDEN)

#: For each type: a value that the type cannot hold, and the error. The types text and jsonb accept
#: any value, so their parameters name one in `Function.wrong`.
WRONG: dict[str, tuple[Json, ExpectedError]] = {
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
        absent: For a parameter: the answer to a call without it, if it is neither `MISSING` nor the
            answer to the valid call.
        null: For a parameter without a default: the answer if it is null.
        wrong: For a parameter: a value of the wrong type, and the answer. `WRONG` has the defaults.
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
    found: list[Case] = []

    def add(kind: str, role: str, args: Mapping[str, Json], expected: Json, times: int = 1) -> None:
        setup = "" if expected in EARLY and isinstance(expected, ExpectedError) else function.setup
        view = None if isinstance(expected, ExpectedError) else function.view
        name = f"{function.name}/{kind}"
        found.append(
            Case(name, function.name, role, args, expected, setup, times, view, function.read_only)
        )

    args, right = dict(function.args), function.right
    add("right", "service", args, right)
    again = right if function.repeated is ... else function.repeated
    add("repeated", "service", args, again, times=2)
    add("unauthorised/anon", "anon", args, ANONYMOUS)
    if function.callers == "user":
        add("right/owner", "ada", args, right)
        add("repeated/owner", "ada", args, again, times=2)
        add("unauthorised/other", "bob", args, function.foreign)
    else:
        add("unauthorised/user", "ada", args, FORBIDDEN)
    for kind, build_variants in (("absent", _absent), ("null", _null), ("wrong", _wrong)):
        for name, changed, expected in build_variants(function):
            add(f"{kind}/{name}", "service", changed, expected)
    return found


#: The name of a parameter, the changed arguments, and the expected answer.
Variants = list[tuple[str, dict[str, Json], Json]]
_NONE = "no such parameter"


def _absent(function: Function) -> Variants:
    variants: Variants = []
    for parameter in function.parameters:
        others = {name: value for name, value in function.args.items() if name != parameter.name}
        default = function.right if parameter.optional else MISSING
        variants.append((parameter.name, others, function.absent.get(parameter.name, default)))
    return variants or [("all", {}, function.right)]


def _null(function: Function) -> Variants:
    variants: Variants = []
    for parameter in function.parameters:
        # For a parameter with a default, null means the default.
        absent = function.absent.get(parameter.name, function.right)
        expected = absent if parameter.optional else function.null[parameter.name]
        variants.append((parameter.name, {**function.args, parameter.name: None}, expected))
    return variants or [(_NONE, {"unknown": None}, MISSING)]


def _wrong(function: Function) -> Variants:
    variants: Variants = []
    for parameter in function.parameters:
        name, default = parameter.name, WRONG.get(parameter.type)
        value, expected = function.wrong.get(name, default) or function.wrong[name]
        variants.append((name, {**function.args, name: value}, expected))
    return variants or [(_NONE, {"unknown": 7}, MISSING)]


# Placeholders


#: The values of the placeholders, by name.
Names = dict[str, Json]
#: Placeholders whose names begin with these get a new text as value; all others get a new UUID.
_TEXTS = ("queue", "worker", "name", "key", "event", "tenant", "text", "plan")
_PLACEHOLDER = re.compile(r"\$([a-z_]+)")


def fill_placeholders(value: Json, names: Names) -> Json:
    """Replace placeholders by their values; a name without a value gets a new one."""
    if isinstance(value, dict):
        return {key: fill_placeholders(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill_placeholders(item, names) for item in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole:
        return _resolve(whole[1], names)
    return _PLACEHOLDER.sub(lambda found: str(_resolve(found[1], names)), value)


def _resolve(name: str, names: Names) -> Json:
    if name not in names:
        names[name] = f"conform-{uuid4().hex[:12]}" if name.startswith(_TEXTS) else str(uuid4())
    return names[name]


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::?\d\d)?|Z)?")
_WAIT = re.compile(r"retry_after is [\d.]+ s")
#: Fields that count or measure the whole project.
_VOLATILE = {"seq", "duration_seconds", "rank", "turn"}


def normalise(value: Json, names: Names, key: str = "") -> Json:
    """Replace known values by their placeholders.

    Other values that differ from one call to the next become ``<uuid>``, ``<time>`` or
    ``<number>``.
    """
    if isinstance(value, dict):
        # The keys of an object can be known values too.
        return {
            normalise(name, names): normalise(item, names, name) for name, item in value.items()
        }
    if isinstance(value, list):
        return [normalise(item, names) for item in value]
    if isinstance(value, str):
        for name, known in names.items():
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


def only(key: str, value: str) -> View:
    """Select the items of a list with this value."""
    return lambda answer, names: [
        item for item in answer if item.get(key) == fill_placeholders(value, names)
    ]


def fields(*wanted: str) -> View:
    """Select these fields of each item of a list."""
    return lambda answer, names: [{name: item.get(name) for name in wanted} for item in answer]


def without(*unwanted: str) -> View:
    """Remove these fields of an object."""
    return lambda answer, names: {
        name: item for name, item in answer.items() if name not in unwanted
    }


def field_types(answer: Json, names: Names) -> Json:
    """Return the names of the fields of an object, and the types of their values."""
    return {name: type(item).__name__ for name, item in sorted(answer.items())}
