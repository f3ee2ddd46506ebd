"""PyTorch on the same card: whole optimizer steps of LLaMA shapes.

    python torch_peer.py step RESULTS --shape 7b --tokens 4096 --accumulate 4 --compile
    python torch_peer.py padded RESULTS --shape 7b

`step` is the strong peer, `padded` the usual one.

They write result files of the form that `pacos-gpu-checks table` reads. The model of `step` is written by
hand, with the parts that a fast trainer in PyTorch uses: fused RMSNorm, flash attention over packed
sequences (`torch.nn.attention.varlen`), the head on label rows only, fused AdamW, and on demand
`torch.compile`, either of the layer and of the head with its loss, or of the whole model with CUDA graphs.
The model of `padded` is transformers' own, as Stanford's script used it: rows padded to the longest of
their micro-batch, 128 examples a step, every layer recomputed.

Weights are random normal. Example lengths follow a log-normal with the median of 110 tokens and the mean
of 128 that Alpaca's rows have, cut to 40..512; the last example of a micro-batch is cut to fill it, so
every position is a real token. 45 % of the positions carry a label.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import statistics
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

PEAK_BF16 = 989e12
LONGEST = 512
LABEL_PERCENT = 45
# hidden, inner, layers, heads, key-value heads, vocabulary, tied embedding
SHAPES = {
    "tiny": (128, 352, 2, 4, 2, 512, True),
    "135m": (576, 1536, 30, 9, 3, 49152, True),
    "1b": (2048, 5632, 22, 32, 4, 32000, False),
    "7b": (4096, 11008, 32, 32, 32, 32000, False),
}
ROPE_THETA = 10000.0
EPSILON = 1e-5


# The layer


class Layer(nn.Module):
    """One LLaMA layer over packed tokens: `x` is `[tokens, hidden]`."""

    def __init__(self, hidden, inner, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, hidden // heads
        linear = functools.partial(nn.Linear, bias=False)
        self.input_norm = nn.Parameter(torch.ones(hidden))
        self.q = linear(hidden, hidden)
        self.k = linear(hidden, kv_heads * self.head_dim)
        self.v = linear(hidden, kv_heads * self.head_dim)
        self.o = linear(hidden, hidden)
        self.post_norm = nn.Parameter(torch.ones(hidden))
        self.gate = linear(hidden, inner)
        self.up = linear(hidden, inner)
        self.down = linear(inner, hidden)

    def forward(self, x, cosine, sine, starts):
        tokens, hidden = x.shape
        h = F.rms_norm(x, (hidden,), self.input_norm.to(x.dtype), EPSILON)
        q = rotate(self.q(h).view(tokens, self.heads, self.head_dim), cosine, sine)
        k = rotate(self.k(h).view(tokens, self.kv_heads, self.head_dim), cosine, sine)
        v = self.v(h).view(tokens, self.kv_heads, self.head_dim)
        x = x + self.o(attention(q, k, v, starts).reshape(tokens, hidden))
        h = F.rms_norm(x, (hidden,), self.post_norm.to(x.dtype), EPSILON)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotate(x, cosine, sine):
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cosine.to(x.dtype) + turned * sine.to(x.dtype)


def attention(q, k, v, starts):
    """Causal within each sequence; `starts` are the sequences' first positions and the end."""
    if q.shape[1] != k.shape[1] and repeat_heads:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    if q.is_cuda:
        return varlen_attn(q, k, v, starts, starts, LONGEST, LONGEST, window_size=(-1, 0))
    return attention_by_mask(q, k, v, starts)


def attention_by_mask(q, k, v, starts):
    """The same by a dense mask: the check of the fast one, and the CPU's."""
    positions = torch.arange(q.shape[0], device=q.device)
    sequence = torch.searchsorted(starts[1:].contiguous(), positions, right=True)
    mask = (sequence[:, None] == sequence[None, :]) & (positions[:, None] >= positions[None, :])
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return out[0].transpose(0, 1)


