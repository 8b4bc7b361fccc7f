#!/usr/bin/env bash
# Virtual hosts on one Linux machine: h1, h2, ... each with its own network, hostname, /etc/hosts, /dev/shm and CPU
# quota, joined by a switch. What is tried on them needs no second machine and leaves this one as it was.
#
#     tests/hosts.sh up N [--cpu PERCENT] [--rate RATE] [--delay TIME] [--memory MIB] [--on CPUS] [--for PID]
#                                       starts h1..hN (10.77.0.1 ...); --on: on these of the machine's processors (0-1,4);
#                                       hosts on one processor take turns and never slow each other down otherwise, as
#                                       two that share a core or its caches do; --for: they end when that process has ended
#     tests/hosts.sh down               ends all that runs in them, leaves nothing behind
#     tests/hosts.sh exec HOST CMD...   runs a command in a host
#     tests/hosts.sh hostfile [SLOTS]   a host file for mpirun and --hosts
#     tests/hosts.sh mpirun-args        what mpirun needs to be told here (for --mpirun-args); includes the agent
#     tests/hosts.sh rsh HOST WORDS...  that agent, in place of ssh: one shell command in a host
#     tests/hosts.sh cpu HOST|all PERCENT|off      quota, in percent of one core
#     tests/hosts.sh rate HOST|all RATE|off        of a host's network, both ways, as tc writes it: 1gbit
#     tests/hosts.sh delay HOST|all TIME|off       one way (500us, 1ms); between two hosts the longer one counts
#     tests/hosts.sh memory HOST|all MIB|off       what runs in a host is killed beyond that
#     tests/hosts.sh memory-peak HOST   bytes that the kernel counted at most for what runs in it, files' pages too
#     tests/hosts.sh partition HOST on|off         nothing passes, and nobody is told
#     tests/hosts.sh kill HOST          power loss: cut off first, then all in it is killed at once
#     tests/hosts.sh boot HOST          starts a killed host again
#     tests/hosts.sh pids HOST WORDS    processes of a host whose command line holds the words
#     tests/hosts.sh bytes              what each host has sent and received
#     tests/hosts.sh check              whether this machine can have virtual hosts; if not, says what is missing
#
# Example, two ranks on two hosts of half a core each:
#
#     tests/hosts.sh up 2 --cpu 50 --rate 1gbit --delay 1ms
#     tests/hosts.sh hostfile >hosts
#     tests/hosts.sh exec h1 ./caravan generate models/demo.gguf --prompt "A cat is" --stages 2 --threads 1 \
#         --hosts hosts --mpirun-args "$(tests/hosts.sh mpirun-args)"
#     tests/hosts.sh down
#
# Needs root, cgroups, iproute2, util-linux, for delays a C compiler. HOSTS_NAME (default: vh) tells several sets of
# virtual hosts on one machine apart. Process ids and files are shared, as if all had mounted one file system.
# Delays are made by tests/delay_switch.c, which takes the place of the kernel's bridge and runs in real time, so that a
# message waits for nobody who computes; rates by the kernel's tbf.
set -u
here=$(cd "$(dirname "$0")" && pwd)
name=${HOSTS_NAME:-vh}
state=/run/caravan-hosts/$name
net=10.77.0

fail() { echo "hosts.sh: $*" >&2; exit 1; }
case $name in *[!a-zA-Z0-9]*|'') fail "HOSTS_NAME is '$name'; letters and digits are expected";; esac

# ---- cgroups: version 1, a folder for each controller, or version 2, one for all ----

groups=/sys/fs/cgroup
if [ -f $groups/cpu/cgroup.procs ]; then version=1 folders="$groups/memory $groups/cpu"
elif [ -f $groups/cgroup.controllers ]; then version=2 folders=$groups
else version=0 folders=; fi
tracker=${folders%% *}/caravan-$name # all processes of all hosts are below it

