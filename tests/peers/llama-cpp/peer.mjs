// llama.cpp's side of `compare.mjs`: node peer.mjs one|many|prompt|first MODEL.gguf
// Prints one number, tokens a second, or "first" as soon as the first token is there.
import process from "node:process";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const THREADS = 2;
const [what, modelPath] = process.argv.slice(2);
const llama = await getLlama({
    gpu: false,
    build: "never",
    maxThreads: THREADS,
    logLevel: LlamaLogLevel.error
});
const model = await llama.loadModel({modelPath});

// The same prompts as host/benches/decode.rs.
const tokens = (stream, count) => Array.from({length: count}, (_, i) => (stream * 101 + i * 37 + 1000) % 40000);

async function context(sequences) {
    return await model.createContext({
        sequences,
        contextSize: 1024,
        batchSize: 512,
        threads: THREADS
    });
}

// The end token is taken like any other, so that every stream has its length.
async function write(sequence, prompt, count, onToken = () => {}) {
    let written = 0;
    for await (const _ of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        onToken();
        if (++written === count) return;
    }
    throw new Error(`expected ${count} tokens, the stream ended after ${written}`);
}

async function many(sequences, count) {
    const ctx = await context(sequences);
    const streams = Array.from({length: sequences}, () => ctx.getSequence());
    const prompt = (stream) => tokens(stream, 16);
    // A first short round, so that memory is touched before the clock starts.
    await Promise.all(streams.map((sequence, i) => write(sequence, prompt(i), 2)));
    await Promise.all(streams.map((sequence) => sequence.clearHistory()));
    const start = performance.now();
    await Promise.all(streams.map((sequence, i) => write(sequence, prompt(i), count)));
    return sequences * count * 1000 / (performance.now() - start);
}

switch (what) {
    case "one":
        console.log(await many(1, 128));
        break;
    case "many":
        console.log(await many(32, 64));
        break;
    case "prompt": {
        const ctx = await context(1);
        const sequence = ctx.getSequence();
        await sequence.evaluateWithoutGeneratingNewTokens(tokens(7, 512));
        await sequence.clearHistory();
        const start = performance.now();
        await sequence.evaluateWithoutGeneratingNewTokens(tokens(0, 512));
        console.log(512000 / (performance.now() - start));
        break;
    }
    case "first": {
        const ctx = await context(1);
        await write(ctx.getSequence(), tokens(0, 16), 1, () => console.log("first"));
        break;
    }
    default:
        throw new Error(`expected one, many, prompt or first, found ${what}`);
}
process.exit(0);
