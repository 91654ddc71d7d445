#!/usr/bin/env bash
# The checks of the project.  Makes .venv if it is not there, and installs into it what has changed.
#
#   bash tests/run.sh                       what a change must not break: lints, types, imports, the tests but the slow ones
#   bash tests/run.sh --all                 before a release: every test, with coverage, and then each script in tests/all
#   bash tests/run.sh tests/core -k sse     pytest alone, with these arguments
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

all=
if [ "${1-}" = --all ]; then
    all=yes
    shift
fi
if [ "$#" -gt 0 ]; then
    if [ -n "$all" ]; then
        echo "--all takes no arguments: it runs everything" >&2
        exit 2
    fi
    exec "$bin/python" -m pytest "$@"
fi

"$bin/ruff" check --quiet .
"$bin/ruff" format --check --quiet .
# one process of its own, while the first tests run
"$bin/mypy" --no-error-summary >.venv/types 2>&1 &
types=$!
types_hold() {
    wait "$types" || {
        cat .venv/types >&2
        return 1
    }
}
"$bin/lint-imports" >.venv/imports 2>&1 || {
    cat .venv/imports >&2
    exit 1
}

# Many tests wait more than they work, so there are two processes more than the two processors of a small machine.  The tests
# of a module stay together: some share a gateway whose accounts the tests before them have used.
workers=(-n "${AGM_TEST_PROCESSES:-4}" --dist loadfile --no-loadscope-reorder)
if [ -z "$all" ]; then
    "$bin/python" -m pytest "${workers[@]}" -m "not slow" || {
        types_hold || true
        exit 1
    }
    types_hold
    exit
fi
types_hold

rm -f .coverage .coverage.*
export AGM_TEST_ALL=1 # as many examples of each property as it asks for
"$bin/python" -m pytest "${workers[@]}" --cov --cov-report=term:skip-covered
for script in tests/all/*.sh; do
    if [ -e "$script" ]; then
        echo "== $script"
        bash "$script"
    fi
done
