#!/usr/bin/env bash
# Installs Debian's espeak-ng, which speaks the sentences that the real models hear; silent where it is there already.
set -euo pipefail
if command -v espeak-ng >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "no espeak-ng here, and no right to install it: the models hear chirps instead (apt-get install espeak-ng)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends espeak-ng >/dev/null
