/**
 * What a container engine's answer about one container says, as selectors written as SPIRE's `docker` attestor writes
 * them. The answer's strings were chosen by whoever started the container, so all of it is bounded; asking is `docker-engine.ts`.
 */
import { SpiffeError } from '../../../spiffe/errors.ts';
import { composeSelector } from '../../../spiffe/selector.ts';
import type { Selector } from '../../../spiffe/selector.ts';

export interface ContainerFacts {
  readonly selectors: readonly Selector[];
  /** What could not become a selector, each reason once: `docker:label`, `docker:env`, … */
  readonly omitted: readonly { readonly what: string; readonly reason: string }[];
  /** Characters of all selectors. */
  readonly weight: number;
}

const MAX_SELECTORS = 1024;
const MAX_WEIGHT = 262_144;
const MAX_LENGTH = 8192;

/**
 * Labels, environment, the image as it was asked for, and the digest of the image that runs. The latter is the container's
 * own record: the name it was asked for by may stand for another image today.
 * @param id 64 lower-case hex digits, as the kernel tells them; the answer must be about this container
 * @throws invalid `docker.answer.form`; denied `docker.answer.other`, `docker.container.stopped`
 */
export function readContainer(body: Buffer, id: string): ContainerFacts {
  const answer = recordOf(parseJson(body));
  const state = recordOf(answer['State']);
  const config = recordOf(answer['Config']);
  if (answer['Id'] !== id) {
    throw new SpiffeError('denied', 'docker.answer.other', 'the engine answered about another container than it was asked for');
  }
  // A process that the engine knows nothing of is in a group that only looks like the container's.
  const isLive = state['Running'] === true || state['Paused'] === true;
  if (!isLive || !(Number(state['Pid']) > 0)) {
    throw new SpiffeError('denied', 'docker.container.stopped', 'the engine says that the container does not run');
  }
  const found = collect();
  for (const [label, value] of entriesOf(config['Labels'])) {
    found.add('label', typeof value === 'string' ? `${label}:${value}` : undefined);
  }
  for (const setting of listOf(config['Env'])) found.add('env', typeof setting === 'string' ? setting : undefined);
  if (config['Image'] !== '') found.add('image_id', typeof config['Image'] === 'string' ? config['Image'] : undefined);
  found.add('image_config_digest', digestOf(answer['Image']));
  return found.facts();
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8')) as unknown;
  } catch (error) {
    throw malformed(error);
  }
}

function malformed(cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'docker.answer.form', 'the answer of the engine is not of the known form', { cause });
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed();
  return value as Readonly<Record<string, unknown>>;
}

/** An engine written in Go says null for a map or a list without anything in it. */
function entriesOf(value: unknown): readonly (readonly [string, unknown])[] {
  return value === undefined || value === null ? [] : Object.entries(recordOf(value));
}

function listOf(value: unknown): readonly unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw malformed();
  return value;
}

function digestOf(image: unknown): string | undefined {
  const [, hex] = typeof image === 'string' ? (/^(?:sha256:)?([0-9a-f]{64})$/.exec(image) ?? []) : [];
  return hex === undefined ? undefined : `sha256:${hex}`;
}

interface Collected {
  /** `value` undefined: it is not of the type it should have. */
  add(kind: string, value: string | undefined): void;
  facts(): ContainerFacts;
}

function collect(): Collected {
  const selectors = new Set<Selector>();
  const omitted = new Map<string, { what: string; reason: string }>();
  let weight = 0;
  const omit = (what: string, reason: string): void => void omitted.set(`${what} ${reason}`, { what, reason });
  return {
    add(kind, value) {
      const fault = value === undefined ? 'docker.selector.form' : faultOf(value);
      if (fault !== undefined) {
        omit(`docker:${kind}`, fault);
        return;
      }
      const selector = composeSelector('docker', `${kind}:${value ?? ''}`);
      if (selectors.size >= MAX_SELECTORS || weight + selector.length > MAX_WEIGHT) {
        omit(`docker:${kind}`, 'docker.selector.too-many');
        return;
      }
      weight += selector.length;
      selectors.add(selector);
    },
    facts: () => Object.freeze({ selectors: [...selectors], omitted: [...omitted.values()], weight }),
  };
}

function faultOf(value: string): string | undefined {
  if (value.length > MAX_LENGTH) return 'docker.selector.too-long';
  // What was no UTF-8 shows as U+FFFD, in which different values look the same.
  if (!value.isWellFormed() || value.includes('\ufffd')) return 'docker.selector.encoding';
  return /[\p{Cc}\u2028\u2029]/u.test(value) ? 'docker.selector.control-character' : undefined;
}
