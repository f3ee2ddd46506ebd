"""Losses of 50 AdamW steps by PyTorch and transformers, for the test of the trainer.

Makes the tiny model and the rows of host/engine/src/trainer/testing.rs from the same SplitMix64 numbers,
trains them on padded batches, one optimizer step over all rows at a time, and prints the numbers
that host/engine/src/trainer/train/tests.rs holds. Run by hand, where torch and transformers are installed:

    python tests/peers/train_reference.py
"""

import math

import torch
import transformers

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 61, 24, 40, 2, 4, 2, 6
STEPS, WARMUP_RATIO, LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 50, 0.1, 3e-3, 0.01, 1.0
ROWS, WEIGHT_SEED, ROW_SEED = 12, 11, 12
SHOWN = [1, 2, 3, 5, 10, 15, 20, 30, 40, 50]
MASK = (1 << 64) - 1


class SplitMix64:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, limit):
        return self.next() % limit

    def symmetric(self):
        return (self.next() >> 39) / (1 << 24) - 1.0


def names(tied):
    yield "model.embed_tokens.weight"
    for layer in range(LAYERS):
        for part in (
            "input_layernorm",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "post_attention_layernorm",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ):
            yield f"model.layers.{layer}.{part}.weight"
    yield "model.norm.weight"
    if not tied:
        yield "lm_head.weight"


def make_model(tied):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config).float().train()
    random = SplitMix64(WEIGHT_SEED)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in names(tied):
            parameter = parameters.pop(name)
            values = torch.tensor([random.symmetric() for _ in range(parameter.numel())])
            values = 1.0 + 0.125 * values if parameter.dim() == 1 else 0.25 * values
            parameter.copy_(values.reshape(parameter.shape))
    assert not parameters, parameters.keys()
    return model


def make_rows():
    random = SplitMix64(ROW_SEED)
    rows = []
    for _ in range(ROWS):
        length = 4 + random.below(20)
        ids = [random.below(VOCAB) for _ in range(length)]
        rows.append((ids, [token if i > length // 3 else -100 for i, token in enumerate(ids)]))
    return rows


def train(tied):
    model = make_model(tied)
    rows = make_rows()
    longest = max(len(ids) for ids, _ in rows)
    pad = lambda values, fill: values + [fill] * (longest - len(values))
    ids = torch.tensor([pad(ids, 0) for ids, _ in rows])
    labels = torch.tensor([pad(labels, -100) for _, labels in rows])
    attention = torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows])
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": norms, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    schedule = transformers.get_cosine_schedule_with_warmup(
        optimizer, math.ceil(WARMUP_RATIO * STEPS), STEPS
    )
    print(f"tied = {tied}: step, loss, norm of the gradient")
    for step in range(1, STEPS + 1):
        logits = model(input_ids=ids, attention_mask=attention).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        if step in SHOWN:
            print(f"        ({step}, {loss.item():.7}, {norm.item():.7}),")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("torch", torch.__version__, "transformers", transformers.__version__)
    for tied in (True, False):
        train(tied)
