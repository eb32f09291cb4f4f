#!/usr/bin/env bash
# What the container runs below tini. SageMaker starts it with the argument `serve`; plain `docker run IMAGE` gives the same.
set -euo pipefail

serve() { exec wharf serve "$@"; }

main() {
  case ${1:-serve} in
    serve) serve "${@:2}" ;;
    *) exec "$@" ;;
  esac
}

main "$@"
