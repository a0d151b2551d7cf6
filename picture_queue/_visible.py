"""Text that others wrote, shown and never obeyed.

Users, workers and providers write into jobs what operators read in a terminal or a log. There it
must not move the cursor, set the title, reorder or hide what stands beside it, or pass for a line
of its own.
"""

import logging
import re

# Characters that do not show: control characters but tab and line feed; what reorders, breaks or
# joins text (Unicode's categories Cf, Zl and Zp without the few that draw something); all else of
# its property Default_Ignorable_Code_Point, such as fillers and tags; letters and symbols whose
# glyph is blank; and halves of characters, which no stream can encode. Spaces are left as they are.
_UNSEEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200c"
    r"\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0e\ufeff\uffa0"
    r"\ufff0-\ufffb\U00013430-\U00013442\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
# Two of them belong to emoji: U+FE0F behind a symbol, or in front of a keycap, asks for its
# colours, and U+200D joins two. There they stay, so that an emoji is read as one.
_SYMBOL = (
    r"\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030"
    r"\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_HIDDEN = re.compile(
    rf"[{_UNSEEN}]|(?<![{_SYMBOL}])\ufe0f(?!\u20e3)|\u200d(?![{_SYMBOL}])"
    rf"|(?<![{_SYMBOL}])(?<![{_SYMBOL}]\ufe0f)\u200d"
)


def visible(text: str) -> str:
    r"""Return a text with what cannot be seen written as escapes, such as ``\x1b``."""
    return _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)


class LogFormatter(logging.Formatter):
    """Format log records with visible characters, and lines that go on indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, its first line alone at the margin."""
        return visible(super().format(record)).replace("\n", "\n    ")
