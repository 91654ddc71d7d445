#!/usr/bin/env bash
# Core and dialogues with the oldest and the newest Twisted, and with each other Python that is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec bash tools/other_versions.sh
