#!/usr/bin/env bash
# A Ray cluster on one machine, to try raydd's service on: a head and two worker nodes on loopback, with a token, and a store.
#
#   eval "$(bash cluster/laptop.sh up DIR)"    start them, their logs and pids below DIR; prints what to export
#   eval "$(bash cluster/laptop.sh env DIR)"   in another shell: what `up` printed, once more
#   bash cluster/laptop.sh down DIR            stop what `up` started, by its pids
#
# The store is whatever AWS_ENDPOINT_URL names; without it, moto's server (pip install 'moto[server]') stands in for S3. In
# either a bucket `raydd` is made unless it is there.
# DIR must be short: Ray's sockets lie below it, and their paths may not exceed 107 bytes.
set -euo pipefail
umask 077

NODES=2
WAIT_S=120
AGAIN=2

die() { echo "laptop.sh: $*" >&2; exit 1; }

# Ports that nobody listens at, one a line.
free_ports() {
  python3 - "$1" <<'PYTHON'
import socket
import sys

held = []
while len(held) < int(sys.argv[1]):
    held.append(socket.socket())
    held[-1].bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held), sep="\n")
PYTHON
}

# Start a program in a session of its own, its output in DIR/NAME.log and its pid in DIR/NAME.pid.
begin() {
  local name=$1
  shift
  setsid "$@" >"$dir/$name.log" 2>&1 </dev/null &
  echo $! >"$dir/$name.pid"
}

# Wait for a program that was begun, until a command succeeds.
wait_for() {
  local name=$1 deadline=$((SECONDS + WAIT_S))
  shift
  until "$@" >/dev/null 2>&1; do
    kill -0 "$(cat "$dir/$name.pid")" 2>/dev/null || { down; die "$name ended; see $dir/$name.log"; }
    [ $SECONDS -lt $deadline ] || { down; die "$name did not come up within $WAIT_S s; see $dir/$name.log"; }
    sleep 1
  done
}

# Start worker node $1 of the cluster at port $2, its agent at port $3. A folder each: what a node thinks unused it deletes, job
# files that another one still needs among it.
node() {
  begin "node$1" ray start --block --num-cpus=1 --object-store-memory=200000000 --node-ip-address=127.0.0.1 \
    --temp-dir="$dir/ray$1" --address="127.0.0.1:$2" --dashboard-agent-listen-port="$3"
}

# Wait until a node is up; fail where it ended, and end where it does neither.
came_up() {
  for _ in $(seq $WAIT_S); do
    is_up "$1" && return
    kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null || return 1
    sleep 1
  done
  down
  die "$1 did not come up within $WAIT_S s; see $dir/$1.log"
}

is_up() { grep -q "Ray runtime started" "$dir/$1.log"; }

up() {
  mkdir -p "$dir"
  ls "$dir"/*.pid >/dev/null 2>&1 && die "expected a folder where nothing runs, got $dir; take it down first"
  mapfile -t ports < <(free_ports $((5 + NODES)))
  local gcs=${ports[0]} dashboard=${ports[1]} client=${ports[2]} store=${ports[3]} agent=${ports[4]}
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(python3 -c 'import secrets; print(secrets.token_hex(32))')}
  # A driver that is stopped writes a checkpoint first.
  export RAY_JOB_STOP_WAIT_TIME_S=30 RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 OMP_NUM_THREADS=1
  local told=(RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_API_SERVER_ADDRESS)
  if [ -z "${AWS_ENDPOINT_URL:-}" ]; then
    told+=(AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_DEFAULT_REGION)
    export AWS_ENDPOINT_URL=http://127.0.0.1:$store AWS_ACCESS_KEY_ID=laptop AWS_SECRET_ACCESS_KEY=laptop AWS_DEFAULT_REGION=us-east-1
    begin store moto_server -H 127.0.0.1 -p "$store"
    wait_for store python3 -c "import urllib.request; urllib.request.urlopen('$AWS_ENDPOINT_URL', timeout=5)"
  fi
  python3 -c "import s3fs; fs = s3fs.S3FileSystem(); fs.exists('raydd') or fs.mkdir('raydd')"
  begin head ray start --head --block --num-cpus=1 --object-store-memory=200000000 --node-ip-address=127.0.0.1 \
    --port="$gcs" --temp-dir="$dir/ray" --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
    --ray-client-server-port="$client" --dashboard-agent-listen-port="$agent"
  export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
  wait_for head is_up head
  wait_for head raydd jobs
  for i in $(seq $NODES); do
    node "$i" "$gcs" "${ports[4 + i]}"
    # Ray gives a node 30 s to start, which a busy machine may need more of.
    for _ in $(seq $AGAIN); do came_up "node$i" || node "$i" "$gcs" "${ports[4 + i]}"; done
    wait_for "node$i" is_up "node$i"
  done
  # It holds the token; the umask keeps it from others.
  for name in "${told[@]}"; do printf 'export %s=%q\n' "$name" "${!name}"; done | tee "$dir/env"
}

again() {
  [ -e "$dir/env" ] || die "expected a cluster that is up in $dir, got none"
  cat "$dir/env"
}

down() {
  local file pid names=()
  for file in "$dir"/node*.pid "$dir"/head.pid "$dir"/store.pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    kill -TERM "$pid" 2>/dev/null || true
    names+=("$file")
  done
  for file in "${names[@]}"; do
    pid=$(cat "$file")
    for _ in $(seq 30); do kill -0 "$pid" 2>/dev/null || break; sleep 1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
    rm -f "$file"
  done
  rm -f "$dir/env"
}

[ $# = 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)
case $1 in
  up) up ;;
  env) again ;;
  down) down ;;
  *) die "expected up, env or down, got $1" ;;
esac
