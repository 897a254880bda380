/**
 * Trouble by numbers: what comes before an update, or in its place, when the fake Workload API is contrary. The same seed
 * makes the same trouble; sending it is the API's.
 */
import type { X509SVIDResponse } from '../../proto/gen/X509SVIDResponse.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

/**
 * `drop` breaks all connections, `refuse` ends the stream with an error, `delay` holds the update back, `stale` sends an older
 * update first; the others send what no agent should: bytes that are no certificates, another key than the certificate's, no
 * identity at all, each identity twice, an identity under another's name, an identity without its bundle, and megabytes of
 * nothing.
 */
export const troubles = [
  'drop',
  'refuse',
  'delay',
  'stale',
  'malformed',
  'wrong-key',
  'empty',
  'duplicates',
  'mislabeled',
  'no-bundle',
  'huge',
] as const;

/** One kind of trouble. */
export type Trouble = (typeof troubles)[number];

/** How contrary to be. */
export interface Contrary {
  /** Any integer. */
  readonly seed: number;
  /** Which; all unless given. */
  readonly troubles?: readonly Trouble[];
  /** How likely trouble comes before the next thing that is sent: 0 to below 1, 0.6 unless given. */
  readonly likelihood?: number;
  /** The longest delay, 50 ms unless given. */
  readonly delayMs?: number;
}

/** What to do before the update is sent as it is. */
export type Step<T> =
  | { readonly send: T }
  | { readonly waitMs: number }
  | { readonly refuse: SpiffeError }
  | { readonly drop: true };

export interface Troublemaker {
  /** Steps before an update of X509-SVIDs; after a drop or a refusal nothing is sent any more on that stream. */
  x509Steps(update: X509SVIDResponse): readonly Step<X509SVIDResponse>[];
  /** Of other updates, which are only dropped, refused and delayed. */
  steps(): readonly Step<never>[];
}

/** A stream that hears nothing but trouble would not be contrary but dead. */
const mostAtOnce = 4;

export function createTroublemaker(contrary: Contrary): Troublemaker {
  const { likelihood = 0.6, delayMs = 50 } = contrary;
  const kinds = contrary.troubles ?? troubles;
  const random = seededRandom(contrary.seed);
  const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => Math.floor(random() * 256));
  const one = <T>(items: readonly T[]): T | undefined => items[Math.floor(random() * items.length)];
  const sent: X509SVIDResponse[] = [];

  const step = (update: X509SVIDResponse | undefined, kind: Trouble): Step<X509SVIDResponse> | undefined => {
    if (kind === 'drop') return { drop: true };
    if (kind === 'delay') return { waitMs: Math.floor(random() * delayMs) };
    if (kind === 'refuse') return { refuse: one(refusals) ?? refusals[0] };
    if (update === undefined) return undefined;
    if (kind === 'stale') return { send: one(sent) ?? update };
    return { send: spoilt(update, kind) };
  };
  const spoilt = (update: X509SVIDResponse, kind: Trouble): X509SVIDResponse => {
    const [first, ...rest] = update.svids ?? [];
    if (first === undefined || kind === 'empty') return { svids: [] };
    if (kind === 'malformed') {
      const field = one(['x509_svid', 'x509_svid_key', 'bundle'] as const) ?? 'bundle';
      return { ...update, svids: [{ ...first, [field]: bytes(1 + Math.floor(random() * 600)) }, ...rest] };
    }
    // Of a key that nobody has: a right one, but for the certificate.
    if (kind === 'wrong-key') return { ...update, svids: [{ ...first, x509_svid_key: strayKey }, ...rest] };
    if (kind === 'duplicates') {
      const alike = (update.svids ?? []).map((svid) => ({ ...svid, hint: 'same' }));
      return { ...update, svids: alike.flatMap((svid) => [svid, svid]) };
    }
    if (kind === 'mislabeled') return { ...update, svids: [{ ...first, spiffe_id: `${first.spiffe_id ?? ''}-else` }, ...rest] };
    if (kind === 'no-bundle') return { ...update, svids: [{ ...first, bundle: Buffer.alloc(0) }, ...rest] };
    return { ...update, svids: [{ ...first, x509_svid: Buffer.alloc(5 * 1024 * 1024, 0x30) }, ...rest] };
  };
  const plan = (update: X509SVIDResponse | undefined): readonly Step<X509SVIDResponse>[] => {
    const steps: Step<X509SVIDResponse>[] = [];
    while (steps.length < mostAtOnce && random() < likelihood) {
      const next = step(update, one(kinds) ?? 'delay');
      if (next === undefined) continue;
      steps.push(next);
      if ('drop' in next || 'refuse' in next) break;
    }
    return steps;
  };
  return {
    x509Steps(update) {
      const steps = plan(update);
      sent.push(update);
      return steps;
    },
    steps: () => plan(undefined).filter((next): next is Step<never> => !('send' in next)),
  };
}

const refusals = [
  new SpiffeError('unavailable', 'fake.contrary', 'the agent is contrary'),
  new SpiffeError('limited', 'fake.contrary', 'the agent is contrary'),
  new SpiffeError('denied', 'fake.contrary', 'the agent is contrary'),
  new SpiffeError('internal', 'fake.contrary', 'the agent is contrary'),
] as const;

/** An Ed25519 key in PKCS#8, of the seed that is all zeros. */
const strayKey = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), Buffer.alloc(32)]);

/** Of one seed always the same numbers in [0, 1): mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
