#!/usr/bin/env bash
# Core and dialogue tests against other versions: the oldest Twisted that setup.cfg takes, the newest on PyPI, and each
# other Python from 3.11 on that is installed (on PATH, or pyenv's).  Each gets a venv of its own below build/versions.
#
#   bash tools/other_versions.sh                      # all of them; some minutes each
#   bash tools/other_versions.sh oldest tests/core    # one of them, and these tests
#   bash tools/other_versions.sh newest 3.12 3.13
set -euo pipefail
cd "$(dirname "$0")/.."

oldest=$(sed -n 's/^ *twisted\[tls\] *>= *//p' setup.cfg)
tests=(tests/core tests/net tests/upstream tests/web tests/faults/test_upstream_faults.py tests/faults/test_clients_leave.py)

# The interpreters, one for each minor version, the last found of it.
declare -A pythons=()
for python in $(compgen -c python3. | sort -uV) "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    minor=${version#3.}
    if [[ $version == 3.* && $minor -ge 11 ]]; then
        pythons[$version]=$python
    fi
done

which=()
while [[ $# -gt 0 && ( $1 == oldest || $1 == newest || $1 == 3.* ) ]]; do
    which+=("$1")
    shift
done
[[ $# -gt 0 ]] && tests=("$@")
here=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [[ ${#which[@]} -eq 0 ]]; then
    which=(oldest newest)
    for version in "${!pythons[@]}"; do
        [[ $version == "$here" ]] || which+=("$version")
    done
fi

failed=()
for name in "${which[@]}"; do
    case $name in
        oldest) python=.venv/bin/python twisted="==$oldest" ;;
        newest) python=.venv/bin/python twisted="" ;;
        *) python=${pythons[$name]:?no such Python is installed} twisted="" ;;
    esac
    bin=build/versions/$name/bin
    [[ -x $bin/python ]] || "$python" -m venv "build/versions/$name"
    "$bin/python" -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy only-if-needed \
        --editable '.[test]' "twisted[tls]$twisted"
    "$bin/python" -c 'import platform, twisted; print(f"Python {platform.python_version()}, Twisted {twisted.__version__}")'
    "$bin/python" -m pytest -q -n "${AGM_TEST_PROCESSES:-2}" --dist loadfile -p no:cacheprovider "${tests[@]}" || failed+=("$name")
done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
