"""PyTorch's side of tests/peers/training: trains on a workload of the `training_steps` bench.

    python peer.py [--compile] [--autocast] MODEL_FOLDER WORKLOAD.json THREADS

Rows go through the model four at a time, as Stanford's train.py has it, padded on the right to the longest of
the four; gradients of a step's micro-batches are added up, and the loss is the mean over the labels of the
whole step, as transformers' Trainer has it. Prints one line of JSON a step, as the bench does.
"""

import argparse
import json
import math
import resource
import time

import torch
import transformers

MICRO_BATCH = 4
IGNORED = -100


def collate(rows, pad):
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    for at, row in enumerate(rows):
        tokens = torch.tensor(row["input_ids"])
        ids[at, : len(tokens)] = tokens
        labels[at, : len(tokens)] = tokens.where(torch.tensor(row["label_mask"]), torch.tensor(IGNORED))
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    # Without padding no mask is needed, and attention takes its faster way.
    return {"input_ids": ids, "labels": labels, **({} if mask.all() else {"attention_mask": mask})}


def peak_bytes():
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
    except OSError:
        return None
    return int(line.split()[1]) * 1024


def cpu_seconds():
    # Compilers run in processes of their own and count too.
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--autocast", action="store_true", help="bf16, where autocast takes it")
    parser.add_argument("model")
    parser.add_argument("workload")
    parser.add_argument("threads", type=int)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")
    with open(args.workload) as file:
        workload = json.load(file)
    config, rows = workload["config"], workload["rows"]
    if config["lr_scheduler"] != "cosine" or config["dtype"] not in ("auto", "f32"):
        raise SystemExit("expected a cosine in f32, which is all that this peer does")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="sdpa"
    ).train()
    pad = model.config.eos_token_id
    # Rows of many lengths: code for all of them, or each new length would be compiled for.
    varied = len({len(row["input_ids"]) for row in rows}) > 1
    forward = torch.compile(model, dynamic=varied or None) if args.compile else model
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config["weight_decay"]},
            {"params": norms, "weight_decay": 0.0},
        ],
        lr=config["learning_rate"],
        betas=(config["adam_beta1"], config["adam_beta2"]),
        eps=config["adam_epsilon"],
        fused=True,
    )
    steps = workload["steps"]
    schedule = transformers.get_cosine_schedule_with_warmup(
        optimizer, math.ceil(config["warmup_ratio"] * len(steps)), len(steps)
    )
    for number, members in enumerate(steps, start=1):
        start, cpu = time.perf_counter(), cpu_seconds()
        chosen = [rows[member] for member in members]
        labels = sum(sum(row["label_mask"][1:]) for row in chosen)
        loss, computed = 0.0, 0
        for first in range(0, len(chosen), MICRO_BATCH):
            batch = collate(chosen[first : first + MICRO_BATCH], pad)
            computed += batch["input_ids"].numel()
            with torch.autocast("cpu", torch.bfloat16, enabled=args.autocast):
                part = forward(**batch, num_items_in_batch=labels, use_cache=False).loss
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config["max_grad_norm"]).item()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        record = {
            "step": number,
            "seconds": time.perf_counter() - start,
            "cpu_seconds": cpu_seconds() - cpu,
            "tokens": sum(len(row["input_ids"]) for row in chosen),
            "loss": loss,
            "grad_norm": norm,
            "peak_bytes": peak_bytes(),
            "computed": computed,
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
