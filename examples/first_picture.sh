#!/bin/sh
# Generates the first picture in a Supabase project, by the five steps of docs/supabase.md. The doctor
# checks each step. Needs these variables:
#   SUPABASE_URL  SUPABASE_KEY  PICTURE_QUEUE_DATABASE_URL  REPLICATE_API_TOKEN
set -eu

echo "1. The project"
picture-queue doctor --check address --check key --check api

echo "2. The SQL"
if command -v supabase >/dev/null; then
  test -d supabase || supabase init
  picture-queue install
  supabase db push --yes --db-url "$PICTURE_QUEUE_DATABASE_URL"
else
  picture-queue migrate
fi
picture-queue doctor --check version --check migrations --check privileges --check storage

echo "3. Events and maintenance"
picture-queue maintain
picture-queue doctor --check realtime --check "realtime in SQL" --check maintenance

echo "4. A worker"
picture-queue worker &
worker=$!
trap 'kill $worker; wait $worker || true' EXIT
tries=0
until picture-queue doctor --check workers >/dev/null; do
  kill -0 $worker
  tries=$((tries + 1))
  test $tries -lt 30 || { echo "The worker did not start." >&2; exit 1; }
  sleep 1
done
picture-queue doctor --check workers

echo "5. A picture"
picture-queue generate "A lighthouse at dusk"
picture-queue doctor
