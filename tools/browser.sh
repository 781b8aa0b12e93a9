#!/usr/bin/env bash
# Installs Debian's Chromium and its driver, in which tests/browser/ opens the pages; silent where they are there already.
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "no chromium here, and no right to install it: the tests in a browser are skipped (apt-get install chromium chromium-driver)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends chromium chromium-driver >/dev/null