groups_make() { # HOST
  local f
  for f in $folders; do
    mkdir -p "$f/caravan-$name" || return 1
    if [ $version = 2 ]; then
      echo "+cpu +memory" >$f/cgroup.subtree_control
      echo "+cpu +memory" >"$f/caravan-$name/cgroup.subtree_control"
    fi 2>/dev/null
    mkdir -p "$f/caravan-$name/$1" || return 1
  done
}
groups_join() { local f; for f in $folders; do echo $BASHPID >"$f/caravan-$name/$1/cgroup.procs" || exit 1; done; }
groups_set() { # HOST FILE VALUE
  local f
  for f in $folders; do
    [ -e "$f/caravan-$name/$1/$2" ] && { echo "$3" >"$f/caravan-$name/$1/$2"; return; }
  done
  fail "the kernel offers no $2 here: its cgroup controller is missing"
}
# As many shares as so many users of the machine.
groups_weigh() { # N
  [ $version = 1 ] && echo $((1024 * $1)) >"$groups/cpu/caravan-$name/cpu.shares"
  [ $version = 2 ] && echo $((100 * $1)) >"$tracker/cpu.weight"
} 2>/dev/null

# ---- hosts ----

# What goes on in the background keeps nothing of the caller's open, such as a lock.
close_rest() {
  local fd
  for fd in /proc/$BASHPID/fd/*; do
    fd=${fd##*/}
    [ "$fd" -le 2 ] || eval "exec $fd>&-"
  done
}

all() { seq -f h%.0f "$(cat $state/n 2>/dev/null || echo 0)"; }
number() { echo "${1#h}"; }
holder() { # HOST: the process whose namespaces it is made of; fails when there is none
  local pid
  pid=$(cat $state/$1.pid 2>/dev/null) && grep -qx "$pid" "$tracker/$1/cgroup.procs" 2>/dev/null && echo "$pid"
}
must_be() { # HOST|all: prints hosts that run
  local h=$1
  [ -f $state/n ] || fail "there are no virtual hosts; tests/hosts.sh up N"
  [ "$h" = all ] && { for h in $(all); do holder $h >/dev/null && echo $h; done; return; }
  holder "$h" >/dev/null || { echo "hosts.sh: no route to host $h" >&2; exit 255; }
  echo "$h"
}
in_net() { local pid; pid=$(holder $1) || return 1; shift; nsenter -t "$pid" --net -- "$@"; }
in_switch() { nsenter -t "$(holder switch)" --net -- "$@"; }

holder_start() { # HOST NAMESPACES SCRIPT
  groups_make $1 || fail "cannot make a cgroup below $folders"
  rm -f $state/$1.pid
  (groups_join $1; close_rest; exec setsid unshare $2 --propagation private sh -c \
    "$3; echo \$\$ >$state/$1.pid; exec sleep infinity") </dev/null >$state/$1.log 2>&1 &
  for _ in $(seq 500); do holder $1 >/dev/null && return 0; sleep 0.01; done
  fail "$1 does not start: $(cat $state/$1.log)"
}

host_boot() { # HOST
  local i; i=$(number $1)
  holder_start $1 "--net --uts --ipc --mount" "
    hostname $1 && mount -t tmpfs tmpfs /dev/shm && mount --bind $state/etc-hosts /etc/hosts && ip link set lo up"
  in_switch ip link del p$i 2>/dev/null # of a life before, which the kernel ends in its own time
  in_switch ip link add p$i type veth peer name eth0 netns "$(holder $1)" || fail "cannot make a link for $1"
  in_switch ip link set p$i up
  [ -f $state/rules ] || in_switch ip link set p$i master br0
  in_net $1 ip addr add $net.$i/24 dev eth0
  in_net $1 ip link set eth0 up
}

# Kills all in a group, again until nothing is left.
group_end() { # HOST
  for _ in $(seq 200); do
    [ -n "$(cat "$tracker/$1/cgroup.procs" 2>/dev/null)" ] || return 0
    kill -KILL $(cat "$tracker/$1/cgroup.procs") 2>/dev/null
    sleep 0.02
  done
  return 1
}

# ---- the network between ----

