"""Escape control characters and invisible characters in untrusted text.

Users, workers and providers write text into jobs, and operators read it in a terminal or a log. The
text must not move the cursor, set the title of the terminal, reorder or hide other text, or
imitate a log line.
"""

import logging
import re

from picture_queue._secrets import redact_secrets

# Invisible characters:
# - control characters except tab and line feed;
# - characters that reorder, break or join text: the Unicode categories Cf, Zl and Zp, without the
#   few that have a glyph;
# - the other characters with the property Default_Ignorable_Code_Point, such as fillers and tags;
# - letters and symbols with a blank glyph;
# - surrogates, which cannot be encoded.
# Spaces are not escaped.
_INVISIBLE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200c"
    r"\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0e\ufeff\uffa0"
    r"\ufff0-\ufffb\U00013430-\U00013442\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
# Two invisible characters are parts of emoji and are not escaped there: U+FE0F after a symbol, or
# before a keycap, selects the coloured form; U+200D between two symbols joins them.
_SYMBOL = (
    r"\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030"
    r"\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_ESCAPED = re.compile(
    rf"[{_INVISIBLE}]|(?<![{_SYMBOL}])\ufe0f(?!\u20e3)|\u200d(?![{_SYMBOL}])"
    rf"|(?<![{_SYMBOL}])(?<![{_SYMBOL}]\ufe0f)\u200d"
)


def escape_invisible(text: str) -> str:
    r"""Return a text with its invisible characters written as escapes, such as ``\x1b``."""
    return _ESCAPED.sub(lambda match: ascii(match[0])[1:-1], text)


def indent_lines(text: str) -> str:
    """Return a text with all lines indented except the first."""
    return text.replace("\n", "\n    ")


class LogFormatter(logging.Formatter):
    """A log formatter that escapes invisible characters, and indents continuation lines.

    A line that a user's text adds to a record cannot look like a record of its own, since records
    are not indented. The records of `picture_queue._log.Log` are escaped already.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, with all lines indented except the first."""
        text = redact_secrets(super().format(record))
        is_escaped = getattr(record, "is_escaped", False)
        return text if is_escaped else indent_lines(escape_invisible(text))
