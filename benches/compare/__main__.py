"""What a request through the gateway costs, beside what people use instead, in one run.

All contestants of a work take turns in every round, the first place going round, so that a machine
that gets slower or faster hits them alike; ratios are taken inside a round.
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

from . import peers
from .machine import Bench, Missing, find
from .works import WORKS


class Setting:
    """What every work is measured with."""

    def __init__(self, bench, binary, fill):
        self.bench, self.binary, self.fill, self.token = bench, binary, fill, None


def main():
    options = arguments()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bench = Bench()
    try:
        return measure(bench, options)
    finally:
        bench.close()


def arguments():
    parser = argparse.ArgumentParser(prog="benches/proxy.sh", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"default: all of {' '.join(WORKS)}")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", 9)))
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("DURATION", 3)), help="of a turn")
    parser.add_argument("--binary", default=os.environ.get("GATEPOST_BIN", "target/release/gatepost"))
    parser.add_argument("--fill", default=os.environ.get("FILL_BIN"), help="the program of benches/fill.rs")
    parser.add_argument("--only", help="contestants, by name, with commas between them")
    options = parser.parse_args()
    if unknown := [work for work in options.works if work not in WORKS]:
        parser.error(f"no work {unknown[0]!r}; there are: {' '.join(WORKS)}")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("rounds and seconds are whole numbers from 1")
    if not os.access(options.binary, os.X_OK):
        parser.error(f"no gateway at {options.binary}: cargo build --release, or --binary FILE")
    for tool in ("wrk", "nginx", "curl", "taskset", "openssl"):
        try:
            find(tool)
        except Missing:
            parser.error(f"{tool} is missing")
    options.binary = os.path.realpath(options.binary)
    return options


def measure(bench, options):
    app_port = peers.app(bench)
    setting = Setting(bench, options.binary, options.fill and os.path.realpath(options.fill))
    print(f"machine   {cpu_model()}, proxy on CPU {bench.proxy_cpu}, load and app on CPU {bench.load_cpu}")
    print(f"system    {platform.system()} {platform.release()}, {time.strftime('%Y-%m-%d', time.gmtime())}")
    print(f"rounds    {options.rounds} of {options.seconds} s; median (least–greatest); ratios within a round")
    for name in options.works or WORKS:
        work = WORKS[name](setting)
        print(f"\n{work.what}", flush=True)
        try:
            contestants = start(work, app_port, options.only)
        except Missing as missing:
            print(f"  left out: {missing} is not installed")
            continue
        if not contestants:
            print("  left out: none of those that --only names takes part")
            continue
        if hasattr(work, "figures"):
            table({c.title: [work.figures(c)] for c in contestants}, None)
        else:
            table(rounds(work, contestants, options), work.unit)
        for contestant in contestants:
            contestant.stop()
    return 0


def start(work, app_port, only):
    """Starts who is installed; says who is not."""
    running = []
    for contestant in work.contestants(app_port):
        if only and contestant.name not in only.split(","):
            continue
        try:
            contestant.start()
        except Missing as missing:
            print(f"  left out: {contestant.title} ({missing} is not installed)")
            continue
        running.append(contestant)
    # One token for all of them: every gateway of ours signs with the same secret. Without one, only who
    # judges no token can be measured.
    tokens = [c.token for c in running if isinstance(c, peers.Gatepost)]
    if not tokens:
        for contestant in [c for c in running if c.judges]:
            print(f"  left out: {contestant.title} (its token comes from the gateway, which takes no part)")
            contestant.stop()
            running.remove(contestant)
    work.setting.token = tokens[0] if tokens else "none"
    for contestant in running:
        work.prepare(contestant)
        print(f"  {contestant.title}: {contestant.version()}")
    return running


def rounds(work, contestants, options):
    turns = {contestant.title: [] for contestant in contestants}
    for contestant in contestants:
        work.turn(contestant, 1)
    for number in range(options.rounds):
        for place in range(len(contestants)):
            contestant = contestants[(place + number) % len(contestants)]
            turns[contestant.title].append(work.turn(contestant, options.seconds))
        if sys.stderr.isatty():
            print(f"  round {number + 1} of {options.rounds}", end="\r", file=sys.stderr, flush=True)
    return {title: [figures(turn, work.unit) for turn in all_turns] for title, all_turns in turns.items()}


def figures(turn, unit):
    shown = {f"{unit}s/s": turn["count"] / turn["seconds"], f"CPU µs/{unit}": turn["cpu"] * 1e6 / turn["count"]}
    return shown | {f"{key} ms": turn[key] for key in ("p50", "p99") if key in turn}


def table(turns, unit):
    """Absolute figures, then each one's ratio to the first contestant."""
    names = list(next(iter(turns.values()))[0])
    width = max(len(title) for title in turns) + 14
    row(width, "", names)
    for title, all_turns in turns.items():
        row(width, title, [shown([turn[name] for turn in all_turns]) for name in names])
    baseline, *others = turns
    for title in others:
        ratios = [[a[name] / b[name] if b[name] else float("nan") for a, b in zip(turns[title], turns[baseline])] for name in names]
        row(width, f"{title} ÷ {baseline.split(',')[0]}", [shown(values, 2) for values in ratios])


def shown(values, digits=None):
    middle = statistics.median(values)
    digits = digits if digits is not None else 0 if middle >= 1000 else 2
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def row(width, title, cells):
    print(f"  {title:<{width}}" + "".join(f"{cell:>27}" for cell in cells), flush=True)


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
