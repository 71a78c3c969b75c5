# Sourced by the other scripts: makes .venv with everything that requirements.txt and the given extra files pin.
# VENV=<folder> uses another environment; it is left alone if it has what is needed. BASE_PYTHON=<python> makes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-$PWD/.venv}"
PYTHON="$VENV/bin/python"

setup_env() { # setup_env requirements...
  local wanted stamp="$VENV/.installed" python
  wanted="$(cat setup.py "$@" | cksum) $PWD"
  [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp" && return
  if [ ! -x "$PYTHON" ]; then
    for python in ${BASE_PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
      command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' && break
      python=""
    done
    [ -n "$python" ] || { echo "error: Python 3.11.4 or newer is needed: install it first" >&2; exit 1; }
    echo "making $VENV with $("$python" --version)"
    "$python" -m venv "$VENV"
  fi
  echo "installing $* (a few minutes the first time; 6 GB with PyTorch's CUDA libraries)"
  local args=() file
  for file in "$@"; do args+=(-r "$file"); done
  PYTHONWARNINGS=ignore "$PYTHON" -m pip install --quiet --disable-pip-version-check "${args[@]}" -e .
  echo "$wanted" >>"$stamp"
}
