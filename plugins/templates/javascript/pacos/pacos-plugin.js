// Carries a plugin: its output, and what nobody caught, in the host's log.
import { write } from 'pacos:plugin/log@0.1.1';

// There is no console; what goes to it is for the one who runs the plugin.
for (const level of ['debug', 'info', 'warn', 'error']) {
  console[level] = (...values) => write(level, values.join(' '));
}
console.log = console.info;

/** An error of the contract: throw it to end a call with it. */
export class PluginError extends Error {
  constructor(code, message, retryable = false) {
    super(message);
    this.payload = { code, message, retryable };
  }
}

/** The same functions; what leaves one of them is logged before it ends the plugin. */
export function plugin(functions) {
  const entries = Object.entries(functions).map(([name, call]) => [
    name,
    (...values) => {
      try {
        return call(...values);
      } catch (error) {
        // What has a payload is the contract's `error`, and no accident.
        if (error?.payload === undefined) {
          write('error', `${error}\n${error?.stack ?? ''}`);
        }
        throw error;
      }
    },
  ]);
  const served = Object.fromEntries(entries);
  const configure = served.configure;
  served.configure = (text) =>
    isTable(text)
      ? configure(text)
      : [{ severity: 'error', path: '', message: 'expected a table' }];
  return served;
}

/** Whether a configuration can be one: the text of a JSON object. */
function isTable(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
