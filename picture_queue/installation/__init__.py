"""Installation of the SQL in a project: as files for the Supabase CLI, or directly.

- `folder`: writes the migrations into the project's ``supabase/migrations/``.
- `database`: applies the migrations to a database, without the Supabase CLI.
- `state`: reads which migrations a database has, and which tool applies them.
- `adopt`: takes over a project that runs another job queue, with `relocate` and `copy_jobs`.
- `checkup`: the doctor's checks from outside the database.
"""
