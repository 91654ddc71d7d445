#!/usr/bin/env bash
# The dialogues of web and faults with sockets the public way: nothing that is private to Twisted is used.
set -euo pipefail
cd "$(dirname "$0")/../.."
AGM_PLAIN_SOCKETS=1 exec .venv/bin/python -m pytest -q -n "${AGM_TEST_PROCESSES:-2}" --dist loadfile tests/web tests/faults
