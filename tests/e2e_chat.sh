#!/usr/bin/env bash
# caravan chat through a pipe, and on a terminal where Python can make one: answers, turns, commands, mistakes.
set -u
. "$(dirname "$0")/check.sh"
export XDG_STATE_HOME=$dir/state
model=models/demo.gguf
# LINES [FLAG...]: sets $rc, $dir/out and $dir/err
chat() {
  printf "$1" | "$CARAVAN" chat $model "${@:2}" >"$dir/out" 2>"$dir/err"
  rc=$?
}
violin="A violin is a bowed stringed instrument that is the highest member of the violin family."
piano="A piano is a keyboard instrument that is played by depressing keys that cause hammers to strike tuned strings"

# ---- turns and commands ----
chat "What is a violin?\nWhat is a piano?\nWhat is a tiger?\nWhat is bread?\n/stats\n/retry\n/undo\n/undo\n/save $dir/saved\n"
four() {
  [ $rc -eq 0 ] && [ "$(sed -n 1p "$dir/out")" = "$violin" ] && [[ $(sed -n 2p "$dir/out") == "$piano"* ]] &&
    [ "$(wc -l <"$dir/out")" -eq 8 ]
}
check chat_answers_each_line four
known() { [ "$(sed -n 's/.*read, \([0-9]*\) of them known already.*/\1/p' "$dir/out")" -ge 32 ]; }
check chat_reads_only_what_is_new known
retried() { [ "$(tail -1 "$dir/out")" = "$(sed -n 4p "$dir/out")" ]; }
check chat_retry_of_a_greedy_answer_is_the_same retried
no_escapes() { ! grep -q $'\033' "$dir/out" "$dir/err"; }
check chat_in_a_pipe_has_no_escape_codes no_escapes
saved() { [ "$(grep -c '"role": "user"' "$dir/saved")" -eq 2 ] && [ "$(grep -c '"role": "assistant"' "$dir/saved")" -eq 2 ]; }
check chat_undo_and_save saved

tiger=$(sed -n 3p "$dir/out")
chat "/load $dir/saved\nWhat is a tiger?\n/system Be brief.\n/system\n/new\nWhat is \\\\\na violin?\n" --stages 2 --shards 2
loaded() { [ $rc -eq 0 ] && [ "$(sed -n 1p "$dir/out")" = "$tiger" ] && [ "$(sed -n 2p "$dir/out")" = "Be brief." ]; }
check chat_goes_on_with_what_was_loaded_on_four_ranks loaded
check chat_line_goes_on_after_a_backslash [ "$(wc -l <"$dir/out")" -eq 3 ]

chat "/set max-tokens 3\nWhat is a violin?\n/set\n/help\n"
short() { [ "$(sed -n 1p "$dir/out")" != "$violin" ] && [[ $violin == "$(sed -n 1p "$dir/out")"* ]]; }
check chat_set_changes_the_next_answer short
lists() { grep -q '^  max_tokens *3 ' "$dir/out" && grep -q '^  /retry ' "$dir/out"; }
check chat_lists_settings_and_commands lists

chat "$(for i in 1 2 3 4 5 6; do printf 'What is a violin?\\n'; done)" --context 128
outgrown() { [ $rc -eq 0 ] && grep -q 'outgrown the context of 128 tokens: its first [0-9]* messages' "$dir/err"; }
check chat_leaves_the_oldest_out outgrown

# ---- mistakes ----
refuses() { # TEXT RC LINES [FLAG...]
  chat "$3" "${@:4}"
  [ $rc -eq "$2" ] && grep -qF -- "$1" "$dir/err" && [ "$(grep -c . "$dir/err")" -eq 1 ]
}
check chat_unknown_command refuses "no command /retri; did you mean /retry?" 2 "/retri\nWhat is a violin?\n"
check chat_stops_at_a_mistake [ ! -s "$dir/out" ]
check chat_bad_value refuses "/set: temperature: " 2 "/set temperature hot\n"
check chat_unknown_key refuses 'did you mean temperature?' 2 "/set temprature 1\n"
check chat_nothing_to_retry refuses "nothing was asked yet" 1 "/retry\n"
check chat_not_utf8 refuses "not UTF-8" 1 "\\377\n"
check chat_no_such_file refuses "$dir/none" 1 "/load $dir/none\n"
check chat_question_too_long refuses "the context of 32 leaves room for" 1 \
  "$(printf 'word %.0s' $(seq 60))\n" --context 32
check chat_bad_template refuses "chat_template \"none\"" 1 "" --chat-template none
check chat_flag refuses "did you mean --system?" 2 "" --sistem x

# ---- a terminal ----
if command -v python3 >/dev/null; then
  PYTHONDONTWRITEBYTECODE=1 python3 tests/drive_chat.py "$CARAVAN" || failed=1
else
  skip chat_on_a_terminal "no python3 here (apt-get install python3)"
fi
exit $failed
