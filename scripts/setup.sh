#!/bin/sh
# Creates the virtual environment and installs all dependencies into it. `make setup` calls this script
# and sets VENV and PYTHON. The script works as root and as an ordinary user.
set -eu

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

# The installers need no keys of a project, and some packages run code while they are built.
unset REPLICATE_API_TOKEN SUPABASE_ACCESS_TOKEN SUPABASE_DB_PASSWORD SUPABASE_JWT_SECRET SUPABASE_SECRET_KEY \
  SUPABASE_SERVICE_ROLE_KEY PICTURE_QUEUE_DATABASE_URL

# With --no-build-isolation, the package is built with the hatchling of requirements/dev.txt, whose hash was
# checked. Otherwise another hatchling would be downloaded without a check of its hash.
if command -v uv >/dev/null 2>&1; then
  echo "Creating $VENV with uv"
  # uv reads settings and projects in all directories above. Below /tmp, another user may have created /tmp/uv.toml.
  uv venv --quiet --no-config --no-project --allow-existing --python '>=3.11' "$VENV"
  uv pip install --quiet --no-config --compile-bytecode --python "$VENV/bin/python" \
    --require-hashes -r requirements/dev.txt
  uv pip install --quiet --no-config --no-sources --python "$VENV/bin/python" \
    --no-deps --no-build-isolation --editable .
else
  command -v "$PYTHON" >/dev/null 2>&1 ||
    fail "$PYTHON was not found. Install Python 3.11 or newer (Debian: apt-get install python3 python3-venv)."
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is $("$PYTHON" --version), but 3.11 or newer is needed. Try: make setup PYTHON=python3.12"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON cannot create virtual environments. On Debian and Ubuntu: apt-get install python3-venv" \
      "Or install uv (https://docs.astral.sh/uv/), which does not need it."
  echo "Creating $VENV with $PYTHON -m venv"
  "$PYTHON" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
fi

# Write the bytecode now, because a stack that root starts runs as a user who cannot write it here.
"$VENV/bin/python" -m compileall -q picture_queue cli

echo "Downloading PostgREST for the embedded stack, unless it is installed"
"$VENV/bin/python" -P -m picture_queue.local.fetch
echo "Ready: make demo, make test"
