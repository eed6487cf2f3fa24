#!/usr/bin/env bash
# Two hosts that share a network but no folder train together, with data and results on an S3 server, while a host, the
# driver and the server fail. Prints what happens; ends with 0 if the weights are those of an undisturbed run. The hosts
# are namespaces of this machine, for which it needs root on Linux. It leaves nothing and takes about four minutes.
#
#     bash tests/cluster/two_hosts.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.venv/bin/python
[ -x "$python" ] || python=python
exec "${PYTHON:-$python}" -m tests.cluster.two_hosts
