#!/bin/bash
# A Ray cluster of this machine and those named, for one run of tokpack. All see the same folders, and have
# `pip install "tokpack[ray]"` of the same version; ssh reaches them without a password.
#
#   NODES="node2 node3" examples/ray/pack.sh /shared/data -t MODEL -o /shared/packed --max-length 4096
#
# When it was killed, the same command goes on.
set -euo pipefail
PORT="${PORT:-6379}"
HEAD="$(hostname -I | cut -d' ' -f1)"

stop() {
  for node in ${NODES:-}; do ssh "$node" ray stop --force || true; done
  ray stop --force
}
trap stop EXIT

ray start --head --port "$PORT" --disable-usage-stats
for node in ${NODES:-}; do ssh "$node" ray start --address "$HEAD:$PORT"; done
tokpack pack "$@" --engine ray --ray-address "$HEAD:$PORT"
