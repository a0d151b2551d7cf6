"""How the SQL gets into a project: as files for the Supabase CLI, or straight into the database.

- `folder`: writes the migrations into the project's ``supabase/migrations/``.
- `state`: reads what a database holds, and who keeps it.
- `database`: applies the migrations, where no Supabase CLI does.
"""
