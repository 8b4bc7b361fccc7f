#!/usr/bin/env bash
# Breaks rules in a copy of the tree, and looks whether tests/lint says so, with file and line.
# Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"

mkdir "$dir/tests"
cp -r base model partition kernels node coordinator main.c "$dir"
cp tests/lint "$dir/tests"

# fires NAME FILE WHERE TEXT MESSAGE: TEXT put into FILE of the copy (WHERE: "end", or a line
# that it takes the place of, a new file gets it whole) makes lint fail with FILE:LINE: MESSAGE.
fires() {
  local name=$1 file=$dir/$2 where=$3 text=$4 message=$5 line=1 is_new=
  if [ -e "$file" ]; then cp "$file" "$dir/kept"; else is_new=1; fi
  case $where in
    new) printf '%b\n' "$text" >"$file";;
    end) line=$(($(wc -l <"$file") + 1)); printf '%b\n' "$text" >>"$file";;
    *) line=$where; printf '%b\n' "$text" >"$dir/text"
       sed -i -e "${where}r $dir/text" -e "${where}d" "$file";;
  esac
  if "$dir/tests/lint" >"$dir/out"; then bad "$name" "lint found nothing wrong"
  elif ! grep -q "^$2:$line: .*$message" "$dir/out"; then bad "$name" "no $2:$line: ...$message: $(head -5 "$dir/out")"
  else ok "$name"; fi
  if [ "$is_new" ]; then rm "$file"; else cp "$dir/kept" "$file"; fi
}

include() { fires "$1" "$2" end "#include $3" "$4"; }

include base_includes_nobody base/log.c '"model/gguf.h"' 'base/ may not include model/gguf.h'
include model_knows_no_kernels model/format.c '"kernels/backend.h"' 'model/ may not include'
include partition_knows_no_node partition/plan.c '"node/stage.h"' 'partition/ may not include'
include kernels_know_no_plan kernels/pack.c '"partition/plan.h"' 'kernels/ may not include'
include node_knows_no_coordinator node/stage.c '"coordinator/link.h"' 'node/ may not include'
include coordinator_knows_frames_only coordinator/engine.c '"node/stage.h"' 'coordinator/ may not include'
include coordinator_knows_no_kernels coordinator/engine.c '"kernels/backend.h"' 'coordinator/ may not include'
include path_from_the_root model/format.c '"format.h"' 'write the path from the root'
include private_header node/stage.c '"kernels/device.h"' 'private to kernels/'
include mpi_in_wire_only node/node.c '<mpi.h>' 'mpi.h may only'
include opencl_in_kernels_only node/stage.c '<CL/cl.h>' 'CL/cl.h may only'
include clblast_in_kernels_only model/format.c '<clblast_c.h>' 'clblast_c.h may only'
include libconfig_in_config_only coordinator/options.c '<libconfig.h>' 'libconfig.h may only'
include sockets_in_the_link_only coordinator/sequence.c '<sys/socket.h>' 'sys/socket.h may only'
include poll_in_the_link_only coordinator/sequence.c '<poll.h>' 'poll.h may only'

fires getenv_in_env_only model/format.c end 'static const char *f(void) { return getenv("A"); }' 'environment'
fires setenv_in_env_only main.c end 'static int f(void) { return setenv("A", "b", 1); }' 'environment'
fires no_assert node/stage.c end 'static void f(int a) { assert(a); }' 'assert'
fires no_exit base/mem.c end 'static void f(void) { exit(1); }' 'only main.c ends'
fires no_underscore_exit node/node.c end 'static void f(void) { _exit(1); }' '_exit is for'
fires guard_is_the_path base/log.h 2 '#ifndef LOG_H' 'guard must be #ifndef BASE_LOG_H'
fires guard_ends_the_file base/empty.h new '#ifndef BASE_EMPTY_H\n#define BASE_EMPTY_H' 'guard does not end'
fires no_util base/string_util.c new '/* Nothing. */' 'named "util"'
fires no_common model/common.h new '#ifndef MODEL_COMMON_H\n#define MODEL_COMMON_H\n#endif' 'named "common"'
fires no_unfinished_work kernels/cl/rows.cl end '/* TO''DO: faster */' 'unfinished work'
fires no_paths_of_a_machine model/format.c end '/* see /wo''rk/notes */' 'path of the machine'
fires no_long_lines model/format.c end "/* $(printf '%0120d' 0) */" 'at most 120'
fires no_long_functions model/format.c end "void f(void) {\n$(printf ';\\n%.0s' $(seq 119))}" '121 lines; at most 120'
fires no_long_files base/long.c new "$(printf '/* */\\n%.0s' $(seq 800))" '801 lines; at most 800'

# What only looks like a breach.
cat >"$dir/base/fine.c" <<'END'
/* exit(1), assert(0), getenv("A"): a comment. */
static const char *const text = "exit(1) assert(0) \" getenv(";
static void parse_exit(int c) { (void)(c == '"'); /* " */ (void)text; }
END
"$dir/tests/lint" >"$dir/out"
if grep -q '^base/fine.c' "$dir/out"; then bad comments_and_texts "$(grep '^base/fine.c' "$dir/out")"
else ok comments_and_texts; fi
rm "$dir/base/fine.c"

# Most functions are short: the share, not only the longest.
for i in $(seq 1000); do printf 'void f%d(void) {\n' "$i"; printf ';\n%.0s' $(seq 60); printf '}\n'; done |
  split -l 744 --additional-suffix=.c - "$dir/base/long_"
"$dir/tests/lint" >"$dir/out"
if grep -q '^functions: 90% have at most 62 lines' "$dir/out"; then ok most_functions_are_short
else bad most_functions_are_short "$(tail -2 "$dir/out")"; fi
exit $failed
