"""Write ``docs/models.md`` from the catalogue of models and the default rules over inputs.

``python scripts/build_models_page.py [--check]``. With --check it writes nothing, and exits with 1
if the page is out of date.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "picture_queue" / "providers" / "replicate" / "models.json"
RULES = ROOT / "supabase" / "schemas" / "710_data_input_rules.sql"
PAGE = ROOT / "docs" / "models.md"
KINDS = {
    "text-to-image": "Text to image",
    "image-variation": "Variations of a picture",
    "image-edit": "Edits of a picture",
    "upscale": "Upscaling",
    "background-removal": "Background removal",
    "vector": "Vector graphics",
}
OUTPUTS = {"uri": "one picture", "uri[]": "a list of pictures", None: "not known"}
MAX_CHOICES = 12  # permitted values of an input that the page lists; list_models() has all of them

HEAD = """\
<!-- Written by scripts/build_models_page.py from models.json and 710_data_input_rules.sql. -->

# Models

The catalogue has {count} models of Replicate. `picture-queue models` lists the models of a project,
and `picture-queue models show owner/name` shows the inputs of a model, with the rules of the
project.
The values were collected from public pages in 2025 and 2026, so check the price of a model before
you rely on it.

- **Price** is USD for each picture. `?` means that the model is billed by its run time or by
  parts, or that sources disagree.
- **Seconds** is the run time of one example, without queue and cold start.
- In the tables of inputs, `*` marks a required input. `prompt` is a separate argument, not a part
  of `input`. Files are https URLs.

## Add or change a model

Add any model of Replicate by its name, with `REPLICATE_API_TOKEN` set:

```sh
picture-queue models add owner/name --kind upscale    # reads the inputs, shows them, asks
picture-queue models add owner/name:version --yes     # a version of a community model
picture-queue models refresh owner/name               # shows what has changed, asks
picture-queue models disable owner/name               # no new generation can use it
```

In Python, `pq.models.set` writes the fields that `fetch_model` reads:

```python
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.schema import fetch_model

async with ReplicateClient(token) as client:
    fetched = await fetch_model(client, "owner/name")
await pq.models.set(fetched.id, kind="upscale", **fetched.changes_to(None))
```

