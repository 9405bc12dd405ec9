#!/bin/bash
# A Ray cluster of this machine and those named, for one run of tokpack. All see the same folders, and have
# `pip install "tokpack[ray]"` of the same version; ssh reaches them without a password.
#
#   NODES="node2 node3" examples/ray/pack.sh /shared/data -t MODEL -o /shared/packed --max-length 4096
#
# Without a folder in common: data in a bucket, --work-dir s3://BUCKET/PREFIX, and keys in every node's environment.
# When it was killed, the same command goes on. Who does not know the token cannot use the cluster.
# At the end it ends all of Ray on these machines: where one belongs to a cluster, give tokpack its --ray-address.
set -euo pipefail
PORT="${PORT:-6379}"
HEAD="$(hostname -I | cut -d' ' -f1)"
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN

STARTED=""
stop() { # of what this script started: `ray stop` ends all of Ray on a machine
  for node in $STARTED; do ssh "$node" ray stop --force > /dev/null 2>&1 || true; done
  ray stop --force > /dev/null 2>&1
}

ray start --head --port "$PORT" --disable-usage-stats > /dev/null # an error where Ray runs there already
trap stop EXIT
for node in ${NODES:-}; do
  ssh "$node" "read -r RAY_AUTH_TOKEN; export RAY_AUTH_TOKEN RAY_AUTH_MODE=token; ray start --address $HEAD:$PORT" \
    <<< "$RAY_AUTH_TOKEN"
  STARTED="$STARTED $node"
done
tokpack pack "$@" --engine ray --ray-address "$HEAD:$PORT"
