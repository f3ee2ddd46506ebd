// An evaluator that shows the judge two answers in both orders and asks which is better.
import { completeMany } from 'pacos:plugin/models@0.1.1';
import { PluginError, plugin } from '../pacos/pacos-plugin.js';

// The role that is asked. Its capability is declared in `describe`; the recipe grants it.
const ROLE = 'judge';

const configSchema = {
  type: 'object',
  properties: {
    first: {
      type: 'string',
      default: 'student',
      description: 'The model whose wins are counted.',
    },
    second: {
      type: 'string',
      default: 'student.base',
      description: 'The model that it is compared with.',
    },
  },
  additionalProperties: false,
};

const POINTS = { first: 1, tie: 0.5, second: 0 };
const SWAPPED = { first: 'second', second: 'first' };
const VERDICTS = { A: 'first', B: 'second', TIE: 'tie' };

const decided = (outcome) => outcome in POINTS;

// The plugin's own table of the manifest, once `configure` has read it.
let config;

export const evaluator = plugin({
  describe() {
    return {
      name: 'my-plugin',
      version: '0.1.0',
      capabilities: ['models:judge'],
      configSchema: JSON.stringify(configSchema),
      stateful: false,
      batchLimit: 0,
    };
  },

  configure(text) {
    const { first = 'student', second = 'student.base', ...unknown } = JSON.parse(text);
    const problems = Object.keys(unknown).map((key) =>
      problem(key, `unknown key \`${key}\`, expected \`first\` or \`second\``),
    );
    for (const [key, value] of Object.entries({ first, second })) {
      if (typeof value !== 'string') {
        problems.push(problem(key, 'expected the name of a model'));
      }
    }
    if (first === second) {
      const message = 'expected another model than `first`';
      problems.push(problem('second', message, 'second = "student.base"'));
    }
    config = { first, second };
    return problems;
  },

  judge(item) {
    const first = answer(item, config.first);
    const second = answer(item, config.second);
    const replies = completeMany(ROLE, [
      question(item.task, first, second),
      question(item.task, second, first),
    ]);
    const [asAsked, shownTurned] = replies.map(read);
    const turned = SWAPPED[shownTurned] ?? shownTurned;
    const votes = [asAsked, turned].filter((outcome) => outcome === 'first').length;
    return [
      {
        item: item.index,
        first: config.first,
        second: config.second,
        outcome: together(asAsked, turned),
        flipped: asAsked !== turned && decided(asAsked) && decided(turned),
        scores: [{ name: 'votes', value: votes }],
        attributes: [],
      },
    ];
  },

  summarise(judgements) {
    const points = judgements
      .filter(({ outcome }) => decided(outcome))
      .map(({ outcome }) => POINTS[outcome]);
    if (points.length === 0) {
      return [];
    }
    const sum = points.reduce((sum, one) => sum + one, 0);
    return [
      {
        name: 'win_rate',
        value: (100 * sum) / points.length,
        n: BigInt(points.length),
        attributes: [
          { name: 'first', value: config.first },
          { name: 'second', value: config.second },
        ],
      },
    ];
  },
});

function answer(item, model) {
  const found = item.answers.find((given) => given.model === model);
  if (!found) {
    const names = item.answers.map((given) => given.model).join(', ');
    throw new PluginError('no-such-answer', `no answer of \`${model}\`; there are: ${names}`);
  }
  return found.text;
}

function question(task, a, b) {
  const content =
    'Which of two answers to this task is better? Reply with one word: A, B or TIE.\n\n' +
    `Task: ${task.instruction}\n${task.input}\n\nAnswer A: ${a}\n\nAnswer B: ${b}`;
  return {
    prompt: { tag: 'chat', val: [{ role: 'user', content }] },
    temperature: 0,
    maxTokens: 8,
    stop: [],
    logitBias: [],
  };
}

/** Who won, as far as the judge says; `first` is the answer that was shown as A. */
function read({ tag, val }) {
  if (tag === 'ok') {
    return VERDICTS[val.text.trim().replace(/\.+$/, '')] ?? 'unparsed';
  }
  if (val.code === 'request-refused') {
    return 'refused';
  }
  throw new PluginError(val.code, val.message, val.retryable);
}

/** Who wins in one order only has not won. */
function together(one, other) {
  for (const outcome of ['refused', 'unparsed']) {
    if (one === outcome || other === outcome) {
      return outcome;
    }
  }
  return one === other ? one : 'tie';
}

function problem(path, message, help) {
  return { severity: 'error', path, message, help };
}
