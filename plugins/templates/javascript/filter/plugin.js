// A filter that drops answers too short to teach anything.
import { plugin } from '../pacos/pacos-plugin.js';

const configSchema = {
  type: 'object',
  properties: {
    words: {
      type: 'integer',
      minimum: 1,
      default: 3,
      description: 'Fewest words that an answer may have.',
    },
  },
  additionalProperties: false,
};

// The plugin's own table of the manifest, once `configure` has read it.
let config;

export const filter = plugin({
  describe() {
    return {
      name: 'my-plugin',
      version: '0.1.0',
      capabilities: [],
      configSchema: JSON.stringify(configSchema),
      stateful: false,
      batchLimit: 0,
    };
  },

  configure(text) {
    const { words = 3, ...unknown } = JSON.parse(text);
    const problems = Object.keys(unknown).map((key) =>
      problem(key, `unknown key \`${key}\`, expected \`words\``),
    );
    if (!Number.isInteger(words)) {
      problems.push(problem('words', 'expected a whole number', 'words = 3'));
    } else if (words < 1) {
      problems.push(problem('words', `${words} words would keep everything`, 'words = 3'));
    }
    config = { words };
    return problems;
  },

  start(seeds) {},

  restore(history) {},

  judge(batch) {
    return batch.map(verdict);
  },
});

function verdict({ payload }) {
  const words = answer(payload).split(/\s+/).filter(Boolean).length;
  const short = words < config.words;
  return {
    decision: { tag: short ? 'drop' : 'keep' },
    code: short ? 'answer-too-short' : 'kept',
    message: short ? `${words} of ${config.words} words` : '',
    scores: [{ name: 'words', value: words }],
  };
}

/** What the model is to learn to say. */
function answer(payload) {
  if (payload.tag === 'task') {
    return payload.val.output;
  }
  return payload.val.findLast((message) => message.role === 'assistant')?.content ?? '';
}

function problem(path, message, help) {
  return { severity: 'error', path, message, help };
}
