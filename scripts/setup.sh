#!/bin/sh
# Creates the virtual environment and installs all dependencies into it. `make setup` calls it and
# sets VENV and PYTHON. It works as root and as an ordinary user.
set -eu

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

if command -v uv >/dev/null 2>&1; then
  echo "Creating $VENV with uv"
  uv venv --quiet --allow-existing --python '>=3.11' "$VENV"
  uv pip install --quiet --compile-bytecode --python "$VENV/bin/python" --require-hashes -r requirements/dev.txt
  uv pip install --quiet --python "$VENV/bin/python" --no-deps --editable .
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
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
fi

# Write the bytecode now, because a stack that root starts runs as a user who cannot write it here.
"$VENV/bin/python" -m compileall -q picture_queue cli

echo "Downloading PostgREST for the embedded stack, unless it is installed"
"$VENV/bin/python" -m picture_queue.local.fetch
echo "Ready: make demo, make test"