`set_model` does the same in SQL ([reference](sql.md#generations)). A model that requires a secret
input, such as the key of another provider, cannot be offered, because inputs are stored with the
generation.

## Rules

The operator decides which inputs users may set: `lock` permits one value, `default` is the value
of an input that the caller leaves out, `cap` is the highest value, `refuse` refuses an input or
some of its values, and `allow` disables less specific rules. A rule applies to a model, or to all
models that match a pattern, and to all users or to the users of a plan. Rules apply to every
caller, service keys included.

```sh
picture-queue rules set '*' num_outputs cap 1 --plan free
picture-queue rules set google/nano-banana-pro resolution refuse '["4K"]'
picture-queue rules set stability-ai/sdxl replicate_weights allow --plan studio
picture-queue rules delete '*' 'disable_safety*' lock   # users may then turn safety checks off
```

### Default rules

| model | input | rule |
|---|---|---|
{rules}

The cap of a list is its maximum number of entries. Without a rule, a text has at most
`max_prompt_length` characters, and a list at most 100 entries.

## Moderation

Functions of your worker may refuse prompts and pictures. They return None to accept, or the
reason, which the owner of the generation sees. A prompt is moderated before the provider is called
and paid. A refused picture is not stored; if all pictures of a generation are refused, it fails. A
refusal is final. If a function raises an error, the job is retried, and nothing is sent or stored.

```python
from picture_queue import AsyncPictureQueue, Worker
from picture_queue.generations.builtin import add_generations
from picture_queue.generations.moderation import Moderation, PromptToModerate
from picture_queue.settings import ReplicateSettings

pq = AsyncPictureQueue.from_env()
worker = Worker(pq)


async def moderate_prompt(request: PromptToModerate) -> str | None:
    words = " ".join(request.texts).lower().split()
    return "No weapons, please." if "gun" in words else None


add_generations(
    worker, pq, ReplicateSettings.from_env(), moderation=Moderation(moderate_prompt)
)
```

`request.texts` has every text that the provider gets: the prompt, `negative_prompt`, and all other
texts of the input. `request.prompt` alone is not enough, since a model may read any text.
`moderate_image` gets the file with its type and the request. A plain function runs in a thread.
Run the worker with `picture-queue worker --app module:worker`.
"""


def rule_rows() -> list[str]:
    """Return a row of the table for each default rule."""
    text = RULES.read_text("utf-8")
    rules = re.findall(r"\('([^']+)', '([^']+)', '([^']+)', (?:'([^']*)'|null)\)", text)
    return [
        f"| `{model}` | `{name}` | {action}{f' `{value}`' if value else ''} |"
        for model, name, action, value in rules
    ]


def format_permitted(entry: dict[str, Any]) -> str:
    """Return the values that an input permits."""
    if entry["enum"]:
        first_values = ", ".join(f"`{value}`" for value in entry["enum"][:MAX_CHOICES])
        more = len(entry["enum"]) - MAX_CHOICES
        return first_values + (f" and {more} more" if more > 0 else "")
    minimum, maximum = entry["minimum"], entry["maximum"]
    if minimum is not None and maximum is not None:
        return f"{minimum} to {maximum}"
    if minimum is not None:
        return f"from {minimum}"
    return f"up to {maximum}" if maximum is not None else ""


def format_default(entry: dict[str, Any]) -> str:
    """Return the default of an input as JSON; empty text if there is none."""
    if entry["default"] in (None, "", []):
        return ""
    text = json.dumps(entry["default"], ensure_ascii=False).replace("|", "\\|")
    return f"`{text}`" if len(text) <= 60 else f"`{text[:57]}…`"


def format_section(model: dict[str, Any]) -> str:
    """Return the section of the page about a model."""
    price, seconds = model["price_usd_per_image"], model["typical_seconds"]
    facts = [
        f"**Kind:** {', '.join((model['kind'], *model['also_kinds']))}",
        f"**price:** {'?' if price is None else f'{price:g}'}",
        f"**seconds:** {'?' if seconds is None else f'{seconds:g}'}",
        f"**output:** {OUTPUTS[model['output']]}",
    ]
    lines = [f"### {model['id']}", "", " · ".join(facts), ""]
    if model["unavailable_reason"]:
        lines += [f"Not offered: {model['unavailable_reason']}.", ""]
    if not model["inputs_complete"]:
        lines += ["The list of inputs may be incomplete. Other inputs are sent with a warning.", ""]
    if model["notes"]:
        lines += [model["notes"], ""]
    lines += ["| input | type | default | permitted | meaning |", "|---|---|---|---|---|"]
    for entry in model["inputs"]:
        kind = "file" if entry["format"] else entry["type"]
        kind = "files" if entry["format"] and entry["type"] == "array" else kind
        name = f"`{entry['name']}`{' *' if entry['required'] else ''}"
        lines.append(
            f"| {name} | {kind} | {format_default(entry)} | {format_permitted(entry)} "
            f"| {entry['description']} |"
        )
    return "\n".join(lines)


def build_page() -> str:
    """Return the text of the page."""
    models = json.loads(MODELS.read_text("utf-8"))
    parts = [HEAD.format(count=len(models), rules="\n".join(rule_rows()))]
    for kind, title in KINDS.items():
        of_kind = sorted(
            (model for model in models if model["kind"] == kind), key=lambda model: model["id"]
        )
        if of_kind:
            parts.append(f"## {title}")
            parts += [format_section(model) for model in of_kind]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> int:
    """Write the page if it is out of date; with --check only report that it is out of date."""
    text = build_page()
    if PAGE.exists() and PAGE.read_text("utf-8") == text:
        return 0
    if "--check" in sys.argv:
        print("out of date: docs/models.md\nrun: python scripts/build_models_page.py")
        return 1
    PAGE.write_text(text, "utf-8")
    print("written: docs/models.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
