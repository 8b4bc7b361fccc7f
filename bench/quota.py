#!/usr/bin/env python3
"""What a rest spares of a quota of processor time: a simulation of Linux's bandwidth control (kernel/sched/fair.c) beside
what node/quota.h and partition/cost.h say. All times in ms.

    bench/quota.py [--period 10] [--tick 4] [--slice 5]

Of its control group's quota a thread takes a slice at a time; it is stopped at a tick of the clock, or where another
thread of its processor is to go on, once nothing is left; what it has overdrawn by then is paid of the next period's
quota; asleep it keeps 1 ms. "alone": one thread computes and sends. "after others": another thread of the same processor
begins and ends each step, 0.15 ms each; a step that has overdrawn waits for the next period before its message goes out.
What happens is between the two, since threads change processors.
"""
import argparse
import math
import random
import statistics

KEPT, BLUR = 2.0, 0.75  # node/quota.c, partition/cost.c
OTHERS = 0.15


class Host:
    """One processor of a host with a share of a processor; periods and ticks begin anywhere."""

    def __init__(self, o, share):
        self.o, self.quota = o, share * o.period
        self.left, self.taken = self.quota, 0.0
        self.begin, self.ticks, self.n = random.uniform(0, o.period), random.uniform(0, o.tick), -1

    def end(self):
        return self.begin + (self.n + 1) * self.o.period

    def periods_until(self, t):
        n = math.floor((t - self.begin) / self.o.period)
        if n > self.n:
            self.n, self.left = n, self.quota

    def take(self):
        if self.taken <= 0:
            more = min(self.left, self.o.slice - self.taken)
            self.taken, self.left = self.taken + more, self.left - more
        return self.taken > 0

    def stop(self):
        """Until a period pays what was overdrawn: when that begins."""
        while True:
            at = self.end()
            self.n, self.left = self.n + 1, self.quota
            paid = min(1e-6 - self.taken, self.left)
            self.taken, self.left = self.taken + paid, self.left - paid
            if self.taken > 0:
                return at

    def compute(self, t, c):
        while True:
            tick = self.ticks + (math.floor((t - self.ticks) / self.o.tick + 1e-9) + 1) * self.o.tick
            to = min(t + c, tick, self.end())
            self.taken, c, t = self.taken - (to - t), c - (to - t), to
            if to >= self.end() - 1e-9:
                self.n, self.left = self.n + 1, self.quota
            if c <= 1e-9:
                return t
            if abs(to - tick) < 1e-9 and not self.take():
                t = self.stop()

    def step(self, t, c, after_others):
        """Begins at t: when it is done."""
        parts = [OTHERS, c - 2 * OTHERS, OTHERS] if after_others else [c]
        self.periods_until(t)
        for part in parts:
            if not self.take():
                t = self.stop()
            t = self.compute(t, part)
        self.take()
        self.left, self.taken = self.left + max(self.taken - 1, 0), min(self.taken, 1)
        return t


def spared(o, share, after_others, n=4000):
    """Of steps of three periods' quota after long rests, less (1 - share) x period."""
    c, took = 3 * share * o.period, []
    for _ in range(n // 50):
        host, t = Host(o, share), 0.0
        for _ in range(50):
            work = c * random.uniform(0.7, 1.3)
            done = host.step(t, work, after_others)
            took.append(work / share - (done - t))
            t = done + random.uniform(2, 6) * o.period
    return statistics.mean(took) - (1 - share) * o.period


def pipeline(o, shares, cs, hop, after_others, n=150):
    """Time of a step of one stream, whose stages compute one after the other."""
    times = []
    for _ in range(20):
        hosts, t = [Host(o, s) for s in shares], 0.0
        for i in range(n + 20):
            if i == 20:
                begin = t
            for host, c in zip(hosts, cs):
                t = host.step(t, c * random.uniform(0.97, 1.03), after_others) + hop
        times.append((t - begin) / n)
    return statistics.mean(times)


def blurred(a, b, blur):
    """The larger of both, and more where they are less than blur apart."""
    return max(a, b) if abs(a - b) >= blur else b + (a - b + blur) ** 2 / (4 * blur)


def forecast(o, shares, cs, hop):
    stages = hop * len(cs)
    busy = []
    for q, c in zip(shares, cs):
        spare = (1 - q) * o.period + KEPT
        held = blurred((1 - q) * c / q - spare, 0, BLUR * spare)
        stages += c + held
        busy.append((c / q, (1 - q) * c / q - held))
    return max(blurred(stages, b, BLUR * saved) for b, saved in busy)


PIPELINES = [((0.4, 0.4), (7.6, 9.1)), ((0.4, 0.2), (14.2, 3.3)), ((0.4, 0.2), (12.7, 4.6)), ((0.4, 0.4, 0.4), (6.0, 6.0, 5.0)),
             ((0.4,) * 4, (3.8, 4.5, 5.3, 4.7)), ((0.4, 0.2, 0.4, 0.4), (5.3, 1.7, 4.7, 5.0)), ((0.5,) * 4, (4.5,) * 4),
             ((0.25,) * 4, (5.5, 5.0, 4.5, 3.0))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--period", type=float, default=10)
    parser.add_argument("--tick", type=float, default=4)
    parser.add_argument("--slice", type=float, default=5)
    o = parser.parse_args()
    random.seed(1)
    print("spared beyond (1 - share) x period; forecast: %.1f" % KEPT)
    for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7):
        print("  share %.1f: alone %5.2f, after others %5.2f" % (share, spared(o, share, False), spared(o, share, True)))
    print("a step of one stream, hops of 1.1")
    for shares, cs in PIPELINES:
        print("  shares %-22s computing %-24s alone %6.2f, after others %6.2f, forecast %6.2f" % (
            "/".join("%g" % s for s in shares), "/".join("%g" % c for c in cs), pipeline(o, shares, cs, 1.1, False),
            pipeline(o, shares, cs, 1.1, True), forecast(o, shares, cs, 1.1)))


if __name__ == "__main__":
    main()
