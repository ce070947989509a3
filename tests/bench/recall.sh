#!/usr/bin/env bash
# The retrieval check at real scale: one vendor's emoji through the queue into Elasticsearch, another vendor's as queries.
# RECALL_ARGS (`--stored N --queries N --models M`) goes to retrieval.py, which says more.
set -euo pipefail

images=${XDG_CACHE_HOME:-$HOME/.cache}/imgdex/emoji
tests/images/emoji.sh "$images" apple google
tests/services/rabbitmq.sh start "$IMGDEX_BENCH_TMP/rabbitmq" >/dev/null
tests/services/elasticsearch.sh start "$IMGDEX_BENCH_TMP/elasticsearch" >/dev/null
# shellcheck disable=SC2086 # words, as the caller wrote them
python3 tests/bench/retrieval.py --images "$images" --binary "$IMGDEX_BIN" --amqp "$(<"$IMGDEX_BENCH_TMP/rabbitmq/url")" \
    --es "$(<"$IMGDEX_BENCH_TMP/elasticsearch/url")" ${RECALL_ARGS:-}
