#!/usr/bin/env bash
# What a request through the gateway costs, beside nginx as a plain proxy, measured in one run.
#
# One CPU carries the load (wrk) and a small fast upstream, the other the proxy under test: the
# gateway with one worker (signed token, roles, revocation, identity headers, metrics), once
# without and once with a decision line per request, and nginx with one worker and none of that.
# All three take turns in every round, the first place going round, so that a machine that gets
# slower or faster hits them alike; ratios are taken inside a round. Needs Linux, nginx, wrk,
# curl, python3, taskset and two CPUs. Everything it starts lives in one temporary directory and
# is ended by its process id.
#
#   ROUNDS=9 DURATION=5 CONNECTIONS=64   paired rounds, seconds a turn, connections of the load
#   GATEPOST_BIN=FILE                    default: target/release/gatepost
#   NGINX=FILE                           default: nginx from PATH or /usr/sbin
#   PROXY_CPU=0 LOAD_CPU=1               default: the first two CPUs this process may use
#   OUT=FILE                             also writes every turn there, tab-separated
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-9}
duration=${DURATION:-5}
connections=${CONNECTIONS:-64}

die() { printf 'proxy.sh: %s\n' "$*" >&2; exit 1; }
for number in "$rounds" "$duration" "$connections"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || die "ROUNDS, DURATION and CONNECTIONS are whole numbers from 1, not '$number'"
done
PATH=$PATH:/usr/sbin
nginx=${NGINX:-nginx}
for tool in "$nginx" wrk curl python3 taskset; do
    command -v "$tool" >/dev/null || die "$tool is missing"
done
gatepost=${GATEPOST_BIN:-}
if [[ -z $gatepost ]]; then
    gatepost=target/release/gatepost
fi
[[ -x $gatepost ]] || die "no gateway binary: cargo build --release, or set GATEPOST_BIN"
gatepost=$(realpath "$gatepost")

mapfile -t cpus < <(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)), sep="\n")')
proxy_cpu=${PROXY_CPU:-${cpus[0]}}
load_cpu=${LOAD_CPU:-${cpus[1]:-}}
[[ -n $load_cpu && $load_cpu != "$proxy_cpu" ]] || die "two CPUs are needed: one for the proxy, one for the load"

dir=$(mktemp -d "${TMPDIR:-/tmp}/gatepost-bench.XXXXXX")
started=()
cleanup() {
    local pid
    trap - EXIT INT TERM
    for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Below the range that the system hands out: the load's own connections must not take one.
read -r up_port nginx_port quiet_port quiet_admin logged_port logged_admin < <(python3 - <<'PY'
import contextlib, random, socket
found = set()
while len(found) < 6:
    port = random.randrange(10240, 32768)
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        found.add(port)
print(*found)
PY
)

wait_for() { # PORT PID NAME LOG
    for _ in $(seq 200); do
        kill -0 "$2" 2>/dev/null || { tail -n 20 "$4" >&2; die "$3 ended at its start"; }
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
        sleep 0.05
    done
    tail -n 20 "$4" >&2
    die "$3 does not listen on port $1"
}

# --- the upstream and nginx ---------------------------------------------------------------
# One file for both; each instance keeps its pid, its logs and its scratch folders to itself.
nginx_conf() { # NAME SERVER-BLOCK UPSTREAM-BLOCK
    mkdir -p "$dir/$1/scratch"
    cat >"$dir/$1/nginx.conf" <<CONF
daemon off;
worker_processes 1;
pid $dir/$1/pid;
error_log $dir/$1/error.log warn;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    client_body_temp_path $dir/$1/scratch/body;
    proxy_temp_path $dir/$1/scratch/proxy;
    fastcgi_temp_path $dir/$1/scratch/fastcgi;
    uwsgi_temp_path $dir/$1/scratch/uwsgi;
    scgi_temp_path $dir/$1/scratch/scgi;
    $3
    $2
}
CONF
    # A worker that is not root must be able to reach its scratch folders.
    [[ $(id -u) != 0 ]] || sed -i '1i user root;' "$dir/$1/nginx.conf"
}
nginx_conf upstream "server {
        listen 127.0.0.1:$up_port;
        location / { default_type application/json; return 200 '{\"message\":\"hello from the app\"}'; }
    }" ""
