/**
 * The state-of-the-world way of streaming secrets: each request names everything that is wanted, each response holds all of
 * it that there is. What is not there is left out and follows when it comes; how it is sent is `conversation.ts`.
 */
import { createHash } from 'node:crypto';
import { checkNames, createNonces, type Dialect, type Said, type Secret } from './dialect.ts';
import type { Selection } from './names.ts';

export interface SecretRequest {
  /** In any order, with repeats. */
  readonly names: readonly string[];
  readonly nonce: string;
  /** The client's words, cut short, when it could not use what it was sent. */
  readonly rejected: string | undefined;
}

export function createStateOfTheWorld(): Dialect<SecretRequest> {
  const nonces = createNonces();
  let selection: Selection | undefined;
  let nonce = '';
  /** The names asked for have not been answered yet. */
  let due = false;
  let sent: readonly Secret[] = [];

  return {
    get selection() {
      return selection;
    },
    take(request) {
      // Written before our last response was read; its answer will come.
      if (nonce !== '' && request.nonce !== nonce) return undefined;
      const names = new Set(request.names.filter((name) => name !== ''));
      checkNames(names.size);
      const before = selection;
      // No names at first ask for everything, and later for nothing.
      selection = { everything: names.size === 0 && before?.everything !== false, names };
      if (before === undefined || !sameSelection(before, selection)) due = true;
      return nonce === '' ? undefined : request.rejected;
    },
    say(secrets): Said | undefined {
      if (selection === undefined) return undefined;
      const there = [...secrets.values()].filter((secret) => secret !== 'pending');
      // There is no way to say that there is nothing: Envoy takes an empty response for a mistake.
      if (there.length === 0) return undefined;
      if (!due && sameContent(there, sent)) return undefined;
      due = false;
      sent = there;
      nonce = nonces.next();
      return { version: versionOf(there), nonce, secrets: there, removed: [] };
    },
  };
}

/** Of several secrets together; that of a single one is its own. */
export function versionOf(secrets: readonly Secret[]): string {
  const [first, ...others] = secrets;
  if (first !== undefined && others.length === 0) return first.version;
  const hash = createHash('sha256');
  for (const line of secrets.map(({ name, version }) => JSON.stringify([name, version])).toSorted()) hash.update(`${line}\n`);
  return hash.digest('hex').slice(0, 32);
}

function sameContent(a: readonly Secret[], b: readonly Secret[]): boolean {
  if (a.length !== b.length) return false;
  const versions = new Map(b.map(({ name, version }) => [name, version]));
  return a.every(({ name, version }) => versions.get(name) === version);
}

function sameSelection(a: Selection, b: Selection): boolean {
  return a.everything === b.everything && a.names.size === b.names.size && [...a.names].every((name) => b.names.has(name));
}
