#!/bin/sh
# From nothing to the first picture on a Supabase project: the five steps of docs/supabase.md, each
# confirmed by the doctor. Needs the address and a secret key of the project, and of its database:
#   SUPABASE_URL  SUPABASE_KEY  PICTURE_QUEUE_DATABASE_URL  REPLICATE_API_TOKEN
set -eu

confirm() { picture-queue doctor "$@"; }

echo "1. The project"
confirm --check address --check key --check api

echo "2. The SQL"
if command -v supabase >/dev/null; then
  test -d supabase || supabase init
  picture-queue install
  supabase db push --yes --db-url "$PICTURE_QUEUE_DATABASE_URL"
else
  picture-queue migrate
fi
confirm --check version --check migrations --check rights --check storage

echo "3. Events and maintenance"
picture-queue maintain
confirm --check realtime --check "realtime in SQL" --check maintenance

echo "4. A worker"
picture-queue worker &
worker=$!
trap 'kill $worker; wait $worker || true' EXIT
tries=0
until confirm --check workers >/dev/null; do
  kill -0 $worker
  tries=$((tries + 1))
  test $tries -lt 30 || { echo "The worker is not heard of." >&2; exit 1; }
  sleep 1
done
confirm --check workers

echo "5. A picture"
picture-queue generate "A lighthouse at dusk"
picture-queue doctor
