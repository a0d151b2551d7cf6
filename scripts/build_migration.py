"""Write the generated files of supabase/.

- ``schemas/700_data_models.sql`` from ``picture_queue/providers/replicate/models.json``
- the migration of 0.1.0, ``migrations/20261123000000_pre_picture_queue.sql``, from all files of
  ``schemas/``, between two statements that set and restore the search_path

After the release of 0.1.0 the migration of 0.1.0 must not change, so this script must then no
longer write it. A change of a schema file then needs a new migration, written by hand.
``scripts/verify_schema.py`` checks that the migrations and the schema files create the same
database.

``python scripts/build_migration.py [--check]``. With --check it writes nothing, and exits with 1 if
a file is out of date.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "supabase" / "schemas"
MODELS_JSON = ROOT / "picture_queue" / "providers" / "replicate" / "models.json"
MODELS_SQL = SCHEMAS / "700_data_models.sql"
MIGRATION = ROOT / "supabase" / "migrations" / "20261123000000_pre_picture_queue.sql"
RULE_KEYS = ("name", "type", "format", "required", "default", "minimum", "maximum", "enum")

#: The first and the last statement of each migration. They change the search_path of the session
#: instead of the transaction, since psql commits each statement of a file by itself.
PROLOGUE = """\
-- Find names and operators in pg_catalog only. Otherwise checks and policies could use an operator
-- that another user has created in another schema, and would run it with the rights of the owner.
-- The last statement restores the search_path.
select
  pg_catalog.set_config(
    'picture_queue.search_path', pg_catalog.current_setting('search_path'), false),
  pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
"""
EPILOGUE = """\
-- Make PostgREST load the new functions.
notify pgrst, 'reload schema';

select pg_catalog.set_config(
  'search_path', pg_catalog.current_setting('picture_queue.search_path'), false);
"""
MODELS_TEMPLATE = """\
-- Written by scripts/build_migration.py from picture_queue/providers/replicate/models.json.
insert into picture_queue.model
  (model_id, kind, also_kinds, official, version, typical_seconds, price_usd_per_image,
   max_outputs_param, output, progress_in_logs, inputs, inputs_complete, unavailable_reason)
select m.id, m.kind, m.also_kinds, m.official, m.version, m.typical_seconds, m.price_usd_per_image,
  m.max_outputs_param, m.output, m.progress_in_logs, m.inputs, m.inputs_complete,
  m.unavailable_reason
from jsonb_to_recordset($models$
%s
$models$) as m (id text, kind text, also_kinds jsonb, official boolean, version text,
  typical_seconds real, price_usd_per_image numeric, max_outputs_param text, output text,
  progress_in_logs text, inputs jsonb, inputs_complete boolean, unavailable_reason text);
"""


def models_sql() -> str:
    """Return the SQL that inserts the models of the catalogue."""
    models = json.loads(MODELS_JSON.read_text("utf-8"))
    rows = []
    for model in models:
        row = {key: value for key, value in model.items() if key != "notes" and value is not None}
        row["inputs"] = [
            {key: rule[key] for key in RULE_KEYS if rule[key] is not None}
            for rule in model["inputs"]
        ]
        rows.append(json.dumps(row, ensure_ascii=False))
    return MODELS_TEMPLATE % ("[\n" + ",\n".join(rows) + "\n]")


def migration_sql(models: str) -> str:
    """Return the migration: all schema files in order.

    Args:
        models: The SQL that inserts the models, in place of the content of their schema file.
    """
    parts = [PROLOGUE]
    for file in sorted({*SCHEMAS.glob("*.sql"), MODELS_SQL}):
        text = models if file == MODELS_SQL else file.read_text("utf-8")
        parts.append(f"-- {file.name}\n\n{text.strip()}\n")
    parts.append(EPILOGUE)
    return "\n\n".join(parts)


def main() -> int:
    """Write the files that are out of date; with --check only list them."""
    models = models_sql()
    stale = []
    for path, text in ((MODELS_SQL, models), (MIGRATION, migration_sql(models))):
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(text, "utf-8")
    for path in stale:
        print(f"{'out of date' if '--check' in sys.argv else 'written'}: {path}")
    if stale and "--check" in sys.argv:
        print("run: python scripts/build_migration.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