microseconds() { # TIME
  echo "$1" | awk '/^[0-9.]+us$/ {print $1 + 0; next} /^[0-9.]+ms$/ {print $1 * 1000; next}
    /^[0-9.]+s$/ {print $1 * 1e6; next} /^(0|off)$/ {print 0; next} {exit 1}' ||
    fail "delay '$1': a number with us, ms or s is expected"
}

# From the bridge to the switch that delays.
switch_start() {
  local i
  [ -f $state/rules ] && return
  command -v cc >/dev/null || fail "delays need a C compiler: apt-get install gcc"
  cc -O2 -std=c11 -D_GNU_SOURCE -o $state/delay_switch "$here/delay_switch.c" || fail "cannot build delay_switch.c"
  for i in $(all); do echo "0 0"; done >$state/rules
  for i in $(seq "$(cat $state/n)"); do in_switch ip link set p$i nomaster; done
}
# (Again) with the ports that are there now. In no group of the cpu controller of version 1, since those give what is
# below them no real time.
switch_run() {
  local p
  [ -f $state/switch-run.pid ] && kill "$(cat $state/switch-run.pid)" 2>/dev/null
  (echo $BASHPID >"$tracker/switch/cgroup.procs"; close_rest
    exec setsid nsenter -t "$(holder switch)" --net -- $state/delay_switch $state/rules \
    $(seq -f p%.0f "$(cat $state/n)")) </dev/null >$state/switch-run.log 2>&1 &
  echo $! >$state/switch-run.pid
  sleep 0.05
  p=$(cat $state/switch-run.pid)
  kill -0 "$p" 2>/dev/null || fail "the switch does not start: $(cat $state/switch-run.log)"
  [ ! -s $state/switch-run.log ] || sed 's/^/hosts.sh: /' $state/switch-run.log >&2
}
rule_set() { # HOST FIELD VALUE
  awk -v line="$(number $1)" -v field="$2" -v value="$3" 'NR == line {$field = value} {print}' \
    $state/rules >$state/rules.new && mv $state/rules.new $state/rules
}

set_delay() { # HOSTS TIME
  local h us; us=$(microseconds "$2") || exit 1
  [ "$us" = 0 ] && [ ! -f $state/rules ] && return
  switch_start
  for h in $1; do rule_set $h 1 "$us"; done
  switch_tell
}
switch_tell() {
  if [ -f $state/switch-run.pid ]; then kill -HUP "$(cat $state/switch-run.pid)"; else switch_run; fi
}
set_rate() { # HOSTS RATE
  local h tbf
  for h in $1; do
    # One TCP segment of 64 KiB passes at once: less would cut it into pieces.
    tbf="root tbf rate $2 burst 80k latency 50ms"
    if [ "$2" = off ]; then
      in_net $h tc qdisc del dev eth0 root 2>/dev/null; in_switch tc qdisc del dev p"$(number $h)" root 2>/dev/null
    else
      in_net $h tc qdisc replace dev eth0 $tbf && in_switch tc qdisc replace dev p"$(number $h)" $tbf ||
        fail "cannot set the rate $2 of $h"
    fi
  done
}
# A short period, so that work is slowed evenly, not in gusts.
set_cpu() { # HOSTS PERCENT
  local h period=10000
  for h in $1; do
    case $version.$2 in
      1.off) groups_set $h cpu.cfs_quota_us -1;;
      2.off) groups_set $h cpu.max max;;
      1.*) groups_set $h cpu.cfs_period_us $period; groups_set $h cpu.cfs_quota_us $(($2 * period / 100));;
      2.*) groups_set $h cpu.max "$(($2 * period / 100)) $period";;
    esac || fail "cannot set the quota $2 of $h"
  done
}
set_memory() { # HOSTS MIB
  local h
  for h in $1; do
    case $version.$2 in
      1.off) groups_set $h memory.limit_in_bytes -1;;
      2.off) groups_set $h memory.max max;;
      1.*) groups_set $h memory.limit_in_bytes $(($2 << 20));;
      2.*) groups_set $h memory.max $(($2 << 20));;
    esac || fail "cannot set the memory of $h"
  done
}
set_partition() { # HOST on|off
  local i; i=$(number $1)
  if [ -f $state/rules ]; then
    rule_set $1 2 $([ "$2" = on ] && echo 1 || echo 0)
    switch_tell
  else
    in_switch bridge link set dev p$i state $([ "$2" = on ] && echo 0 || echo 3) || fail "cannot cut $1 off"
  fi
  if [ "$2" = on ]; then touch $state/$1.cut; else rm -f $state/$1.cut; fi
}

