// A generator that shows the teacher one seed task and asks for another of its kind.
import { complete } from 'pacos:plugin/models@0.1.1';
import { PluginError, plugin } from '../pacos/pacos-plugin.js';

// The role that is asked. Its capability is declared in `describe`; the recipe grants it.
const ROLE = 'teacher';

const configSchema = {
  type: 'object',
  properties: {
    temperature: {
      type: 'number',
      minimum: 0,
      maximum: 2,
      default: 0.7,
      description: 'How far the teacher may stray, from 0 to 2.',
    },
    max_tokens: {
      type: 'integer',
      minimum: 1,
      default: 512,
      description: 'Longest reply, in tokens.',
    },
  },
  additionalProperties: false,
};

// The plugin's own table of the manifest, once `configure` has read it.
let config;
let seeds = [];

export const generator = plugin({
  describe() {
    return {
      name: 'my-plugin',
      version: '0.1.0',
      capabilities: ['models:teacher'],
      configSchema: JSON.stringify(configSchema),
      stateful: false,
      batchLimit: 0,
    };
  },

  configure(text) {
    const { temperature = 0.7, max_tokens = 512, ...unknown } = JSON.parse(text);
    const problems = Object.keys(unknown).map((key) =>
      problem(key, `unknown key \`${key}\`, expected \`temperature\` or \`max_tokens\``),
    );
    if (!(typeof temperature === 'number' && temperature >= 0 && temperature <= 2)) {
      problems.push(
        problem('temperature', 'expected a number from 0 to 2', 'temperature = 0.7'),
      );
    }
    if (!(Number.isInteger(max_tokens) && max_tokens >= 1)) {
      problems.push(problem('max_tokens', 'expected a number of tokens', 'max_tokens = 512'));
    }
    config = { temperature, max_tokens };
    return problems;
  },

  start(tasks) {
    if (tasks.length === 0) {
      throw new PluginError('no-seeds', 'expected at least one seed task');
    }
    seeds = tasks;
  },

  generate(unit) {
    // The unit's seed is all the randomness there is, so that the unit can be done again.
    const line = Number(unit.seed % BigInt(seeds.length));
    const reply = complete(ROLE, {
      prompt: { tag: 'chat', val: [{ role: 'user', content: prompt(seeds[line]) }] },
      temperature: config.temperature,
      maxTokens: config.max_tokens,
      stop: [],
      logitBias: [],
    });
    const place = { ordinal: 0, start: 0, end: new TextEncoder().encode(reply.text).length };
    const { task, reject } = read(reply);
    if (reject) {
      return { candidates: [], rejects: [{ ...reject, place }] };
    }
    const parents = [{ tag: 'seed', val: line }];
    const payload = { tag: 'task', val: task };
    return { candidates: [{ payload, attributes: [], parents, place }], rejects: [] };
  },
});

function prompt(seed) {
  return (
    'Write one more task of this kind, about something else. Begin each part with its name, ' +
    'as here, and leave the input empty where none is needed.\n\n' +
    `Instruction: ${seed.instruction}\nInput: ${seed.input}\nOutput: ${seed.output}`
  );
}

/** The task in a reply, or why there is none. */
function read(reply) {
  if (reply.finishReason === 'length') {
    return { reject: { code: 'cut-off', message: 'the reply ends at its token limit' } };
  }
  const parts = reply.text.match(/Instruction:(.*?)Input:(.*?)Output:(.*)/s);
  if (!parts) {
    const message = 'expected `Instruction:`, `Input:` and `Output:` in this order';
    return { reject: { code: 'not-a-task', message } };
  }
  const [instruction, input, output] = parts.slice(1).map((part) => part.trim());
  if (!instruction || !output) {
    const message = 'the instruction or the output is empty';
    return { reject: { code: 'empty-field', message } };
  }
  return { task: { instruction, input, output } };
}

function problem(path, message, help) {
  return { severity: 'error', path, message, help };
}
