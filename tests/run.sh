#!/usr/bin/env bash
# Every check of the project: makes .venv if it is not there, installs into it what has changed, then lints, types
# and tests.  With arguments it runs pytest alone, with these: bash tests/run.sh tests/core -k envelope
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv/bin
if ! "$bin/python" -m pip --version >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m venv --clear .venv
fi
installed=.venv/installed
if [ ! -e "$installed" ] || [ setup.cfg -nt "$installed" ] || [ pyproject.toml -nt "$installed" ]; then
    "$bin/python" -m pip uninstall --quiet --yes agm 2>/dev/null || true # agm-gateway's name until 0.1.0
    "$bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test]'
    # twistd finds its commands through a cache; one from before the install would hide them
    rm -f twisted/plugins/dropin.cache .venv/lib/python*/site-packages/twisted/plugins/dropin.cache
    touch "$installed"
fi

if [ "$#" -gt 0 ]; then
    exec "$bin/python" -m pytest "$@"
fi
"$bin/ruff" check --quiet .
"$bin/ruff" format --check --quiet .
"$bin/mypy" --no-error-summary
rm -f .coverage .coverage.*
exec "$bin/python" -m pytest -n "${AGM_TEST_PROCESSES:-2}" --dist loadfile --cov --cov-report=term:skip-covered
