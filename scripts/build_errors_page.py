"""Write ``docs/provider-errors.md`` from the classes of errors of providers.

``python scripts/build_errors_page.py [--check]``. With --check it writes nothing, and exits with 1
if the page is out of date.
"""

import inspect
import sys
from pathlib import Path

from picture_queue.providers import errors
from picture_queue.providers.replicate.errors import _BY_CODE

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "provider-errors.md"

PROVIDER, OPERATOR, USER, UNKNOWN = "provider", "operator", "user", "not known"
NOTHING, RUN_TIME, PERHAPS, ALL = (
    "nothing",
    "its run time, if it ran",
    "perhaps the prediction",
    "all",
)
#: Who caused each error, and what the provider may charge for the attempt.
CAUSES: dict[type[errors.ProviderError], tuple[str, str]] = {
    errors.ProviderError: (UNKNOWN, NOTHING),
    errors.TooManyRequests: (PROVIDER, NOTHING),
    errors.OutOfCredit: (OPERATOR, NOTHING),
    errors.ServiceUnavailable: (PROVIDER, NOTHING),
    errors.NotReached: (PROVIDER, NOTHING),
    errors.OutcomeUnknown: (PROVIDER, PERHAPS),
    errors.Unauthorized: (OPERATOR, NOTHING),
    errors.Forbidden: (OPERATOR, NOTHING),
    errors.RequestRefused: (UNKNOWN, NOTHING),
    errors.ResourceNotFound: (OPERATOR, NOTHING),
    errors.InputRejected: (USER, RUN_TIME),
    errors.InputTooLarge: (USER, RUN_TIME),
    errors.PredictionFailed: (UNKNOWN, RUN_TIME),
    errors.ContentRefused: (USER, RUN_TIME),
    errors.Interrupted: (PROVIDER, RUN_TIME),
    errors.Misconfigured: (OPERATOR, RUN_TIME),
    errors.DeadlinePassed: (PROVIDER, RUN_TIME),
    errors.NotStarted: (PROVIDER, NOTHING),
    errors.StoppedOutside: (OPERATOR, RUN_TIME),
    errors.OutputError: (PROVIDER, ALL),
    errors.OutputExpired: (PROVIDER, ALL),
    errors.OutputRefused: (PROVIDER, ALL),
    errors.ProviderMissing: (OPERATOR, NOTHING),
}
#: The HTTP status of a response, or other origin of an error, beside the codes of Replicate.
ORIGINS: dict[type[errors.ProviderError], str] = {
    errors.TooManyRequests: "429",
    errors.OutOfCredit: "402",
    errors.ServiceUnavailable: "5xx, or no answer",
    errors.NotReached: "no connection",
    errors.OutcomeUnknown: "no answer to a create call",
    errors.Unauthorized: "401",
    errors.Forbidden: "403",
    errors.RequestRefused: "other 4xx",
    errors.ResourceNotFound: "404",
    errors.InputRejected: "422",
    errors.InputTooLarge: "413",
}
HEAD = """\
<!-- Written by scripts/build_errors_page.py from picture_queue/providers/errors.py. -->

# Errors of providers

A worker converts each error of a provider to one of these classes of
`picture_queue.providers.errors`. The class decides whether the job is retried, and what its owner
reads in `error`. An error may replace the text, for example with the fields that Replicate names.

- **Origin** is the HTTP status of the response, and the code of a failed prediction of Replicate.
- **Attempts** is the number of attempts of the job after which the error is final. `job` means
  `max_attempts` of the job; `no end` means that the attempt does not count.
- **Caused by** is who can change something: the user, the operator of the project, or the provider.
- **Provider charges** is what the provider may charge for the attempt. A generation that fails
  costs its user nothing: the reservation is refunded ([costs](howto/costs.md)).

| error | origin | attempts | caused by | the owner is told | provider charges |
|---|---|---|---|---|---|
"""


def format_row(class_: type[errors.ProviderError]) -> str:
    """Return the row of the table for a class."""
    codes = [f"`{code}`" for code, of_code in _BY_CODE.items() if of_code is class_]
    origin = ", ".join([*([ORIGINS[class_]] if class_ in ORIGINS else []), *codes]) or "-"
    if not class_.retryable:
        attempts = "1"
    elif not class_.uses_attempt:
        attempts = "no end"
    else:
        attempts = str(class_.max_attempts or "job")
    cause, charge = CAUSES[class_]
    name = f"`{class_.__name__}`"
    return f"| {name} | {origin} | {attempts} | {cause} | {class_.owner_message} | {charge} |"


def build_page() -> str:
    """Return the text of the page. A class without an entry in CAUSES raises a KeyError."""
    classes = [
        class_
        for _, class_ in inspect.getmembers(errors, inspect.isclass)
        if issubclass(class_, errors.ProviderError) and class_ is not errors.WebhookRefused
    ]
    classes.sort(key=lambda class_: inspect.getsourcelines(class_)[1])
    return HEAD + "\n".join(map(format_row, classes)) + "\n"


def main() -> int:
    """Write the page if it is out of date; with --check only report that it is out of date."""
    text = build_page()
    if PAGE.exists() and PAGE.read_text("utf-8") == text:
        return 0
    if "--check" in sys.argv:
        print("out of date: docs/provider-errors.md\nrun: python scripts/build_errors_page.py")
        return 1
    PAGE.write_text(text, "utf-8")
    print("written: docs/provider-errors.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
