#!/bin/bash
# Trains a sweep on a cluster of two nodes and compares it with the same sweep trained without one.
#
#     scripts/checks/slurm.sh PROGRAM WORKDIR
#
# PROGRAM is a built `kindling`; WORKDIR is made, and must not be there or be empty. The cluster is this machine: munged,
# MariaDB, slurmdbd, slurmctld and a slurmd for each of node1 and node2, from Debian's slurm-wlm, slurmdbd, munge and
# mariadb-server, each with configuration, state and logs in WORKDIR. It needs root and touches no other Slurm. A run is
# killed in the middle of its training; --status must find it lost, and a second submission must end the sweep. The
# weights must be the same to the bit, and `sacct` must have counted the jobs. Everything that it starts is ended.
set -euo pipefail

[ $# = 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
program=$(realpath "$1")
mkdir -p "$2"
work=$(realpath "$2")
[ -z "$(ls -A "$work")" ] || { echo "$work is not empty"; exit 2; }
started=()

say() { echo "== $*"; }

fail() {
    echo "FAILED: $*"
    for log in "$work"/log/*.log "$work"/runs/.sweeps/*/job-*.txt; do
        [ -e "$log" ] && { echo "-- $log"; tail -n 15 "$log"; }
    done
    exit 1
}

# Ends what was started, last first.
finish() {
    trap - EXIT
    if [ -n "${SLURM_CONF:-}" ] && scancel --quiet --user=root >/dev/null 2>&1; then
        for _ in $(seq 100); do
            [ -z "$(squeue --noheader 2>/dev/null)" ] && break
            sleep 0.1
        done
    fi
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do
        kill "${started[index]}" 2>/dev/null || true
        for _ in $(seq 100); do
            kill -0 "${started[index]}" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "${started[index]}" 2>/dev/null || true
    done
}
trap finish EXIT
trap 'exit 130' INT TERM

# start NAME COMMAND...: in the background, in the foreground of its own, with a log.
start() {
    local name=$1
    shift
    "$@" >>"$work/log/$name.log" 2>&1 &
    started+=($!)
}

# until_ SECONDS WHAT COMMAND...: tries until it succeeds.
until_() {
    local seconds=$1 what=$2
    shift 2
    local end=$((SECONDS + seconds))
    while [ "$SECONDS" -le "$end" ]; do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "$what, after $seconds seconds"
}

# A port that nothing listens on.
port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# ---------------------------------------------------------------------------------------------------- the cluster

mkdir -p "$work"/{log,etc,run,state,spool1,spool2,mysql}
chmod 755 "$work" "$work"/*
host=$(hostname -s)
database=$(port) dbd=$(port) controller=$(port) node1=$(port) node2=$(port)

dd if=/dev/urandom of="$work/etc/munge.key" bs=1024 count=1 2>/dev/null
chmod 400 "$work/etc/munge.key"
# The directories above may belong to anyone: --force says that this is meant.
start munged munged --foreground --force --key-file="$work/etc/munge.key" --socket="$work/run/munge" \
    --pid-file="$work/run/munged.pid" --log-file="$work/log/munged-own.log" --seed-file="$work/run/munge.seed"

export MYSQL_HOME=$work/etc
mariadb-install-db --no-defaults --user=root --datadir="$work/mysql" --skip-test-db >"$work/log/mariadb-install.log" 2>&1
start mariadb mariadbd --no-defaults --user=root --datadir="$work/mysql" --bind-address=127.0.0.1 --port="$database" \
    --socket="$work/run/mariadb" --pid-file="$work/run/mariadb.pid" --skip-grant-tables --skip-name-resolve \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900
until_ 60 "MariaDB does not answer" mariadb-admin --no-defaults --socket="$work/run/mariadb" ping

cat >"$work/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$work/run/munge
DbdHost=localhost
DbdPort=$dbd
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$database
StorageUser=root
StorageLoc=slurm
LogFile=$work/log/slurmdbd-own.log
PidFile=$work/run/slurmdbd.pid
CONF
chmod 600 "$work/etc/slurmdbd.conf"

cat >"$work/etc/slurm.conf" <<CONF
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/run/munge
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/run/slurmctld.pid
SlurmdPidFile=$work/run/slurmd-%n.pid
SlurmctldLogFile=$work/log/slurmctld-own.log
SlurmdLogFile=$work/log/slurmd-%n-own.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/linear
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$dbd
AccountingStoragePass=$work/run/munge
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$node1 CPUs=1 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$node2 CPUs=1 State=UNKNOWN
PartitionName=check Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/etc/slurm.conf
start slurmdbd env SLURM_CONF="$work/etc/slurm.conf" slurmdbd -D
until_ 60 "slurmdbd does not answer" sacctmgr --immediate --noheader list cluster
sacctmgr --immediate add cluster check >/dev/null 2>&1 || true
start slurmctld slurmctld -D -f "$SLURM_CONF"
start node1 slurmd -D -N node1 -f "$SLURM_CONF"
start node2 slurmd -D -N node2 -f "$SLURM_CONF"
both_are_idle() { [ "$(sinfo --noheader --Node --format=%T | grep -c '^idle$')" = 2 ]; }
until_ 60 "the nodes are not idle" both_are_idle
say "a cluster of two nodes: $(sinfo --noheader --format='%N %T')"

# ------------------------------------------------------------------------------------------------------ the sweep

cd "$work"
grid=(mlp --dataset synthetic --hidden 64 --learning-rate "0.1,0.05,0.01" --seeds 2 --epochs 120)
sweep() { "$program" sweep "${grid[@]}" --runs-dir "$work/runs" "$@"; }
# states: a line for each run, its name and its state.
states() {
    sweep --status --json 2>/dev/null | python3 -c '
import json, sys
for run in json.load(sys.stdin):
    print(run["name"], run["state"], run["epoch"], run["process"] or 0, run["job"] or "-")'
}
count() { states | awk -v state="$1" '$2 == state' | wc -l; }
is_over() { [ -z "$(squeue --noheader)" ]; }

job=$(sweep --slurm "--partition=check --time=10 --ntasks=1" 2>"$work/log/submit.log") || fail "$(cat "$work/log/submit.log")"
say "submitted job $job"
cat "$work/log/submit.log"
both_train() { [ "$(states | awk '$2 == "running" && $3 >= 2' | wc -l)" -ge 2 ]; }
until_ 120 "two runs do not train" both_train
sweep --status
again=$(sweep --slurm "--partition=check" 2>"$work/log/again.log")
[ -z "$again" ] && grep -q "nothing is left to submit" "$work/log/again.log" || fail "queued runs were submitted twice"

# Nothing that a killed process can do any more: neither a checkpoint nor a record.
victim=$(states | awk '$2 == "running" && !n++ { print $1 }')
process=$(states | awk -v name="$victim" '$1 == name { print $4 }')
say "killing process $process, which trains $victim"
kill -9 "$process"
is_lost() { [ "$(states | awk -v name="$victim" '$1 == name { print $2 }')" = lost ]; }
until_ 60 "the killed run is not lost" is_lost
# Another is cancelled as people do it: it is told, and leaves a checkpoint. Tasks are numbered as the runs, since all are new.
one_trains() { [ -n "$(states | awk '$2 == "running" && $3 >= 1')" ]; }
until_ 60 "no run trains" one_trains
task=$(states | awk '$2 == "running" && $3 >= 1 && !n++ { print NR - 1 }')
say "cancelling ${job}_$task"
scancel "${job}_$task"
until_ 300 "the first job does not end" is_over
sweep --status | tee "$work/log/status.txt"
[ "$(count lost)" = 1 ] || fail "expected one lost run"
[ "$(count interrupted)" = 1 ] || fail "expected one interrupted run"
[ "$(count finished)" = 4 ] || fail "expected four finished runs"

next=$(sweep --slurm "--partition=check --time=10 --ntasks=1" 2>"$work/log/next.log") || fail "$(cat "$work/log/next.log")"
say "submitted job $next"
grep -q "submitted 2 of 6 runs" "$work/log/next.log" || fail "$(cat "$work/log/next.log")"
until_ 300 "the second job does not end" is_over
sweep --status
[ "$(count finished)" = 6 ] || fail "expected six finished runs"

# ----------------------------------------------------------------------------------------------------- comparisons

jobs() { sacct --noheader --parsable2 --allocations --jobs "$1" --format=JobID,State,ExitCode,NodeList; }
counted() { [ "$(jobs "$job" | grep -cE 'COMPLETED|FAILED|CANCELLED')" = 6 ] && [ "$(jobs "$next" | grep -c COMPLETED)" = 2 ]; }
until_ 60 "sacct has not counted the jobs" counted
say "sacct: JobID|State|ExitCode|NodeList"
jobs "$job,$next"
[ "$(jobs "$job" | grep -c '|COMPLETED|0:0|')" = 4 ] || fail "expected four completed tasks in job $job"
[ "$(jobs "$job,$next" | cut -d'|' -f4 | sort -u | tr '\n' ' ')" = "node1 node2 " ] || fail "expected tasks on both nodes"

"$program" sweep "${grid[@]}" --runs-dir "$work/alone" >"$work/log/alone.log" 2>&1 || fail "the sweep without Slurm"
same=0
for run in "$work"/alone/*/; do
    name=$(basename "$run" | sed -E 's/-[0-9]{8}-[0-9]{6}(-[0-9]+)?$//')
    there=("$work"/runs/"$name"-2*)
    [ ${#there[@]} = 1 ] || fail "$name: expected one run, found ${there[*]}"
    cmp "$run/model.safetensors" "${there[0]}/model.safetensors" || fail "$name: other weights"
    cmp "$run/steps.jsonl" "${there[0]}/steps.jsonl" || fail "$name: other steps"
    same=$((same + 1))
done
[ "$same" = 6 ] || fail "expected six runs, compared $same"
say "six runs, one killed and one cancelled and both resumed: the same weights and steps to the bit"
