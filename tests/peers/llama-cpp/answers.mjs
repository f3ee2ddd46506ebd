// llama.cpp's side of `exported_models.py`: node answers.mjs MODEL.gguf TOKENS
// Reads prompts, {"kind": {"text"} or {"messages"}}, from standard input and writes {"kind": "answer"}, each greedy.
import {readFileSync} from "node:fs";
import process from "node:process";
import {getLlama, JinjaTemplateChatWrapper, LlamaLogLevel} from "node-llama-cpp";

const [modelPath, most] = process.argv.slice(2);
const prompts = JSON.parse(readFileSync(0, "utf8"));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 2, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 1024, batchSize: 512, threads: 2});
const sequence = context.getSequence();

// The conversation as the file's own chat template lays it out, up to where the answer begins.
function laidOut(messages) {
    const wrapper = new JinjaTemplateChatWrapper({
        template: model.fileInfo.metadata.tokenizer.chat_template,
        tokenizer: model.tokenizer
    });
    const chatHistory = messages.map(({role, content}) => role === "assistant"
        ? {type: "model", response: [content]}
        : {type: role, text: content});
    chatHistory.push({type: "model", response: []});
    return wrapper.generateContextState({chatHistory}).contextText.tokenize(model.tokenizer);
}

const answers = {};
for (const [kind, {text, messages}] of Object.entries(prompts)) {
    const tokens = messages ? laidOut(messages) : model.tokenize(text, true);
    const written = [];
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(tokens, {temperature: 0})) {
        written.push(token);
        if (written.length === Number(most)) break;
    }
    answers[kind] = model.detokenize(written);
}
process.stdout.write(JSON.stringify(answers));
process.exit(0);
