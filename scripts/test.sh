#!/usr/bin/env bash
# The tests but for the slow ones, in an environment that is made if needed. Arguments go to pytest:
#   scripts/test.sh -k parity
#   scripts/test.sh -m ""      # every test
source "$(dirname "$0")/setup_env.sh"
setup_env requirements.txt requirements-dev.txt
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup "$@"