# ---- commands ----

cmd_check() {
  local tool
  [ "$(id -u)" = 0 ] || fail "virtual hosts need root"
  for tool in ip tc bridge nsenter unshare setsid awk mount; do
    command -v $tool >/dev/null || fail "$tool is missing: apt-get install iproute2 util-linux"
  done
  [ $version != 0 ] || fail "no cgroups are mounted at $groups"
  mkdir -p $state "$tracker" 2>/dev/null && [ -w "$tracker/cgroup.procs" ] ||
    fail "cannot write to /run and $groups: a container without the rights for it?"
  [ -f $state/n ] || rmdir $state "$tracker"
  unshare --net --mount --uts --ipc sh -c 'mount -t tmpfs tmpfs /dev/shm &&
    ip link add p1 type veth peer name eth0 && tc qdisc add dev p1 root tbf rate 1gbit burst 80k latency 50ms &&
    ip link add br0 type bridge' 2>/dev/null ||
    fail "this machine gives no network namespaces, veth, tbf or bridges"
}

cmd_up() {
  local n=${1:-} i cpu=off rate=off delay=0 memory=off on= owner=
  case $n in [1-9]|[1-9][0-9]) ;; *) fail "up N: a number of hosts from 1 to 99 is expected";; esac
  shift
  while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || fail "$1 wants a value"
    case $1 in
      --cpu) cpu=$2;; --rate) rate=$2;; --delay) delay=$2;; --memory) memory=$2;; --on) on=$2;;
      --for) owner=$2;;
      *) fail "up: unknown option $1";;
    esac
    shift 2
  done
  (cmd_check) || exit 1
  [ -z "$on" ] || taskset -c "$on" true 2>/dev/null || fail "--on '$on': a list of this machine's processors, as 0-1,4, is expected"
  [ ! -f $state/n ] || [ -z "$(must_be all)" ] ||
    fail "the virtual hosts '$name' are up already: tests/hosts.sh down, or take another HOSTS_NAME"
  cmd_down
  mkdir -p $state/tmp
  echo $n >$state/n
  printf %s "$on" >$state/on
  { echo "127.0.0.1 localhost"; for i in $(seq $n); do echo "$net.$i h$i"; done; } >$state/etc-hosts
  printf '#!/bin/sh\nHOSTS_NAME=%s exec "%s" rsh "$@"\n' $name "$here/hosts.sh" >$state/rsh
  chmod +x $state/rsh
  trap 'cmd_down' EXIT
  holder_start switch --net "ip link add br0 type bridge forward_delay 0 stp_state 0 && ip link set br0 up"
  groups_weigh $n
  for i in $(all); do host_boot $i; done
  [ $rate = off ] || set_rate "$(all)" $rate
  [ $delay = 0 ] || set_delay "$(all)" $delay
  [ $cpu = off ] || set_cpu "$(all)" $cpu
  [ $memory = off ] || set_memory "$(all)" $memory
  trap - EXIT
  echo $$ >$state/made-by
  [ -n "$owner" ] || return 0
  (close_rest; HOSTS_NAME=$name exec setsid sh -c 'tail --pid=$1 -f /dev/null; exec "$2" down $3' \
    - "$owner" "$here/hosts.sh" $$) </dev/null >/dev/null 2>&1 &
}

