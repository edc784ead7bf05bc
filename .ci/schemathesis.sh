#!/usr/bin/env bash
# Runs schemathesis over docs/openapi.json against a service of its own on a free port of the loopback.
# Fails on any 5xx and on any answer that is not in the document. Ends with schemathesis' own counts.
#
#   .ci/schemathesis.sh [PATH-OF-POLDER] [EXAMPLES-PER-OPERATION]
#
# POLDER_SCHEMATHESIS_CHECKS chooses other checks, for example `all`.
set -euo pipefail
cd "$(dirname "$0")/.."
polder=${1:-target/debug/polder}
examples=${2:-50}
checks=${POLDER_SCHEMATHESIS_CHECKS:-not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance}
version=4.32.5
document=$PWD/docs/openapi.json

work=$(mktemp -d)
service=
cleanup() {
  [ -z "$service" ] || kill "$service" 2>/dev/null || true
  [ -z "$service" ] || wait "$service" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

venv=${POLDER_SCHEMATHESIS_VENV:-$work/venv}
[ -x "$venv/bin/schemathesis" ] || { python3 -m venv "$venv" && "$venv/bin/pip" --quiet install "schemathesis==$version"; }

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url="https://127.0.0.1:$port"
"$polder" service run --data "$work/service" --listen "127.0.0.1:$port" >"$work/log" 2>&1 &
service=$!
for _ in $(seq 300); do
  curl --silent --fail --cacert "$work/service/ca.pem" "$url/readyz" >/dev/null 2>&1 && break
  kill -0 "$service" || { cat "$work/log"; exit 1; }
  sleep 0.1
done
token=$(cat "$work/service/owner.token")
call() {
  curl --silent --show-error --fail --cacert "$work/service/ca.pem" -H "Authorization: Bearer $token" "$@" >/dev/null
}
# Something to find: a share with a file, a group, a snapshot.
json='Content-Type: application/json'
call -H "$json" -d '{"name":"demo"}' "$url/v1/shares"
call -H "$json" -d '{"name":"demo","share":"demo"}' "$url/v1/groups"
call -X PUT --data-binary 'hello' "$url/v1/shares/demo/content/a/b.txt?parents=true"
call -H "$json" -d '{"name":"first"}' "$url/v1/shares/demo/snapshots"

run() { # CONFIG
  # In its own folder: it keeps a cache where it runs.
  (cd "$work" && "$venv/bin/schemathesis" --config-file "$1" run "$document" --url "$url" --tls-verify "$work/service/ca.pem" \
    -H "Authorization: Bearer $token" --checks "$checks" --max-examples "$examples" --continue-on-failure \
    --suppress-health-check all --warnings off --seed "${POLDER_SCHEMATHESIS_SEED:-1}") || status=$?
}
status=0
echo "== everything as the document allows it"
: >"$work/any.toml"
run "$work/any.toml"
# Most names that are made up name nothing: once more with names that exist, so that the handlers get to their work.
echo "== names that exist"
cat >"$work/known.toml" <<'END'
[parameters]
"path.share" = "demo"
"path.group" = "demo"
"path.reconciler" = "verify"
"path.snapshot" = "first"
"path.path" = "a/b.txt"
END
run "$work/known.toml"
if grep -E '"level":"ERROR"| ERROR ' "$work/log"; then
  echo "the service logged errors"
  status=1
fi
exit "$status"
