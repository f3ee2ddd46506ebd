"""Whether transformers and llama.cpp answer from what Pacos exports as Pacos does.

Converts a model, the embedded one unless another is named, to a Hugging Face folder (f32) and to GGUF files (f32, f16), asks each of them
greedily in Pacos and in the peer, and prints whether the words are the same. Run by hand:

    python tests/peers/exported_models.py PACOS [MODEL]

PACOS is the built command. Needs torch and transformers in this Python, and node-llama-cpp below
tests/peers/llama-cpp, which tests/peers/inference or `npm install` there installs. Ends with 1 where an answer
differs or a peer is missing.
"""

import contextlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

TOKENS = 48
LLAMA_CPP = pathlib.Path(__file__).with_name("llama-cpp")
PROMPTS = {
    "a text": {"text": "The three longest rivers of Europe are"},
    "figures, accents, line breaks": {"text": "Prix du café à Zürich, 2019:\n\t1 Tasse = 4,50 CHF\n\t12 Tassen ="},
    "a conversation": {
        "messages": [
            {"role": "system", "content": "You answer in one or two sentences."},
            {"role": "user", "content": "Name a river."},
            {"role": "assistant", "content": "The Danube."},
            {"role": "user", "content": "Which countries does it pass?"},
        ]
    },
}


@contextlib.contextmanager
def serving(pacos, model):
    """The address of a server of this model."""
    server = subprocess.Popen(
        [pacos, "serve", "--port", "0", "--name", "exported", model], stdout=subprocess.PIPE, text=True
    )
    try:
        line = server.stdout.readline()
        if " at " not in line:
            raise SystemExit(f"`pacos serve {model}` did not say where it listens, but {line!r}")
        yield line.split(" at ")[1].split()[0]
    finally:
        server.terminate()
        server.wait()


def ours(pacos, model):
    answers = {}
    with serving(pacos, model) as address:
        for kind, prompt in PROMPTS.items():
            chat = "messages" in prompt
            body = {"prompt": prompt.get("text"), "messages": prompt.get("messages")}
            body = {key: value for key, value in body.items() if value}
            body |= {"temperature": 0, "max_tokens": TOKENS}
            request = urllib.request.Request(
                address + ("/chat/completions" if chat else "/completions"),
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
                choice = json.load(response)["choices"][0]
            answers[kind] = choice["message"]["content"] if chat else choice["text"]
    return answers


def of_transformers(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = {}
    for kind, prompt in PROMPTS.items():
        if "messages" in prompt:
            inputs = tokenizer.apply_chat_template(
                prompt["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            inputs = tokenizer(prompt["text"], return_tensors="pt")
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        answers[kind] = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def of_llama_cpp(file):
    ran = subprocess.run(
        ["node", LLAMA_CPP / "answers.mjs", file, str(TOKENS)],
        input=json.dumps(PROMPTS),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


def missing():
    """What has to be installed before there is anything to compare with."""
    modules = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    node = [] if (LLAMA_CPP / "node_modules" / "node-llama-cpp").is_dir() else ["node-llama-cpp"]
    return modules + node


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    if absent := missing():
        raise SystemExit(f"nothing was compared: {', '.join(absent)} not installed")
    pacos, source = (sys.argv[1:] + ["embedded:smollm2-135m-instruct"])[:2]
    different = 0
    with tempfile.TemporaryDirectory() as place:
        for name, kind, peer, answer in [
            ("folder", "f32", "transformers", of_transformers),
            ("f32.gguf", "f32", "llama.cpp", of_llama_cpp),
            ("f16.gguf", "f16", "llama.cpp", of_llama_cpp),
        ]:
            model = str(pathlib.Path(place, name))
            subprocess.run([pacos, "convert", source, model, "--type", kind], check=True, stdout=subprocess.DEVNULL)
            expected, found = ours(pacos, model), answer(model)
            for prompt in PROMPTS:
                same = expected[prompt] == found[prompt]
                different += not same
                print(f"{name:9} {peer:13} {prompt:30} {'the same words' if same else 'OTHER WORDS'}")
                for who, words in [("pacos", expected[prompt])] + ([] if same else [(peer, found[prompt])]):
                    print(f"{'':9} {who:13} {words!r}")
    print(f"{different} of {3 * len(PROMPTS)} answers differ, {TOKENS} tokens at most each")
    raise SystemExit(1 if different else 0)


main()
