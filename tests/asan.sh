#!/bin/sh
# The tests of the compiled core under AddressSanitizer and UndefinedBehaviorSanitizer.
#
# Builds in a copy of the tree (build/asan), so that the modules in use stay as they are. Arguments go to pytest; without
# any, the tests of every part that has compiled code run. PYTHON names the interpreter (default: the virtual environment's).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
tree=$PWD/build/asan
suite=$PWD/tools/suite.py
mkdir -p "$tree"

# Times of change are kept: only what changed is translated and compiled again.
git ls-files -z --cached --others --exclude-standard -- lb bench backend tests docs examples configs proto setup.py pyproject.toml |
    tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory="$tree" --keep-newer-files 2>/dev/null || true

cd "$tree"
export TIDEGATE_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -DTIDEGATE_DEBUG"
export TIDEGATE_LDFLAGS="-fsanitize=address,undefined"
"$python" setup.py -q build_ext --inplace -j "$(nproc)"

# Python itself is not instrumented: the runtimes are loaded before it. It frees little at its end, so leaks are not
# looked for here; its allocator is malloc's, so that its objects are watched too.
compiler=${CC:-gcc}
export LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so)"
# Reports go to files, which are shown at the end: pytest keeps what a process has written before it was ended.
reports=$tree/reports
rm -rf "$reports"
mkdir "$reports"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=0:log_path=$reports/asan:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan:${UBSAN_OPTIONS:-}"
export PYTHONMALLOC=malloc PYTHONPATH="$tree" PYTHONDONTWRITEBYTECODE=1 TIDEGATE_SANITIZED=1
if [ $# -eq 0 ]; then
    # Without the tests that stop a process after each instruction: instrumented code has many times as many. Without the
    # one of packaging, too: it installs a wheel of the tree, whose type stubs are not copied here. And without the one that
    # looks at the memory of replaced models: what is freed stays with the sanitizer for a while.
    set -- tests/shared tests/net tests/http tests/endpoints tests/balancing tests/proxy tests/upstream tests/inference tests/cache \
        tests/backend \
        tests/fuzz tests/telemetry/test_accesslog.py \
        tests/bench/test_bench_udp.py tests/bench/test_stub_grpc.py tests/bench/test_stub_http2.py \
        --deselect=tests/cache/test_cache_processes.py::test_death_after_any_instruction_under_the_lock \
        --deselect=tests/cache/test_flight_processes.py::test_death_of_the_leader_after_any_instruction \
        --deselect=tests/backend/test_backend_control.py::test_no_request_fails_while_a_model_is_replaced \
        --ignore=tests/balancing/test_policy_plugin.py
fi
status=0
"$python" "$suite" --timeout=600 "$@" || status=$?
find "$reports" -type f -exec cat {} +
exit "$status"
