"""The base class of all errors of this library."""


class PictureQueueError(Exception):
    """Base of all errors of this library.

    Args:
        message: The failure, in one sentence.
        code: The stable code (``PQ_…``) of an error that the database raised; otherwise None.
        detail: The field and the value that caused the error.
        hint: The action that fixes the error.

    Attributes:
        http_status: The HTTP status of errors of this class; None if the database never raises
            them.
        retry_after: Seconds that the server asks to wait before the call is repeated; None if it
            does not ask for a wait.
    """

    code: str | None = None
    http_status: int | None = None
    retry_after: float | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        """Return message, detail and hint as sentences in one line."""
        failure = f"{self.message}: {self.detail}" if self.detail else self.message
        return " ".join(_sentence(part) for part in (failure, self.hint) if part)


def _sentence(text: str) -> str:
    flat = " ".join(text.split())
    if flat.split(" ", 1)[0].isalpha():  # a URL or the name of a function keeps its case
        flat = flat[0].upper() + flat[1:]
    return flat if flat.endswith((".", "!", "?", ")")) else flat + "."