# With a number: only if they are still those that "up" made as process of that id.
cmd_down() {
  local h f
  [ -z "${1:-}" ] || [ "$1" = "$(cat $state/made-by 2>/dev/null)" ] || return 0
  for h in $(all) switch; do
    [ -d "$tracker/$h" ] && { group_end $h || echo "hosts.sh: processes of $h are left" >&2; }
  done
  for f in $folders; do
    for h in $(all) switch; do
      for _ in $(seq 50); do [ -d "$f/caravan-$name/$h" ] || break; rmdir "$f/caravan-$name/$h" 2>/dev/null || sleep 0.02; done
    done
    [ ! -d "$f/caravan-$name" ] || rmdir "$f/caravan-$name"
  done
  rm -rf $state
  rmdir /run/caravan-hosts 2>/dev/null
  return 0
}

cmd_exec() {
  local h; h=$(must_be "$1") || exit
  shift
  groups_join $h
  [ ! -s $state/on ] || taskset -pc "$(cat $state/on)" $BASHPID >/dev/null || exit
  # What is left in the temporary folder goes with the hosts.
  TMPDIR=$state/tmp exec nsenter -t "$(holder $h)" --net --uts --ipc --mount --wd="$PWD" -- "$@"
}

# Stays on the caller's host, as ssh does: with a host that is cut off it cannot connect, and does not hear of the
# end of a command there.
cmd_rsh() {
  while [ "${1#-}" != "$1" ]; do shift; done # options of ssh
  local h=${1#*@} me child rc
  me=$(hostname)
  shift
  is_cut() { [ -e $state/$h.cut ] || [ -e "$state/$me.cut" ]; }
  if is_cut; then sleep 3; fail "connect to $h: timed out"; fi
  (cmd_exec "$h" sh -c "$*") &
  child=$!
  trap 'kill $child 2>/dev/null' TERM INT HUP
  wait $child; rc=$?
  while is_cut && kill -0 $PPID 2>/dev/null; do sleep 0.2; done
  return $rc
}

cmd_bytes() {
  local h
  for h in $(must_be all); do
    in_net $h awk -v h=$h '/eth0:/ {print h, "sent=" $10, "received=" $2}' /proc/net/dev
  done
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
  check) cmd_check;;
  up) cmd_up "$@";;
  down) cmd_down "$@";;
  exec) [ $# -ge 2 ] || fail "exec HOST CMD..."; cmd_exec "$@";;
  rsh) [ $# -ge 2 ] || fail "rsh HOST WORDS..."; cmd_rsh "$@";;
  hostfile) for h in $(must_be all); do echo "$h slots=${1:-1}"; done;;
  mpirun-args) [ -f $state/n ] || fail "there are no virtual hosts; tests/hosts.sh up N"
    echo "--mca plm rsh --mca plm_rsh_agent $state/rsh --mca oob_tcp_if_include $net.0/24" \
      "--mca btl_tcp_if_include $net.0/24";;
  cpu|rate|delay|memory) [ $# = 2 ] || fail "$command HOST|all VALUE|off"
    hosts=$(must_be "$1") || exit
    set_$command "$hosts" "$2";;
  partition) [ $# = 2 ] || fail "partition HOST on|off"; hosts=$(must_be "$1") || exit; set_partition "$hosts" "$2";;
  kill) hosts=$(must_be "${1:-}") || exit; set_partition "$hosts" on; group_end $hosts; rm -f $state/$hosts.pid;;
  boot) [ -f $state/n ] || fail "there are no virtual hosts"
    all | grep -qx "${1:-}" || fail "boot: there is no host '${1:-}'"
    holder $1 >/dev/null && fail "$1 runs"
    rm -f $state/$1.cut; host_boot $1
    [ ! -f $state/rules ] || { rule_set $1 2 0; switch_run; };;
  memory-peak) hosts=$(must_be "${1:-}") || exit
    cat $groups/memory/caravan-$name/$hosts/memory.max_usage_in_bytes 2>/dev/null || cat "$tracker/$hosts/memory.peak";;
  pids) hosts=$(must_be "${1:-}") || exit
    for pid in $(cat "$tracker/$hosts/cgroup.procs"); do
      tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "${2:-}" && echo "$pid"
    done;;
  bytes) cmd_bytes;;
  *) sed -n '2,/^set -u/{/^set -u/d;s/^# \{0,1\}//;p}' "$0"; exit 2;;
esac
