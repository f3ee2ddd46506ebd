"""Runs Pacos and PyTorch in turn on the same steps and prints their ratios.

    python compare.py BENCH DIR [--rounds N] [--threads N] [--only curve,dense,alpaca] [--examples FILE] [--eager]

BENCH is the built `training_steps` bench, DIR takes the model and the workloads. Needs Python's own library alone;
PyTorch is wanted in the Python that PACOS_PEER_PYTHON names, or in this one. Without it no ratio is printed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

PEER = pathlib.Path(__file__).with_name("peer.py")
PYTHON = os.environ.get("PACOS_PEER_PYTHON", sys.executable)
F32, BF16 = "pacos, f32", "pacos, bf16"
EAGER, COMPILED = "torch, eager", "torch, compiled"


def steps(command):
    """The records that a side prints, one a step."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {ran.returncode}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def total(records, key):
    return sum(record[key] for record in records)


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def peer_versions():
    """None where the peer is not installed."""
    ask = "import torch, transformers as t; print('torch', torch.__version__, 'transformers', t.__version__)"
    try:
        found = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True)
    except OSError:
        return None
    return None if found.returncode else found.stdout.strip()


class Rounds:
    """What each side did on a workload, round by round; the first step of a process is not counted."""

    def __init__(self, sides, workload, rounds):
        self.runs = {side: [] for side in sides}
        self.loads = []
        for number in range(rounds):
            # Who goes first changes, so that a neighbour's work falls on all.
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            for side in order:
                records = steps(sides[side](workload))
                self.runs[side].append(records)
                self.loads.append(os.getloadavg()[0])
                print(f"  round {number + 1}, {side}: {self.rate(records, 'seconds'):.0f} tokens/s", flush=True)

    def rate(self, records, key):
        return total(records[1:], "tokens") / total(records[1:], key)

    def rates(self, side, key):
        return [self.rate(records, key) for records in self.runs[side]]

    def best_peer(self, key):
        peers = [side for side in (EAGER, COMPILED) if side in self.runs]
        return max(peers, key=lambda side: statistics.median(self.rates(side, key)))

    def ratios(self, side, key, peer):
        return [ours / theirs for ours, theirs in zip(self.rates(side, key), self.rates(peer, key))]

    def peaks(self, side):
        return [records[-1]["peak_bytes"] for records in self.runs[side]]

    def show(self, goals):
        for side in self.runs:
            first = [records[0]["seconds"] for records in self.runs[side]]
            peak = max(self.peaks(side)) / 1e9
            print(
                f"  {side:<16} {statistics.median(self.rates(side, 'seconds')):6.0f} tokens/s, "
                f"{statistics.median(self.rates(side, 'cpu_seconds')):6.0f} tokens a processor second, "
                f"first step {statistics.median(first):.1f} s, peak memory {peak:.2f} GB"
            )
        if EAGER in self.runs:
            for name, key in (("by the clock", "seconds"), ("in processor time", "cpu_seconds")):
                peer = self.best_peer(key)
                for side, goal in goals.items():
                    ratio = spread(self.ratios(side, key, peer))
                    print(f"  ratio {name}, {side} to {peer} f32: {ratio}; goal {goal:.1f}")
            padded = self.runs[EAGER][0][1:]
            share = total(padded, "tokens") / total(padded, "computed")
            print(f"  {total(padded, 'tokens')} tokens a round; of what torch computes {share:.2f} is no padding")
        print(f"  load average {min(self.loads):.1f} to {max(self.loads):.1f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="curve,dense,alpaca")
    parser.add_argument("--examples")
    parser.add_argument("--eager", action="store_true", help="leave out compiled code, which takes minutes to compile")
    args = parser.parse_args()

    args.dir.mkdir(parents=True, exist_ok=True)
    subprocess.run([args.bench, "prepare", args.dir, *([args.examples] if args.examples else [])], check=True)
    versions = peer_versions()
    threads = str(args.threads)
    print(f"{threads} threads a side" if args.threads > 1 else "one thread a side")
    ours = lambda *options: lambda workload: [
        args.bench, "train", args.dir / "model", args.dir / f"{workload}.json", threads, *options
    ]
    sides = {F32: ours("f32"), BF16: ours("bf16")}
    if versions is None:
        print(f"{PYTHON} has no torch with transformers, so there is no ratio. Run: pip install torch transformers")
    else:
        print(versions)
        torch = lambda *options: lambda workload: [
            PYTHON, PEER, *options, args.dir / "model", args.dir / f"{workload}.json", threads
        ]
        sides |= {EAGER: torch()} | ({} if args.eager else {COMPILED: torch("--compile")})
    asked = args.only.split(",")

    if "curve" in asked and EAGER in sides:
        print("\nlosses of 50 steps from the same weights and batches")
        peers = {"torch, f32": steps(sides[EAGER]("curve")), "torch, bf16 autocast": steps(torch("--autocast")("curve"))}
        for side in (F32, BF16):
            ours = steps(sides[side]("curve"))
            for peer, theirs in peers.items():
                apart = [a["loss"] - b["loss"] for a, b in zip(ours, theirs, strict=True)]
                worst = max(range(len(apart)), key=lambda at: abs(apart[at]))
                mean = statistics.mean(apart)
                goal = "; goal 1e-3" if (side, peer) == (F32, "torch, f32") else ""
                print(f"  {side} to {peer}: at most {apart[worst]:+.1e}, at step {worst + 1}; mean {mean:+.1e}{goal}", flush=True)

    rounds = {}
    for workload, title, goals in (
        ("dense", "4 rows of 256 tokens a step, each token a label", {F32: 1.0, BF16: 3.0}),
        ("alpaca", "rows in Alpaca's template, 32 a step, real tokens counted", {F32: 5.0, BF16: 5.0}),
    ):
        if workload in asked:
            print(f"\n{title}")
            rounds[workload] = Rounds(sides, workload, args.rounds)
            rounds[workload].show(goals)
    if "dense" in rounds and EAGER in sides:
        print("\npeak memory of the first of these, of torch's; goal at most 0.5")
        ways = {"lean": "micro-batches of 512 and elementwise", "leanest": "moments in bf16 besides"}
        runs = {(side, way): steps(sides[side](way)) for side in (F32, BF16) for way in ways}
        for peer in (peer for peer in (EAGER, COMPILED) if peer in sides):
            theirs = min(rounds["dense"].peaks(peer))
            for side in (F32, BF16):
                planned = max(rounds["dense"].peaks(side)) / theirs
                less = (f"{runs[side, way][-1]['peak_bytes'] / theirs:.2f} with {ways[way]}" for way in ways)
                print(f"  {side} to {peer}: {planned:.2f} as planned, {', '.join(less)}")
        for (side, way), records in runs.items():
            rate = rounds["dense"].rate(records, "seconds")
            print(f"  {side} with {ways[way]}: {rate:.0f} tokens/s, {records[-1]['peak_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
