#!/usr/bin/env bash
# What a request through the gateway costs, beside nginx, HAProxy, Caddy and Envoy, measured in one
# run. One CPU carries the proxy under test (one worker), the other the load and the app. What is not
# installed is left out, and said. Needs Linux, two CPUs, python3, nginx, wrk, curl, openssl.
#
#   benches/proxy.sh                      every work
#   benches/proxy.sh http1 http2          only these; --help lists them
#   benches/proxy.sh --rounds 9 --seconds 3 --binary FILE --only nginx,gatepost
#   PROXY_CPU=0 LOAD_CPU=1                default: the first two CPUs that this process may use
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=benches PYTHONDONTWRITEBYTECODE=1
exec python3 -m compare "$@"
