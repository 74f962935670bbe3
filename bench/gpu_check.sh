#!/usr/bin/env bash
# What one GPU shows in less than ten minutes: the card, the tests marked `gpu`, the figures of `python -m bench.gpu`.
#
# usage: bench/gpu_check.sh OUT [--wheels FOLDER] [--dry]
#
# OUT: the folder for logs, a JUnit file and a summary. --wheels: installs missing packages offline from the wheels of
# FOLDER, into a folder of this run's own. --dry: the same with tiny models on a CPU.
# PYTHON names the interpreter. Each part has a limit and the next one runs whatever became of it; all of them end before
# SECONDS_IN_ALL. Exits with the number of parts that failed.
set -u

SECONDS_IN_ALL=570

python=${PYTHON:-python3}
out='' wheels='' device=cuda:0
options=(--seconds 3)
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$(realpath "$2") && shift ;;
    --dry) device=cpu options=(--device cpu --small --seconds 0.2 --rows 16) ;;
    *) out=$1 ;;
  esac
  shift
done
[ -n "$out" ] || { sed -n '4p' "$0" | cut -c3- >&2; exit 64; }
mkdir -p "$out" && out=$(realpath "$out") && cd "$(dirname "$0")/.." || exit 64

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH=$site:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GPU_TESTS_DEVICE=$device
if [ -n "$wheels" ]; then
  "$python" -m pip install -q --no-index --no-deps --no-cache-dir --target "$site" "$wheels"/*.whl || exit 1
fi
failed=0
: >"$out/summary.txt"

# part NAME LIMIT COMMAND…: run it for LIMIT seconds at most, show it, keep it, and note what became of it.
part() {
  local name=$1 limit=$2 began=$SECONDS left=$((SECONDS_IN_ALL - SECONDS)) status
  shift 2
  [ "$limit" -lt "$left" ] || limit=$left
  printf '\n===== %s\n' "$name"
  if [ "$limit" -lt 10 ]; then
    status='left out: no time'
  else
    timeout -k 10 "$limit" "$@" >"$out/$name.txt" 2>&1
    status=$?
    cat "$out/$name.txt"
    [ "$status" = 124 ] && status="124: it took longer than $limit s"
  fi
  [ "$status" = 0 ] || failed=$((failed + 1))
  echo "$name: status $status, $((SECONDS - began)) s" >>"$out/summary.txt"
}

part card 60 "$python" -m bench.gpu_card
# Other versions of the packages warn of other things, and the project's filters name packages that may be missing.
part tests 210 "$python" -m pytest tests/gpu -m gpu -n 0 -q --tb=short -p no:cacheprovider -o filterwarnings=default \
  --junit-xml="$out/tests.xml"
part base 170 "$python" -m bench.gpu --models base --mixes 50,512 "${options[@]}"
part large 160 "$python" -m bench.gpu --models large --mixes 50,512 "${options[@]}"
part card-afterwards 20 "$python" -m bench.gpu_card

printf '\n===== summary\n'
cat "$out/summary.txt"
exit "$failed"