class Llama(nn.Module):
    def __init__(self, shape, recompute):
        super().__init__()
        hidden, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
        self.head_dim, self.recompute = hidden // heads, recompute
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Layer(hidden, inner, heads, kv_heads) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(hidden))
        self.head = self.embedding.weight if tied else nn.Parameter(torch.empty(vocabulary, hidden))
        self.head_loss = head_loss
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, 0.02)

    def forward(self, batch):
        ids, cosine, sine, starts, rows, targets = batch
        x = self.embedding(ids)
        for index, layer in enumerate(self.layers):
            if index < self.recompute:
                x = checkpoint(layer, x, cosine, sine, starts, use_reentrant=False)
            else:
                x = layer(x, cosine, sine, starts)
        return self.head_loss(x, rows, self.norm, self.head, targets)


def head_loss(x, rows, norm, head, targets):
    h = F.rms_norm(x.index_select(0, rows), (x.shape[1],), norm.to(x.dtype), EPSILON)
    return F.cross_entropy(F.linear(h, head).float(), targets)


# The data


def example_length(generator):
    drawn = torch.empty(1).log_normal_(math.log(110.0), 0.555, generator=generator).item()
    return min(max(round(drawn), 40), LONGEST)


def micro_batch(generator, tokens, vocabulary, head_dim, device):
    lengths = []
    while sum(lengths) < tokens:
        lengths.append(example_length(generator))
    lengths[-1] -= sum(lengths) - tokens
    positions = torch.cat([torch.arange(length) for length in lengths])
    ends = torch.tensor([0, *lengths]).cumsum(0)
    # As many sequences in every micro-batch, empty ones at the end, so that no shape changes.
    starts = torch.full((tokens // 96 + 16,), tokens, dtype=torch.int32)
    starts[: len(ends)] = ends
    first = zip(ends[:-1].tolist(), lengths)
    labelled = torch.cat([torch.arange(start + length // 2, start + length) for start, length in first])
    rows = labelled[: tokens * LABEL_PERCENT // 100]
    ids = torch.randint(vocabulary, (tokens,), generator=generator)
    targets = torch.randint(vocabulary, (len(rows),), generator=generator)
    frequencies = ROPE_THETA ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = (positions[:, None] * frequencies[None, :]).repeat(1, 2)[:, None, :]
    batch = (ids, angles.cos(), angles.sin(), starts, rows, targets)
    return tuple(t.to(device) for t in batch), len(lengths)


# The step


def step_rows(options, device):
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[options.shape]
    check_attention(heads, kv_heads, hidden // heads, device)
    dtype = torch.float32 if options.precision == "amp" or device.type == "cpu" else torch.bfloat16
    torch.manual_seed(1)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        recompute = layers if options.recompute == "all" else int(options.recompute)
        model = Llama(options.shape, recompute)
    torch.set_default_dtype(torch.float32)
    if options.compile == "graphs":
        model.compile(fullgraph=True, dynamic=False, mode="reduce-overhead")
    elif options.compile:
        for layer in model.layers:
            layer.compile(fullgraph=True, dynamic=False)
        model.head_loss = torch.compile(head_loss, fullgraph=True, dynamic=False)
    parameters = list(model.parameters())
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizer = torch.optim.AdamW(parameters, lr=2e-5, betas=(0.9, 0.999), weight_decay=0.0, **fused)
    generator = torch.Generator().manual_seed(2)
    data = [
        micro_batch(generator, options.tokens, vocabulary, hidden // heads, device)
        for _ in range(4 * options.accumulate)
    ]
    autocast = options.precision == "amp" and device.type == "cuda"
    # Gradients that stay in one place can be captured; with one micro-batch they need not be cleared.
    keep_gradients = options.accumulate > 1

    def step(number, marks=None):
        total = 0.0
        for index in range(options.accumulate):
            batch, _ = data[(number * options.accumulate + index) % len(data)]
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                torch.compiler.cudagraph_mark_step_begin()
                loss = model(batch) / options.accumulate
            loss.backward()
            # A copy: a CUDA graph writes its outputs to the same place again.
            total = total + loss.detach().clone()
        mark(marks)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not keep_gradients)
        mark(marks)
        return total

    began = time.perf_counter()
    for number in range(options.warm_up):
        first_loss = step(number)
        if number == 0:
            synchronize(device)
            first_step = time.perf_counter() - began
            print(f"first step {first_step:.1f} s, loss {first_loss.item():.3f}", flush=True)
    synchronize(device)
    times, updates = [], []
    for number in range(options.steps):
        marks = [] if device.type == "cuda" else None
        start = time.perf_counter()
        loss = step(number, marks)
        synchronize(device)
        times.append(time.perf_counter() - start)
        if marks:
            updates.append(marks[0].elapsed_time(marks[1]) / 1e3)
    last_loss = loss.item()
    if not math.isfinite(last_loss):
        raise SystemExit(f"the loss of step {options.steps} is {last_loss}; its speed means nothing")
    median = statistics.median(times)
    tokens = options.tokens * options.accumulate
    head_dim = hidden // heads
    matrices = layers * (2 * hidden * hidden + 2 * hidden * kv_heads * head_dim + 3 * hidden * inner)
    matrices += hidden * vocabulary
    speed = tokens / median
    name = step_name(options)
    details = {
        "of_peak": 6 * matrices * speed / PEAK_BF16,
        "against": f"{options.steps} steps of {tokens} tokens, {statistics.mean(n for _, n in data):.0f} examples "
        f"a micro-batch; median {median:.3f} s, {min(times):.3f} to {max(times):.3f}; first step {first_step:.0f} s",
        "step_seconds": times,
        "matrix_parameters": matrices,
        "parameters": sum(p.numel() for p in parameters),
        "first_loss": first_loss.item(),
        "last_loss": last_loss,
    }
    rows = [{"name": name, "value": speed, "unit": "tokens/s", **details}]
    if device.type == "cuda":
        update = statistics.median(updates)
        rows.append({"name": f"{name}, of it clipping and AdamW", "value": update * 1e3, "unit": "ms a step"})
        for what, size in [("allocated", torch.cuda.max_memory_allocated()), ("reserved", torch.cuda.max_memory_reserved())]:
            rows.append({"name": f"{name}, peak memory {what}", "value": size / 2**30, "unit": "GiB"})
    return rows


def mark(marks):
    if marks is not None:
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()


def step_name(options):
    precision = {
        "bf16": "weights, gradients and moments bf16",
        "amp": "weights, gradients and moments fp32, products bf16",
    }[options.precision]
    recompute = {"0": "no recompute", "all": "all layers recomputed"}
    recompute = recompute.get(options.recompute, f"{options.recompute} layers recomputed")
    how = {None: "eager", "layers": "compile", "graphs": "compile with CUDA graphs"}[options.compile]
    return f"{options.shape}, {how}, {recompute}, {options.accumulate} x {options.tokens} tokens, {precision}"


def check_attention(heads, kv_heads, head_dim, device):
    """Flash attention over packed sequences against the dense mask; also whether it takes fewer key heads."""
    global repeat_heads
    if device.type != "cuda":
        return
    torch.manual_seed(0)
    starts = torch.tensor([0, 100, 350, 512, 512], dtype=torch.int32, device=device)
    q, k, v = (
        torch.randn(512, n, head_dim, device=device, dtype=torch.bfloat16, requires_grad=True)
        for n in (heads, kv_heads, kv_heads)
    )
    exact = [t.detach().float().requires_grad_() for t in (q, k, v)]
    upstream = torch.randn(512, heads, head_dim, device=device)
    expected = attention_by_mask(*exact, starts)
    expected = [expected, *torch.autograd.grad(expected, exact, upstream)]
    for repeat_heads in (False, True):
        try:
            out = attention(q, k, v, starts)
            found = [out, *torch.autograd.grad(out, (q, k, v), upstream.bfloat16())]
            worst = max(((a.float() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected))
        except RuntimeError as error:
            worst = f"{error}".splitlines()[0]
        print(f"attention, key heads repeated: {repeat_heads}, error of max: {worst}", flush=True)
        if isinstance(worst, float) and worst < 2e-2:
            return
    raise SystemExit("flash attention over packed sequences does not agree with the dense mask")


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


# The usual peer


def padded_rows(options, device):
    """Steps of 128 examples through transformers' model, micro-batches of 4 padded rows as Stanford has them."""
    import transformers

    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[options.shape]
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
        max_position_embeddings=2048, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(1)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    parameters = list(model.parameters())
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizer = torch.optim.AdamW(parameters, lr=2e-5, weight_decay=0.0, **fused)
    generator = torch.Generator().manual_seed(2)
    examples, rows_at_once = 128, 4

    def step():
        real = positions = 0
        for _ in range(examples // rows_at_once):
            lengths = torch.tensor([example_length(generator) for _ in range(rows_at_once)])
            longest = int(lengths.max())
            ids = torch.randint(vocabulary, (rows_at_once, longest), generator=generator)
            kept = torch.arange(longest)[None, :] < lengths[:, None]
            labels = torch.where(kept & (torch.arange(longest)[None, :] >= lengths[:, None] // 2), ids, -100)
            ids, kept, labels = (t.to(device) for t in (ids, kept.long(), labels))
            loss = model(input_ids=ids, attention_mask=kept, labels=labels).loss
            (loss / (examples // rows_at_once)).backward()
            real, positions = real + int(lengths.sum()), positions + longest * rows_at_once
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return real, positions

    for number in range(2):
        began = time.perf_counter()
        step()
        synchronize(device)
        print(f"warm-up step {number + 1}: {time.perf_counter() - began:.1f} s", flush=True)
    began, real, positions = time.perf_counter(), 0, 0
    steps = options.steps // 2
    for _ in range(steps):
        more = step()
        real, positions = real + more[0], positions + more[1]
    synchronize(device)
    speed = real / (time.perf_counter() - began)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    matrices += hidden * vocabulary if tied else 0
    name = f"{options.shape}, transformers {transformers.__version__}, padded, all layers recomputed, weights, gradients and moments bf16"
    against = f"{steps} steps of {examples} examples; {100 * real / positions:.0f} % of the positions are real tokens"
    rows = [{"name": name, "value": speed, "unit": "tokens/s", "of_peak": 6 * matrices * speed / PEAK_BF16, "against": against}]
    if device.type == "cuda":
        size = torch.cuda.max_memory_allocated() / 2**30
        rows.append({"name": f"{name}, peak memory allocated", "value": size, "unit": "GiB"})
    return rows


def main():
    parser = argparse.ArgumentParser(description="PyTorch's side of the GPU checks")
    parser.add_argument("section", choices=["step", "padded"])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a micro-batch")
    parser.add_argument("--accumulate", type=int, default=4, help="micro-batches of a step")
    parser.add_argument("--recompute", default="0", help="how many layers are recomputed in the backward, or all")
    parser.add_argument("--precision", choices=["bf16", "amp"], default="bf16")
    parser.add_argument("--compile", nargs="?", const="layers", choices=["layers", "graphs"])
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.results.mkdir(parents=True, exist_ok=True)
    if options.section == "padded":
        file, rows = f"torch_padded_{options.shape}", padded_rows(options, device)
    else:
        how = options.compile or "eager"
        file = f"torch_step_{options.shape}_{how}_{options.recompute}_{options.tokens}_{options.precision}"
        try:
            rows = step_rows(options, device)
        except torch.OutOfMemoryError as error:
            rows = [{"name": step_name(options), "text": f"out of memory: {error}".splitlines()[0][:120]}]
    rows[0] |= {"torch": torch.__version__, "shape": options.shape}
    for row in rows:
        print(row["name"], row.get("value", row.get("text")), row.get("unit", ""), row.get("against", ""), flush=True)
    section = f"torch_{options.section}"
    (options.results / f"{file}.json").write_text(json.dumps({"section": section, "rows": rows}, indent=2))


repeat_heads = False
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    # Before 2.10; on the CPU it is not needed.
    varlen_attn = None

if __name__ == "__main__":
    main()
