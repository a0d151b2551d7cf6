"""A case of the matrix, and the comparison of answers with the expected one."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from picture_queue.errors import BY_CODE

Json = Any
#: Takes an answer and the names of its case, and gives the part that is looked at.
View = Callable[[Json, "Names"], Json]


@dataclass(frozen=True)
class Refusal:
    """An error every way has to give.

    Args:
        code: ``PQ_…`` of ours, else the SQLSTATE or code of PostgREST.
        status: Of HTTP.
    """

    code: str
    status: int

    @property
    def is_ours(self) -> bool:
        """Return whether our SQL raises it: then the whole text is compared, not the code alone."""
        return self.code.startswith("PQ_")


def refused(code: str) -> Refusal:
    """One of our codes, with its HTTP status."""
    status = BY_CODE[code].http_status
    assert status is not None
    return Refusal(code, status)


INVALID = refused("PQ_INVALID_ARGUMENT")
NO_JOB = refused("PQ_UNKNOWN_JOB")
#: No function has these parameters; SQL says 42883.
MISSING = Refusal("PGRST202", 404)
NOT_A_VALUE = Refusal("22P02", 400)
NOT_A_TIME = Refusal("22007", 400)
#: No right to execute: 401 where nobody is signed in.
STRANGER = Refusal("42501", 401)
FORBIDDEN = Refusal("42501", 403)
#: These are found before the function is, so that nothing has to be there for them.
EARLY = (MISSING, NOT_A_VALUE, NOT_A_TIME, STRANGER, FORBIDDEN)

#: A type its parameter cannot take. Text takes anything, and jsonb any JSON: those are said.
WRONG: dict[str, tuple[Json, Refusal]] = {
    "uuid": ("seven", NOT_A_VALUE),
    "integer": ("many", NOT_A_VALUE),
    "real": ("much", NOT_A_VALUE),
    "boolean": ("perhaps", NOT_A_VALUE),
    "timestamp with time zone": ("soon", NOT_A_TIME),
    "text[]": (7, NOT_A_VALUE),
    "uuid[]": (["seven"], NOT_A_VALUE),
    "real[]": (7, NOT_A_VALUE),
}


@dataclass(frozen=True)
class Case:
    """One call and what is expected of it. ``$name`` in arguments and answers stands for what the
    setup gave that name, or for a new id or name.

    Args:
        id: ``function/kind``, and what else tells it apart.
        function: In the schema ``public``.
        role: ``anon``, ``ada``, ``bob``, ``service``, or ``nobody``, whose token names no user.
        args: By name.
        expected: An answer (of an object the fields that matter) or a `Refusal`.
        setup: Name in `setups.SETUPS`.
        times: How often it is called; the last answer counts.
        view: What of the answer is looked at, where it tells of the whole project.
        reads: The function only reads: its cases share what is set up.
        needs: What else than an address and keys; see `NEEDS`.
    """

    id: str
    function: str
    role: str
    args: Mapping[str, Json]
    expected: Json | Refusal
    setup: str = ""
    times: int = 1
    view: View | None = None
    reads: bool = False
    needs: str = ""


#: What some cases need beside the address and the keys of a project.
NEEDS = {
    "locks": "the database's address (PICTURE_QUEUE_TEST_DB_URL), to hold locks",
    "secret": "the secret of its tokens (SUPABASE_JWT_SECRET), to make one",
}


@dataclass(frozen=True)
class Parameter:
    """Of a function: ``name type`` and ``=`` when it has a default."""

    name: str
    type: str
    optional: bool


@dataclass(frozen=True)
class Function:
    """A public function and what its cases are made of.

    Args:
        name: In the schema ``public``.
        who: ``user`` (signed-in users, for what is theirs, and service keys) or ``service``.
        signature: As `Parameter` has it, separated by commas.
        args: Of the call that is right.
        right: Its answer.
        repeated: The answer when it is made again; None: the same.
        setup: What has to be there.
        absent: The answer without a parameter, where it is not `MISSING` or that of the right call.
        null: The answer when a parameter without a default is null.
        wrong: A value of the wrong type, and the answer. To be said for text and jsonb.
        strangers: The answer to another user, of a function for users.
        view: See `Case`.
        reads: It is stable: PostgREST calls it in a transaction that only reads.
    """

    name: str
    who: str
    signature: str
    args: Mapping[str, Json] = field(default_factory=dict)
    right: Json = None
    repeated: Json = ...
    setup: str = ""
    absent: Mapping[str, Json] = field(default_factory=dict)
    null: Mapping[str, Json] = field(default_factory=dict)
    wrong: Mapping[str, tuple[Json, Json]] = field(default_factory=dict)
    strangers: Json = ...
    view: View | None = None
    reads: bool = False

    @property
    def parameters(self) -> list[Parameter]:
        """Parsed from the signature."""
        return [
            Parameter(*text.strip().rstrip("=").strip().split(" ", 1), text.strip().endswith("="))
            for text in self.signature.split(",")
            if text.strip()
        ]


def cases_of(function: Function) -> list[Case]:
    """The six kinds of cases of a function.

    Raises:
        KeyError: The function does not say what a parameter answers to null or a wrong type.
    """
    found: list[Case] = []

    def add(kind: str, role: str, args: Mapping[str, Json], expected: Json, times: int = 1) -> None:
        setup = "" if expected in EARLY and isinstance(expected, Refusal) else function.setup
        view = None if isinstance(expected, Refusal) else function.view
        name = f"{function.name}/{kind}"
        found.append(
            Case(name, function.name, role, args, expected, setup, times, view, function.reads)
        )

    args, right = dict(function.args), function.right
    add("right", "service", args, right)
    again = right if function.repeated is ... else function.repeated
    add("repeated", "service", args, again, times=2)
    add("unauthorised/anon", "anon", args, STRANGER)
    if function.who == "user":
        add("right/owner", "ada", args, right)
        add("repeated/owner", "ada", args, again, times=2)
        add("unauthorised/other", "bob", args, function.strangers)
    else:
        add("unauthorised/user", "ada", args, FORBIDDEN)
    for kind, made in (("absent", _absent), ("null", _null), ("wrong", _wrong)):
        for name, changed, expected in made(function):
            add(f"{kind}/{name}", "service", changed, expected)
    return found


Made = list[tuple[str, dict[str, Json], Json]]
_NONE = "no such parameter"


def _absent(function: Function) -> Made:
    made: Made = []
    for one in function.parameters:
        left = {name: value for name, value in function.args.items() if name != one.name}
        usual = function.right if one.optional else MISSING
        made.append((one.name, left, function.absent.get(one.name, usual)))
    return made or [("all", {}, function.right)]


def _null(function: Function) -> Made:
    made: Made = []
    for one in function.parameters:
        # For those with a default null stands for it.
        absent = function.absent.get(one.name, function.right)
        expected = absent if one.optional else function.null[one.name]
        made.append((one.name, {**function.args, one.name: None}, expected))
    return made or [(_NONE, {"nobody": None}, MISSING)]


def _wrong(function: Function) -> Made:
    made: Made = []
    for one in function.parameters:
        usual = WRONG.get(one.type)
        value, expected = function.wrong.get(one.name, usual) or function.wrong[one.name]
        made.append((one.name, {**function.args, one.name: value}, expected))
    return made or [(_NONE, {"nobody": 7}, MISSING)]


# Placeholders


#: The values of placeholders, by name.
Names = dict[str, Json]
_TEXTS = ("queue", "worker", "name", "key", "event", "tenant", "text")
_PLACEHOLDER = re.compile(r"\$([a-z_]+)")


def filled(value: Json, names: Names) -> Json:
    """Put the values in place of their names; new ones are made up."""
    if isinstance(value, dict):
        return {key: filled(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [filled(item, names) for item in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole:
        return _value(whole[1], names)
    return _PLACEHOLDER.sub(lambda found: str(_value(found[1], names)), value)


def _value(name: str, names: Names) -> Json:
    if name not in names:
        word = next((word for word in _TEXTS if name.startswith(word)), None)
        names[name] = f"conform-{uuid4().hex[:12]}" if word else str(uuid4())
    return names[name]


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::?\d\d)?|Z)?")
#: Fields that count or measure something of the whole project.
_VOLATILE = {"seq", "duration_seconds", "rank", "turn"}


def normalised(value: Json, names: Names, key: str = "") -> Json:
    """Write names in place of values, and ``<uuid>``, ``<time>``, ``<number>`` for what differs
    from one call to the next."""
    if isinstance(value, dict):
        # A key may be a value of ours, too.
        return {
            normalised(name, names): normalised(item, names, name) for name, item in value.items()
        }
    if isinstance(value, list):
        return [normalised(item, names) for item in value]
    if isinstance(value, str):
        for name, known in names.items():
            if isinstance(known, str) and len(known) > 8:
                value = value.replace(known, f"${name}")
        return _TIME.sub("<time>", _UUID.sub("<uuid>", value))
    if key in _VOLATILE and isinstance(value, int | float):
        return "<number>"
    return value


def fits(expected: Json, answer: Json) -> bool:
    """Return whether an answer is as expected: of objects those fields, of lists each item."""
    if expected is ...:
        return True
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(
            name in answer and fits(item, answer[name]) for name, item in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(map(fits, expected, answer))
        )
    return type(expected) is type(answer) and bool(expected == answer)


# Views


def only(key: str, value: str) -> View:
    """Of a list the items with that value."""
    return lambda answer, names: [
        item for item in answer if item.get(key) == names.get(value[1:], value)
    ]


def fields(*wanted: str) -> View:
    """Of each item of a list these fields."""
    return lambda answer, names: [{name: item.get(name) for name in wanted} for item in answer]


def without(*unwanted: str) -> View:
    """Of an object the other fields."""
    return lambda answer, names: {
        name: item for name, item in answer.items() if name not in unwanted
    }


def kinds(answer: Json, names: Names) -> Json:
    """Of an object the names of its fields, and the types of their values."""
    return {name: type(item).__name__ for name, item in sorted(answer.items())}
