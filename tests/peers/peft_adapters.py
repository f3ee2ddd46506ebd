"""What the PEFT library makes of adapters that Pacos wrote.

Loads the base model with the adapters by PEFT, and the model that Pacos merged them into, and prints by how
much their logits differ for one prompt. Run by hand, where torch, transformers and peft are installed:

    pacos convert embedded:smollm2-135m-instruct base --type f32
    pacos train rows.jsonl --model base --dir trained --set trainer.lora.r=8
    python tests/peers/peft_adapters.py base trained/adapter trained/model
"""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "### Instruction:\nName three colours.\n\n### Response:"

base_folder, adapter_folder, merged_folder = sys.argv[1:]
ids = AutoTokenizer.from_pretrained(merged_folder)(PROMPT, return_tensors="pt").input_ids
base, merged = (
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (base_folder, merged_folder)
)
with torch.no_grad():
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, adapter_folder)(ids).logits
    ours = merged(ids).logits
print(f"adapters change the logits by up to {(plain - adapted).abs().max():.3f}")
print(f"PEFT's and the merged model's differ by up to {(adapted - ours).abs().max():.1e} of {adapted.abs().max():.1f}")
