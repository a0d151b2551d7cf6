"""Convert texts and exceptions of users to text that a database can store."""

import re
import traceback

#: The maximum lengths of a line that `clean_line` returns and of a traceback, in characters.
LINE_LENGTH = 500
TRACEBACK_LENGTH = 8192

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def text_of(value: object) -> str:
    """Return the text of an exception or another value; empty text if that fails."""
    try:
        return str.__str__(str(value))  # exactly a str, not a subclass
    except BaseException:  # a user's __str__ may raise
        return ""


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an exception; never raise one."""
    try:
        type_name = str.__str__(type(error).__name__)
    except BaseException:  # __name__ may be a property of the metaclass that raises
        type_name = "Exception"
    text = text_of(error)
    return type_name if not text or text.isspace() else f"{type_name}: {text}"


def clean_line(text: str, length: int = LINE_LENGTH) -> str:
    """Return any text as one line that a database can store and a terminal can show."""
    # An exception may quote a whole file. Cleaning all of it would block the event loop.
    text = text[: 10 * length]
    return make_storable(_CONTROL.sub("\ufffd", " ".join(text.split())), length)


def traceback_of(error: BaseException | None) -> str | None:
    """Return the end of a traceback, which shows the cause; None if there is no traceback."""
    try:
        if error is None or error.__traceback__ is None:
            return None
        text = "".join(traceback.format_exception(error)).strip()
    except BaseException:  # a property of the exception's class may raise
        return None
    return make_storable(text[-TRACEBACK_LENGTH:], TRACEBACK_LENGTH)


def make_storable(text: str, length: int) -> str:
    """Return a text that a database can store, of at most ``length`` characters.

    NUL and surrogates are replaced.
    """
    text = text[: length + 1].replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= length else text[: length - 1] + "…"
