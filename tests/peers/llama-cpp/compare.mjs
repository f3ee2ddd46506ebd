// Runs llama.cpp and Pacos in turn and prints their ratios: node compare.mjs PACOS_BENCH MODEL.gguf [ROUNDS]
import {spawn} from "node:child_process";
import {loadavg} from "node:os";
import process from "node:process";
import {fileURLToPath} from "node:url";

const [bench, model, rounds = "5"] = process.argv.slice(2);
const peer = fileURLToPath(new URL("peer.mjs", import.meta.url));
const sides = {
    pacos: (what) => [bench, [what, model]],
    "llama.cpp": (what) => [process.execPath, [peer, what, model]]
};
const rows = [
    ["one", "greedy decode, one stream, 128 tokens", "tokens/s", 1],
    ["many", "32 requests of 64 tokens, total", "tokens/s", 3],
    ["prompt", "prompt of 512 tokens", "tokens/s", 1],
    ["first", "process start to first token", "ms", 1]
];

// The number that a side prints, or for "first" the milliseconds until it prints anything.
function run([program, args], what) {
    return new Promise((resolve, reject) => {
        const start = performance.now();
        const child = spawn(program, args, {stdio: ["ignore", "pipe", "inherit"]});
        let first;
        let text = "";
        child.stdout.on("data", (data) => {
            first ??= performance.now() - start;
            text += data;
        });
        child.on("error", reject);
        child.on("close", (code) => {
            if (code !== 0) reject(new Error(`${program} ${args.join(" ")} ended with ${code}`));
            else resolve(what === "first" ? first : Number(text));
        });
    });
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const load = [];
const table = [];
for (const [what, title, unit, goal] of rows) {
    const found = {pacos: [], "llama.cpp": []};
    for (let round = 0; round < Number(rounds); round++) {
        // Who goes first changes, so that a neighbour's work falls on both.
        const order = Object.keys(sides);
        if (round % 2) order.reverse();
        for (const side of order) found[side].push(await run(sides[side](what), what));
        load.push(loadavg()[0]);
    }
    const faster = (a, b) => unit === "ms" ? b / a : a / b;
    const ratios = found.pacos.map((ours, i) => faster(ours, found["llama.cpp"][i]));
    table.push({
        what: title,
        pacos: `${median(found.pacos).toFixed(0)} ${unit}`,
        "llama.cpp": `${median(found["llama.cpp"]).toFixed(0)} ${unit}`,
        ratio: median(ratios).toFixed(2),
        "lowest..highest": `${Math.min(...ratios).toFixed(2)}..${Math.max(...ratios).toFixed(2)}`,
        goal: goal.toFixed(1)
    });
}
console.table(table);
console.log(`${rounds} rounds in turn, 2 threads a side; above 1 Pacos is faster; load average ${Math.min(...load).toFixed(1)} to ${Math.max(...load).toFixed(1)}`);
