# What every script here begins with: sourced first, it goes to the root of the repository and sets
#   $CARAVAN   the program, unless it is given
#   $dir       a folder for what comes and goes; removed at the end
#   $failed    1 once a case has failed: a script ends with `exit $failed`
# One line per case, in the form that tests/run counts:
#   ok NAME; bad NAME WHY; skip NAME WHY
#   check NAME COMMAND...   by its exit code; where it fails, $dir/out and $dir/err are shown, if there are any
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export CARAVAN=${CARAVAN:-$PWD/build/caravan} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
ok() { echo "[       OK ] $1"; }
bad() { echo "[  FAILED  ] $1"; echo "  $2"; failed=1; }
skip() { echo "[ SKIPPED  ] $1: $2"; }
check() { if "${@:2}"; then ok "$1"; else bad "$1" "$(cat "$dir/out" "$dir/err" 2>/dev/null)"; fi; }
