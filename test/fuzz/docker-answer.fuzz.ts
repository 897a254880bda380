/**
 * Any bytes as an engine's answer about a container: selectors that the answer says word by word, bounded and printable,
 * or a refusal; and none at all from an answer about another container.
 */
import { readContainer } from '../../agent/workload/attestors/docker-facts.ts';
import { expected } from './expected.ts';

export const name = 'docker-answer';

const id = 'c0'.repeat(32);

function answer(config: unknown, more: object = {}): Uint8Array {
  return Buffer.from(JSON.stringify({ Id: id, State: { Running: true, Pid: 7 }, Image: `sha256:${id}`, Config: config, ...more }));
}

export function corpus(): Uint8Array[] {
  return [
    answer({ Labels: { app: 'web', 'a:b': 'c:d', '': '' }, Env: ['STAGE=prod', 'A', ''], Image: 'registry.example:5000/web:1' }),
    answer({ Labels: { 'a\0': '\u2028', b: '\ufffd', c: '\ud800' }, Env: ['A=\nB'], Image: '\u001b[2J' }),
    answer({ Labels: { a: 1, b: null, c: {} }, Env: [{}, [], 7], Image: [] }),
    answer(JSON.parse('{"Labels":{"__proto__":"a","constructor":"b"},"Env":null}')),
    answer(null),
    answer({}, { State: { Running: false, Paused: true, Pid: 7 }, Image: id }),
    answer({}, { State: { Running: false, Pid: 0 } }),
    answer({}, { Id: 'c1'.repeat(32) }),
    Buffer.from('['.repeat(2000)),
  ];
}

export function run(input: Uint8Array): void {
  const body = Buffer.from(input);
  const facts = expected(() => readContainer(body, id));
  if (facts === undefined) return;
  const said = JSON.parse(body.toString()) as { readonly Id: unknown; readonly Image: unknown; readonly Config: Readonly<Record<string, object | null>> };
  if (said.Id !== id) throw new Error('selectors of another container');
  const texts = (values: readonly unknown[]): readonly string[] => values.filter((value) => typeof value === 'string');
  const possible = new Set([
    ...Object.entries(said.Config['Labels'] ?? {}).flatMap(([label, value]) => texts([value]).map((text) => `docker:label:${label}:${text}`)),
    ...texts(Object.values(said.Config['Env'] ?? {})).map((text) => `docker:env:${text}`),
    ...texts([said.Config['Image']]).map((text) => `docker:image_id:${text}`),
    ...texts([said.Image]).map((text) => `docker:image_config_digest:sha256:${text.replace('sha256:', '')}`),
  ]);
  for (const selector of facts.selectors) {
    if (!possible.has(selector)) throw new Error('a selector that the answer does not say');
    if (/[\p{Cc}\u2028\u2029\ufffd]/u.test(selector) || !selector.isWellFormed()) throw new Error('a selector that cannot be printed');
  }
  if (facts.selectors.length > 1024 || facts.weight > 262_144) throw new Error('more than is taken');
}
