"""Runs Pacos and PyTorch in turn on the same steps and prints their ratios.

    python compare.py BENCH DIR [--rounds N] [--threads N] [--only curve,dense,alpaca] [--examples FILE]

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
        peers = [side for side in self.runs if side != "pacos"]
        return max(peers, key=lambda side: statistics.median(self.rates(side, key)))

    def ratios(self, key, peer):
        return [ours / theirs for ours, theirs in zip(self.rates("pacos", key), self.rates(peer, key))]

    def peaks(self, side):
        return [records[-1]["peak_bytes"] for records in self.runs[side]]

    def show(self, goal):
        for side in self.runs:
            first = [records[0]["seconds"] for records in self.runs[side]]
            peak = max(self.peaks(side)) / 1e9
            print(
                f"  {side:<16} {statistics.median(self.rates(side, 'seconds')):6.0f} tokens/s, "
                f"{statistics.median(self.rates(side, 'cpu_seconds')):6.0f} tokens a processor second, "
                f"first step {statistics.median(first):.1f} s, peak memory {peak:.2f} GB"
            )
        for name, key in (("by the clock", "seconds"), ("in processor time", "cpu_seconds")):
            peer = self.best_peer(key)
            print(f"  ratio {name}, to {peer}: {spread(self.ratios(key, peer))}; goal {goal:.1f}")
        records = next(iter(self.runs.values()))[0]
        padded = next((run[0] for side, run in self.runs.items() if side != "pacos"), None)
        if padded:
            share = total(padded[1:], "tokens") / total(padded[1:], "computed")
            print(f"  {total(records[1:], 'tokens')} tokens a round; of what torch computes {share:.2f} is no padding")
        print(f"  load average {min(self.loads):.1f} to {max(self.loads):.1f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="curve,dense,alpaca")
    parser.add_argument("--examples")
    args = parser.parse_args()

    args.dir.mkdir(parents=True, exist_ok=True)
    subprocess.run([args.bench, "prepare", args.dir, *([args.examples] if args.examples else [])], check=True)
    versions = peer_versions()
    threads = str(args.threads)
    print(f"{threads} threads a side" if args.threads > 1 else "one thread a side")
    sides = {"pacos": lambda workload: [args.bench, "train", args.dir / "model", args.dir / f"{workload}.json", threads]}
    if versions is None:
        print(f"{PYTHON} has no torch with transformers, so there is no ratio. Run: pip install torch transformers")
    else:
        print(versions)
        torch = lambda *options: lambda workload: [
            PYTHON, PEER, *options, args.dir / "model", args.dir / f"{workload}.json", threads
        ]
        sides |= {EAGER: torch(), COMPILED: torch("--compile")}
    asked = args.only.split(",")

    if "curve" in asked and EAGER in sides:
        print("\nloss curves, f32, from the same weights and batches")
        ours, theirs = (steps(sides[side]("curve")) for side in ("pacos", EAGER))
        apart = [abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True)]
        for at in (0, len(ours) // 2, len(ours) - 1):
            print(f"  step {at + 1}: pacos {ours[at]['loss']:.6f}, torch {theirs[at]['loss']:.6f}")
        worst = max(range(len(apart)), key=apart.__getitem__)
        print(f"  largest difference of {len(apart)} steps: {apart[worst]:.1e}, at step {worst + 1}; goal 1e-3")

    measured = {}
    for workload, title, goal in (
        ("dense", "4 rows of 256 tokens a step, each token a label, f32", 1.0),
        ("alpaca", "rows in Alpaca's template, 32 a step, real tokens counted, f32", 5.0),
    ):
        if workload in asked:
            print(f"\n{title}")
            measured[workload] = Rounds(sides, workload, args.rounds)
            if EAGER in sides:
                measured[workload].show(goal)
            else:
                rate = statistics.median(measured[workload].rates("pacos", "seconds"))
                print(f"  pacos alone: {rate:.0f} tokens/s")
    if "dense" in measured and EAGER in sides:
        rounds = measured["dense"]
        least = min((side for side in rounds.runs if side != "pacos"), key=lambda side: min(rounds.peaks(side)))
        ratios = [ours / theirs for ours, theirs in zip(rounds.peaks("pacos"), rounds.peaks(least))]
        print(f"\npeak memory of the first of these, of {least}'s: {spread(ratios)}; goal at most 0.5")


if __name__ == "__main__":
    main()
