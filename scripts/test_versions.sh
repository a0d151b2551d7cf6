#!/bin/sh
# Runs the unit tests with the lowest or the newest versions that pyproject.toml permits. Needs uv.
# Usage: test_versions.sh lowest-direct|highest [ARGUMENT OF PYTEST ...]
set -eu

resolution=$1
shift
environment=".venv-$resolution"
command -v uv >/dev/null 2>&1 || {
  echo "uv is missing: pip install uv, or see https://docs.astral.sh/uv/" >&2
  exit 1
}
# uv reads settings and projects in all directories above. Below /tmp, another user may have created /tmp/uv.toml.
uv venv --quiet --no-config --no-project --allow-existing --python '>=3.11' "$environment"
uv pip install --quiet --no-config --no-sources --python "$environment/bin/python" \
  --resolution "$resolution" --upgrade --editable '.[dev]'
exec "$environment/bin/python" -m pytest tests/unit -q -n auto --dist loadfile "$@"