nginx_conf plain "server {
        listen 127.0.0.1:$nginx_port;
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host \$http_host;
        }
    }" "upstream app { server 127.0.0.1:$up_port; keepalive 256; keepalive_requests 100000000; }"

start_nginx() { # NAME CPU PORT
    taskset -c "$2" "$nginx" -p "$dir/$1" -e "$dir/$1/error.log" -c "$dir/$1/nginx.conf" >"$dir/$1/out" 2>&1 &
    started+=($!)
    pid_of[$1]=$!
    wait_for "$3" "$!" "nginx ($1)" "$dir/$1/out"
}
declare -A pid_of port_of token_of
start_nginx upstream "$load_cpu" "$up_port"
start_nginx plain "$proxy_cpu" "$nginx_port"
port_of[plain]=$nginx_port

# --- the gateway, with and without its decision log -----------------------------------------
start_gateway() { # NAME PORT ADMIN-PORT DECISIONS
    mkdir -p "$dir/$1"
    cat >"$dir/$1/config.toml" <<CONF
[server]
listen = ["127.0.0.1:$2"]
workers = 1
[admin]
listen = "127.0.0.1:$3"
[log]
level = "info"
format = "json"
decisions = $4
[store]
path = "data"
min_free = "1MiB"
[auth]
registration = "open"
[tokens]
access_ttl = "12h"
[[upstream]]
name = "app"
servers = ["http://127.0.0.1:$up_port"]
[[route]]
path = "/**"
roles = ["user"]
[[route]]
path = "/admin/**"
roles = ["admin"]
[[route]]
path = "/public/**"
access = "public"
CONF
    chmod 600 "$dir/$1/config.toml"
    taskset -c "$proxy_cpu" "$gatepost" --config "$dir/$1/config.toml" serve >"$dir/$1/log" 2>"$dir/$1/err" &
    started+=($!)
    pid_of[$1]=$!
    port_of[$1]=$2
    wait_for "$2" "$!" "gatepost ($1)" "$dir/$1/err"

    local account='{"username":"alice","password":"correct horse battery"}'
    call() { curl -fsS -m 20 -H 'Content-Type: application/json' "$@"; }
    token() { call -d "$account" "http://127.0.0.1:$2/auth/login" | python3 -c 'import json,sys; print(json.load(sys.stdin)["access_token"])'; }
    call -o "$dir/answer" -d "$account" "http://127.0.0.1:$2/auth/register"
    # Somebody has logged out: the revocation list is not empty.
    call -o "$dir/answer" -X POST -H "Authorization: Bearer $(token "$@")" "http://127.0.0.1:$2/auth/logout"
    token_of[$1]=$(token "$@")
    local status
    status=$(curl -s -m 20 -o "$dir/answer" -w '%{http_code}' "http://127.0.0.1:$2/things")
    [[ $status == 401 ]] || die "gatepost ($1) answered $status to a request without a token"
}
start_gateway quiet "$quiet_port" "$quiet_admin" false
start_gateway logged "$logged_port" "$logged_admin" true
token_of[plain]=${token_of[quiet]} # nginx carries the same bytes

