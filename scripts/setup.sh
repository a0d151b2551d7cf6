#!/bin/sh
# Makes the virtual environment and installs everything into it. Called by `make setup`, which sets
# VENV and PYTHON. Runs as root and as an ordinary user alike.
set -eu

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

if command -v uv >/dev/null 2>&1; then
  echo "Making $VENV with uv"
  uv venv --quiet --allow-existing --python '>=3.11' "$VENV"
  uv pip install --quiet --compile-bytecode --python "$VENV/bin/python" --require-hashes -r requirements/dev.txt
  uv pip install --quiet --python "$VENV/bin/python" --no-deps --editable .
else
  command -v "$PYTHON" >/dev/null 2>&1 ||
    fail "$PYTHON is not there. Install Python 3.11 or newer (Debian: apt-get install python3 python3-venv)."
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is $("$PYTHON" --version), but 3.11 or newer is needed. Try: make setup PYTHON=python3.12"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" \
      "Or install uv (https://docs.astral.sh/uv/), which needs neither."
  echo "Making $VENV with $PYTHON -m venv"
  "$PYTHON" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
fi

# Root's stack runs as a user who cannot write it where the code lies.
"$VENV/bin/python" -m compileall -q picture_queue cli

echo "Fetching PostgREST for the embedded stack, unless it is there"
"$VENV/bin/python" -m picture_queue.local.fetch
echo "Ready: make demo, make test"
