/**
 * The incremental way of streaming secrets: names are subscribed to and unsubscribed from, each response holds what changed
 * and names what is gone. How it is sent is `conversation.ts`.
 */
import { checkNames, createNonces, type Dialect, type Said, type Secret } from './dialect.ts';

export interface DeltaRequest {
  readonly subscribe: readonly string[];
  readonly unsubscribe: readonly string[];
  /** What the client has kept from an earlier stream, in its first request. */
  readonly versions: ReadonlyMap<string, string>;
  readonly nonce: string;
  /** The client's words, cut short, when it could not use what it was sent. */
  readonly rejected: string | undefined;
}

const wildcard = '*';
/** Told of a name that nothing stands for. */
const nothing = Symbol('nothing');

export function createDelta(): Dialect<DeltaRequest> {
  const nonces = createNonces();
  const names = new Set<string>();
  /** What the client has, by name: a version, or the knowledge that there is nothing. */
  const known = new Map<string, string | typeof nothing>();
  let everything = false;
  let nonce = '';
  let begun = false;

  const begin = ({ subscribe, versions }: DeltaRequest): void => {
    begun = true;
    everything = subscribe.length === 0;
    const all = everything || subscribe.includes(wildcard);
    const asked = new Set(subscribe);
    for (const [name, version] of versions) if (all || asked.has(name)) known.set(name, version);
  };

  return {
    get selection() {
      if (!begun) return undefined;
      return { everything, names };
    },
    take(request) {
      const first = !begun;
      if (first) begin(request);
      for (const name of request.subscribe) {
        if (name === '') continue;
        if (name === wildcard) everything = true;
        else {
          names.add(name);
          // Whoever subscribes again wants to be told again.
          if (!first) known.delete(name);
        }
      }
      for (const name of request.unsubscribe) {
        if (name === wildcard) everything = false;
        names.delete(name);
        known.delete(name);
      }
      checkNames(names.size);
      return nonce !== '' && request.nonce === nonce ? request.rejected : undefined;
    },
    say(secrets): Said | undefined {
      const changed: Secret[] = [];
      const removed: string[] = [];
      for (const name of new Set([...secrets.keys(), ...names])) {
        const secret = secrets.get(name);
        if (secret === undefined) {
          if (known.get(name) !== nothing) removed.push(name);
          known.set(name, nothing);
        } else if (secret !== 'pending' && known.get(name) !== secret.version) {
          changed.push(secret);
          known.set(name, secret.version);
        }
      }
      for (const name of known.keys()) {
        if (secrets.has(name) || names.has(name)) continue;
        known.delete(name);
        if (everything) removed.push(name);
      }
      if (changed.length === 0 && removed.length === 0) return undefined;
      nonce = nonces.next();
      return { version: '', nonce, secrets: changed, removed };
    },
  };
}