# --- one turn -------------------------------------------------------------------------------
cat >"$dir/report.lua" <<'LUA'
-- The summary as one line, so that nothing has to be read out of prose.
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("TURN %d %d %d %d %d %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write + e.timeout, e.status))
end
LUA

# User and system time of a process and its children, in clock ticks. The process's own line
# sums all its threads, those that have ended too.
cpu_ticks() { # PID
    local pid total=0 line
    for pid in "$1" $(cat "/proc/$1/task/$1/children"); do
        line=$(<"/proc/$pid/stat")
        # The second field may hold blanks: count from behind its closing parenthesis.
        set -- ${line##*) }
        total=$((total + ${12} + ${13}))
    done
    printf '%s' "$total"
}

turn() { # NAME SECONDS → requests duration_us p50_us p99_us ticks
    local before after line name=$1 requests time p50 p99 socket_errors status_errors
    before=$(cpu_ticks "${pid_of[$name]}")
    line=$(taskset -c "$load_cpu" wrk -t1 -c"$connections" -d"${2}s" -s "$dir/report.lua" \
        -H "Authorization: Bearer ${token_of[$name]}" "http://127.0.0.1:${port_of[$name]}/things" | grep '^TURN ')
    after=$(cpu_ticks "${pid_of[$name]}")
    read -r _ requests time p50 p99 socket_errors status_errors <<<"$line"
    ((socket_errors == 0 && status_errors == 0)) ||
        die "$name: $socket_errors connections failed and $status_errors answers were not 2xx or 3xx"
    ((requests > 0)) || die "$name answered nothing"
    printf '%s\t%s\t%s\t%s\t%s\n' "$requests" "$time" "$p50" "$p99" $((after - before))
}

for name in plain quiet logged; do
    [[ $(curl -fsS -m 20 -H "Authorization: Bearer ${token_of[$name]}" "http://127.0.0.1:${port_of[$name]}/things") == *'hello from the app'* ]] ||
        die "$name does not reach the app"
    turn "$name" 1 >/dev/null # warm: connections open, caches filled
done

names=(quiet plain logged)
for ((round = 0; round < rounds; round++)); do
    for ((i = 0; i < 3; i++)); do
        name=${names[(i + round) % 3]}
        result=$(turn "$name" "$duration")
        printf '%s\t%s\t%s\n' "$round" "$name" "$result" >>"$dir/turns"
    done
    printf 'round %d of %d\n' $((round + 1)) "$rounds" >&2
done
[[ -z ${OUT:-} ]] || cp "$dir/turns" "$OUT"

printf 'machine   %s, proxy on CPU %s, load and upstream on CPU %s\n' \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$proxy_cpu" "$load_cpu"
printf 'versions  %s · %s · Linux %s\n' "$("$gatepost" --version)" "$("$nginx" -v 2>&1 | sed 's/.*: //')" "$(uname -r)"
printf 'binary    %s\n' "${gatepost#"$PWD"/}"
printf 'load      %s rounds of %s s, %s connections\n\n' "$rounds" "$duration" "$connections"
python3 - "$dir/turns" "$(getconf CLK_TCK)" <<'PY'
import collections, statistics, sys

TITLES = {"quiet": "gatepost", "logged": "gatepost, decision log to a file", "plain": "nginx, plain proxy"}
FIGURES = ["requests/s", "CPU µs/request", "p50 ms", "p99 ms"]

rounds = collections.defaultdict(dict)
for line in open(sys.argv[1]):
    number, name, requests, micros, p50, p99, ticks = line.split("\t")
    requests = int(requests)
    rounds[int(number)][name] = [
        requests / (int(micros) / 1e6),
        int(ticks) / int(sys.argv[2]) * 1e6 / requests,
        int(p50) / 1e3,
        int(p99) / 1e3,
    ]

def shown(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"

def row(title, cells):
    print(f"{title:<34}" + "".join(f"{cell:>26}" for cell in cells))

row("median (least–greatest)", FIGURES)
for name, title in TITLES.items():
    columns = zip(*(turns[name] for turns in rounds.values()))
    row(title, [shown(list(c), d) for c, d in zip(columns, (0, 2, 2, 2))])
for name in ("quiet", "logged"):
    ratios = zip(*([a / b if b else float("nan") for a, b in zip(turns[name], turns["plain"])] for turns in rounds.values()))
    row(f"{TITLES[name].replace(' to a file', '')} ÷ nginx", [shown(list(c), 2) for c in ratios])
PY
