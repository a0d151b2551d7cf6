"""Text that others wrote, shown and never obeyed.

Users, workers and providers write into jobs what operators read in a terminal or a log. There it
must not move the cursor, set the title, reorder or hide what stands beside it, or pass for a line
of its own.
"""

import logging
import re

# Control characters but tab and line feed; characters that reorder, break or hide text; halves of
# characters, which no stream can encode.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Return a text with what cannot be seen written as escapes, such as ``\x1b``."""
    return _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)


class LogFormatter(logging.Formatter):
    """Format log records with visible characters, and lines that go on indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, its first line alone at the margin."""
        return visible(super().format(record)).replace("\n", "\n    ")
