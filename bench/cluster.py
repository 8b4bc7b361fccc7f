#!/usr/bin/env python3
"""Measures plans on virtual hosts (tests/hosts.sh; root) and puts the forecast of each beside what it reached.

    bench/cluster.py forecast --model q4.gguf --model q8.gguf --model f16.gguf   # 12 plans: how far off forecasts are
    bench/cluster.py choice --model q4.gguf        # every grid by brute force: how good the planner's own choice is
    bench/cluster.py unequal --model q4.gguf       # a host with half the CPU: measured plan against equal split
    bench/cluster.py plans --model q4.gguf --grids 4x1,2x2 --cpu 50 --rate 1gbit --delay 1ms      # any other

Options (defaults): --hosts 4, --cpu 50 (percent of one core for each host, or a list for h1,h2,...), --on (processors
of this machine that the hosts share; all), --rate 1gbit, --delay 1ms, --networks (for choice: "1gbit/1ms,100mbit/5ms"),
--prompt 64 and --tokens 24 (of a run), --repeat 3, --caravan build/caravan, --json FILE. One run is `caravan bench generate`
on h1 with one thread a rank; runs of a table go in turn, --repeat times, each with a probe of its own, and count by their
medians, since a machine's speed drifts. "auto" is the plan that Caravan finds itself, "2x1 equal" one that takes all hosts
for alike. The hosts need some of the machine's time to be left: what joins them and carries messages works beside them.
Processors that share a core or a cache slow each other down, which hosts of their own would not: --on 0 --cpu 20 spares that.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOSTS = os.path.join(TOP, "tests", "hosts.sh")


class Network:
    """Virtual hosts of one setting: up for a `with` block."""

    def __init__(self, options, cpus, rate, delay):
        self.options, self.cpus, self.rate, self.delay = options, cpus, rate, delay
        self.name = "bench%d" % os.getpid()

    def hosts(self, *words, **how):
        environment = dict(os.environ, HOSTS_NAME=self.name)
        return subprocess.run([HOSTS, *map(str, words)], env=environment, text=True, stdout=subprocess.PIPE, **how)

    def __enter__(self):
        on = ["--on", self.options.on] if self.options.on else []
        self.hosts("up", len(self.cpus), "--rate", self.rate, "--delay", self.delay, "--for", os.getpid(), *on, check=True)
        for i, percent in enumerate(self.cpus):
            self.hosts("cpu", "h%d" % (i + 1), percent, check=True)
        self.args = self.hosts("mpirun-args", check=True).stdout.strip()
        return self

    def __exit__(self, *_):
        self.hosts("down")

    def text(self):
        on = " on %s" % self.options.on if self.options.on else ""
        return "%s, %s, CPU %s%%%s" % (self.rate, self.delay, "/".join(map(str, self.cpus)), on)

    def run(self, model, plan, hosts, *words):
        """A job of the given hosts: the JSON object that it prints."""
        command = [self.options.caravan, *words, "--json", "--threads", "1", "--mpirun-args", self.args]
        command += ["--probe", "again" if plan.is_measured else "off"]
        with tempfile.NamedTemporaryFile("w", suffix=".hosts") as file:
            file.write("".join("%s slots=1\n" % h for h in hosts))
            file.flush()
            done = self.hosts("exec", "h1", *command, "--hosts", file.name, stderr=subprocess.PIPE, timeout=900)
        if done.returncode:
            raise SystemExit("%s on %s: %s" % (plan.name, self.text(), done.stderr.strip()))
        return json.loads(done.stdout)

    def choose(self, model, plan):
        """The grid of an open plan and its hosts, in order; the given one otherwise."""
        if plan.grid:
            n_stages, n_shards = map(int, plan.grid.split("x"))
            return plan.grid, ["h%d" % (i + 1) for i in range(n_stages * n_shards)]
        found = self.run(model, plan, ["h%d" % (i + 1) for i in range(len(self.cpus))], "generate", model,
                         "--tokens", "5", "--max-tokens", "2", "--ignore-eos")
        return "%dx%d" % (found["plan"]["stages"], found["plan"]["shards"]), sorted(r["host"] for r in found["ranks"])

    def bench(self, model, plan):
        """One run: a row of `caravan bench generate`, which begins with steps that do not count."""
        o = self.options
        grid, hosts = plan.chosen = plan.chosen or self.choose(model, plan)
        found = self.run(model, plan, hosts, "bench", "generate", model, "--grids", grid, "--prompt-tokens", str(o.prompt),
                         "--tokens", str(o.tokens), "--repeat", "3")
        return found["rows"][0]


class Plan:
    """A grid "2x2", "auto", or "2x1 equal"."""

    def __init__(self, name):
        self.name = name
        self.is_measured = not name.endswith(" equal")
        self.grid = "" if name.startswith("auto") else name.split()[0]
        self.chosen = None  # grid and hosts, once known


KEYS = ("decode_tokens_per_s", "prefill_tokens_per_s")


def row_of(network, model, plan, runs):
    row = {"model": os.path.basename(model), "network": network.text(), "plan": plan.name, "chosen": plan.chosen[0],
           "hosts": plan.chosen[1]}
    for key in KEYS:
        measured = statistics.median(r[key] for r in runs)
        forecasts = [(r["facts"][key] or {}).get("forecast") for r in runs]
        forecast = statistics.median(forecasts) if all(forecasts) else None
        row[key] = {"forecast": forecast, "measured": measured, "runs": [r[key] for r in runs],
                    "off_percent": 100 * (forecast / measured - 1) if forecast else None}
    return row


def measure(network, model, plans):
    """All plans in turn, again and again; a row for each."""
    runs = [[] for _ in plans]
    for _ in range(network.options.repeat):
        for plan, of_plan in zip(plans, runs):
            of_plan.append(network.bench(model, plan))
    return [row_of(network, model, plan, of_plan) for plan, of_plan in zip(plans, runs)]


def show(rows):
    def cells(f):
        if f["forecast"] is None:
            return "%10s %10.2f %7s" % ("-", f["measured"], "-")
        return "%10.2f %10.2f %+6.1f%%" % (f["forecast"], f["measured"], f["off_percent"])

    print("%-20s %-34s %-10s %-7s | %29s | %29s" % ("model", "network", "plan", "grid",
                                                    "decode: forecast, reached, off", "prefill: forecast, reached, off"))
    for r in rows:
        print("%-20s %-34s %-10s %-7s | %s | %s" % (r["model"][-20:], r["network"], r["plan"], r["chosen"],
                                                   cells(r["decode_tokens_per_s"]), cells(r["prefill_tokens_per_s"])))
    off = [abs(r[k]["off_percent"]) for r in rows for k in KEYS if r[k]["off_percent"] is not None]
    if off:
        print("forecasts are off by at most %.1f%%, %.1f%% in the middle; %d of %d within 10%%" % (
            max(off), statistics.median(off), sum(x <= 10 for x in off), len(off)))


def run_plans(o, cpus, rate, delay, models, names):
    rows = []
    with Network(o, cpus, rate, delay) as network:
        for model in models:
            rows += measure(network, model, [Plan(n) for n in names])
    return rows


def run_forecast(o):
    """Twelve plans: grids up to four ranks, two networks, the models given (three formats), one slowed host."""
    first, last = o.model[0], o.model[-1]
    cpus = [o.cpus[0]] * 4
    slow = cpus[:1] + [cpus[0] // 2] + cpus[2:]
    rows = run_plans(o, cpus, "1gbit", "1ms", [first], ["1x1", "2x1", "4x1", "1x2", "2x2"])
    for model in o.model[1:]:
        rows += run_plans(o, cpus, "1gbit", "1ms", [model], ["2x1", "2x2"])
    rows += run_plans(o, cpus, "200mbit", "5ms", [last], ["4x1"])
    rows += run_plans(o, slow, "1gbit", "1ms", [first], ["2x1", "4x1"])
    show(rows)
    return rows


def run_choice(o):
    rows = []
    for pair in o.networks.split(","):
        rate, delay = pair.split("/")
        n = len(o.cpus)
        names = ["auto"] + ["%dx%d" % (s, r // s) for r in range(1, n + 1) for s in range(1, r + 1) if r % s == 0]
        for model in o.model:
            here = run_plans(o, o.cpus, rate, delay, [model], names)
            best = max(here[1:], key=lambda r: r["decode_tokens_per_s"]["measured"])
            of_best = here[0]["decode_tokens_per_s"]["measured"] / best["decode_tokens_per_s"]["measured"]
            show(here)
            print("the planner chose %s, %.1f%% of the best that was tried (%s)\n" % (
                here[0]["chosen"], 100 * of_best, best["plan"]))
            rows += here
    return rows


def run_unequal(o):
    n = len(o.cpus)
    cpus = o.cpus[:-1] + [o.cpus[-1] // 2]
    rows = run_plans(o, cpus, o.rate, o.delay, o.model, ["%dx1" % n, "%dx1 equal" % n, "1x%d" % n, "1x%d equal" % n])
    show(rows)
    for planned, equal in zip(rows[::2], rows[1::2]):
        for key in KEYS:
            print("%s %s %s: planned / equal = %.2f" % (planned["model"], planned["plan"], key.split("_")[0],
                                                        planned[key]["measured"] / equal[key]["measured"]))
    return rows


def run_any(o):
    rows = run_plans(o, o.cpus, o.rate, o.delay, o.model, o.grids.split(","))
    show(rows)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["forecast", "choice", "unequal", "plans"])
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--caravan", default=os.path.join(TOP, "build", "caravan"))
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--cpu", default="50")
    parser.add_argument("--on")
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--delay", default="1ms")
    parser.add_argument("--networks", default="1gbit/1ms,100mbit/5ms")
    parser.add_argument("--grids", default="auto")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json")
    o = parser.parse_args()
    cpus = [int(x) for x in o.cpu.split(",")]
    o.cpus = cpus if len(cpus) > 1 else cpus * o.hosts
    rows = {"forecast": run_forecast, "choice": run_choice, "unequal": run_unequal, "plans": run_any}[o.what](o)
    if o.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=TOP, text=True, stdout=subprocess.PIPE).stdout
        with open(o.json, "w") as file:
            json.dump({"commit": commit.strip(), "what": o.what, "rows": rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
