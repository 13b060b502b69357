#!/bin/sh
# Make .venv: a Python environment with exactly what requirements.lock names,
# and the two distributions of this repository, editable.
#
# An interrupted run leaves no stamp, and the next one starts afresh.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/.vdxgk-stamp
key=$(cat requirements.lock pyproject.toml device/pyvfio-user/pyproject.toml "$0" | sha256sum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$key" ]; then
	exit 0
fi

find_python() {
	for python in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
		[ -n "$python" ] || continue
		if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
			2>/dev/null; then
			echo "$python"
			return 0
		fi
	done
	return 1
}

# Debian packages; apt's words are shown only if it fails.
install() {
	log=$(mktemp)
	if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } \
		>"$log" 2>&1 </dev/null; then
		cat "$log" >&2
	fi
	rm -f "$log"
}

export DEBIAN_FRONTEND=noninteractive
python=$(find_python) || {
	if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] && command -v apt-get >/dev/null; then
		echo "setup: installing python3-venv" >&2
		install python3 python3-venv
	fi
	python=$(find_python) || {
		echo "setup: no Python 3.11 or newer with the venv module." >&2
		echo "setup: on Debian or Ubuntu: sudo apt-get install python3-venv" >&2
		echo "setup: elsewhere: install Python 3.11, then make PYTHON=/path/to/python3" >&2
		exit 1
	}
}

echo "setup: Python environment in .venv ($("$python" --version)) ..." >&2
rm -rf .venv
"$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet --require-hashes --requirement requirements.lock
pip install --quiet --no-build-isolation --no-deps --no-index \
	--editable device/pyvfio-user --editable .
echo "$key" >"$stamp"
