"""Check docstrings and names against the rules for plain English.

A docstring begins with an imperative or a noun phrase, never with a question word or a verb in the
third person. The description of an argument does not begin with a question word. The name of a test
is a plain sentence. Retired names of objects, modules and SQL functions are not used again.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("picture_queue", "cli", "scripts", "bench", "tests", "examples")
QUESTION = re.compile(r"(What|Who|Whose|How|Whether|Where|Which|When|Why|Of|As|It)\b")
#: Words that make the name of a test unclear.
UNCLEAR_TEST = re.compile(
    r"test_\w*(?<=_)(nobody|somebody|whoever|heard|told|said|says|goes_on)(_|$)"
)

#: A verb in the third person at the start of a docstring: a listed verb that is not also a plural
#: noun, or any verb before an article or a similar word. The class [a-rt-z] excludes words that end
#: in -ss, such as "Pass", because they are imperatives.
THIRD_PERSON = re.compile(
    r"(Adds|Applies|Asks|Begins|Collects|Confirms|Converts|Creates|Decodes|Deletes|Delivers|Does"
    r"|Encodes|Enqueues|Ensures|Expects|Finds|Gets|Gives|Has|Installs|Is|Keeps|Lets|Loses|Makes"
    r"|Opens|Owns|Parses|Proves|Puts|Raises|Receives|Removes|Returns|Says|Sends|Serves|Sets|Takes"
    r"|Tells|Validates|Verifies|Watches|Writes|Yields)\b"
    r"|[A-Z][a-z]*[a-rt-z]s (a|an|the|all|each|every|its|it|one|no|whether)\b|Waits until\b"
)
#: A description of an argument that begins with a question word, preposition, pronoun or verb.
ARGUMENT = re.compile(
    r"^ +\*{0,2}[a-z]\w*: ((What|Who|Whose|How|Where|Which|When|Why|As|Of|It|Its|They|Likewise"
    r"|Closes|Converts|Gets|Gives|Holds|Makes|Notes|Only|Returns|Sends|Takes|Tells|Told|Validates"
    r"|Writes) .*)",
    re.MULTILINE,
)
#: Retired names, and the names that replaced them.
RETIRED = {
    "AsyncProject": "AsyncBackend",
    "EXPLAIN_LONGEST": "EXPLAIN_MAX_INTERVAL",
    "Ears": "EventSource",
    "Housekeeper": "MaintenanceLoop",
    "Keeper": "MigrationTool",
    "LONGEST_WAIT": "MAX_WAIT",
    "Link": "WorkerCalls",
    "Pauses": "RetryDelay",
    "REPEATING": "RETRY_POLICY",
    "Trickle": "BatchSender",
    "Wish": "DemoOptions, ReplayRequest",
    "_Ear": "QueueListener",
    "_FAREWELL": "a constant that ends with _TIMEOUT",
    "_NEWS": "a constant that ends with _TIMEOUT",
    "_WHERE": "_LAZY_EXPORTS",
    "_all_settled": "_all_have_outcomes",
    "_answering_errors": "_respond_to_errors",
    "_first_of": "_wait_for_first",
    "_news": "_wait_ready",
    "_pause": "_wait",
    "_receiving": "_receive_in_block",
    "_rest": "_sleep",
    "_ring": "_on_deadline",
    "_rolled_back": "_rollback_transaction",
    "_room": "_slots",
    "_round": "_tick",
    "_same_caller": "_duplicate_for_caller",
    "_stack_on": "_find_stack",
    "_tell": "_send",
    "_unless_broken": "_run_unless_broken",
    "ask_along": "piggyback",
    "beside_raw": "compare_with_raw",
    "complain": "print_error",
    "finish_after_cancel": "finish_despite_cancel",
    "first_look": "first_poll_interval",
    "going_on_without_us": "hint_on_interrupt",
    "hurry": "stop_now",
    "is_settled": "has_outcome",
    "job_item": "encode_job",
    "longest_look": "max_poll_interval",
    "name_error": "translate_error",
    "named_error": "translate_error",
    "obtain": "find_or_create",
    "place_of": "find_place",
    "put_back": "release",
    "run_to_end": "finish_despite_cancel",
    "settled": "has_outcome",
    "talk": "info",
    "worth_having": "target_size",
    "worth_repeating": "is_transient",
}
RETIRED_MODULES = {
    "adopting": "adopt",
    "answers": "connection",
    "aside": "relocate",
    "bar": "progress_bar",
    "carry": "copy_jobs",
    "ears": "event_source",
    "housekeeper": "maintenance",
    "installing": "migrate",
    "orphans": "lost_predictions",
    "portal": "sync_follow",
    "reading": "parsing",
    "sharing": "options",
    "trickle": "batch_sender",
}
RETIRED_FUNCTIONS = {
    "_know_rules": "_share_lock_rules",
    "_line_up": "_assign_order",
    "_meet_existing": "_resolve_duplicates",
    "_move": "_apply_changes",
    "_move_jobs": "_change_state",
    "_rooms": "_capacity",
    "_seat_running": "_grant_slots_to_running",
    "_tie_to_parents": "_link_parents",
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FUNCTION = re.compile(r"\bpicture_queue\.(_[a-z_]+)\b")


def findings(path: Path) -> Iterator[str]:
    """Yield each finding in a file, with its line."""
    text = path.read_text("utf-8")
    file = path.relative_to(ROOT).as_posix()
    if path.suffix == ".sql":
        for number, line in enumerate(text.split("\n"), 1):
            for name in _FUNCTION.findall(line):
                if name in RETIRED_FUNCTIONS:
                    yield f"{file}:{number}: {name} is now {RETIRED_FUNCTIONS[name]}"
        return
    if path.stem in RETIRED_MODULES:
        yield f"{file}:1: the module {path.stem} is now {RETIRED_MODULES[path.stem]}"
    yield from _findings_in_python(file, ast.parse(text))


def _findings_in_python(file: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        location = f"{file}:{getattr(node, 'lineno', 1)}"
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node) or ""
            first = text.partition("\n")[0]
            if QUESTION.match(first):
                yield f"{location}: begin this docstring with a verb or a noun: {first}"
            if THIRD_PERSON.match(first):
                yield f"{location}: begin this docstring with an imperative: {first}"
            for argument in ARGUMENT.findall(text):
                yield f"{location}: begin this description with a noun: {argument[0]}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and UNCLEAR_TEST.match(
            node.name
        ):
            yield f"{location}: say in plain words what {node.name} tests"
        for attribute in ("name", "id", "arg", "attr"):
            name = getattr(node, attribute, None)
            if isinstance(name, str) and name in RETIRED:
                yield f"{location}: {name} is now {RETIRED[name]}"


def main() -> int:
    """Print all findings; return 1 if there are any."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    files += (ROOT / "supabase" / "schemas").rglob("*.sql")
    all_findings = [
        finding
        for file in sorted(files)
        if "node_modules" not in file.parts
        for finding in findings(file)
    ]
    for finding in all_findings:
        print(finding)
    return bool(all_findings)


if __name__ == "__main__":
    sys.exit(main())
