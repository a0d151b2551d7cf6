"""Installation of the SQL in a project: as files for the Supabase CLI, or directly.

- `folder`: writing the migrations into the project's ``supabase/migrations/``.
- `database`: applying the migrations to a database without the Supabase CLI.
- `state`: the applied migrations of a database, and the tool that applies them.
- `adopt`: the adoption of a project that runs another job queue, with `relocate` and `copy_jobs`.
- `checkup`, `keys` and `leaks`: the doctor's checks from outside the database.
"""
