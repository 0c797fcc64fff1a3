#!/usr/bin/env bash
# The HTTP ports with curl alone: examples/curl.sh [HTTP_ADDRESS [ADMIN_ADDRESS]]
set -euo pipefail
http=${1:-127.0.0.1:8080}
admin=${2:-127.0.0.1:9464}

# Prints what it asks, then the answer. --fail-with-body: an error's body says what was wrong, and the exit code is not 0.
ask() {
    echo "# $*"
    curl --silent --show-error --fail-with-body --max-time 30 "$@"
    echo
}

echo "== health"
ask "$http/v2/health/ready" --write-out '%{http_code}'
ask "$admin/readyz"

echo "== what a model takes"
ask "$http/v2/models/example_model"

echo "== infer: tensors in JSON, two items in one request"
ask "$http/v2/models/example_model/infer" --json '{
    "id": "mine",
    "inputs": [{"name": "inputs", "datatype": "FP64", "shape": [2, 3], "data": [[1, 2.5, -40], [4, 5, 6]]}]}'

echo "== infer: binary data in and out, one window of silence"
# All inputs are binary, so the body holds no JSON: 576 FP32 zeros.
head -c 2304 /dev/zero |
    curl --silent --show-error --fail-with-body --max-time 30 "$http/v2/models/silero-vad/infer" \
        --header 'Inference-Header-Content-Length: 0' --data-binary @- | tail -c 4 | od -A n -t f4

echo "== generate: plain JSON"
ask "$http/v2/models/example_model/generate" --json '{"inputs": [1, 2.5, -40]}'

echo "== generate_stream: an event for each item, as soon as it is computed"
ask "$http/v2/models/example_model/generate_stream" --no-buffer --json '{"inputs": [[1, 2], [3, 4]]}'

echo "== an error names the input and says what is wrong with it"
curl --silent --show-error --max-time 30 --write-out ' (%{http_code})\n' "$http/v2/models/example_model/infer" \
    --json '{"inputs": [{"name": "inputs", "datatype": "FP64", "shape": [1, 3], "data": [1, 2]}]}'

echo "== metrics: how the items of each model ended"
ask "$admin/metrics" | grep '^tidemill_items_ended_total.*outcome="ok"'
