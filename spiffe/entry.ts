/**
 * The registration entry: the rule by which selectors under a parent yield a SPIFFE ID. Shape and rules only; who may
 * hold an entry is `authorize.ts`, and storing it is the server's.
 */
import { dnsNameFault } from './dns-name.ts';
import { SpiffeError } from './errors.ts';
import type { SpiffeId, TrustDomain } from './id.ts';
import { isMemberOf, isWorkloadId, parseSpiffeId, parseTrustDomain, pathOf } from './id.ts';
import type { Selector } from './selector.ts';
import { canonicalSelectors, parseSelector, selectorType } from './selector.ts';

/** What an operator asks for; an absent id is made up by the server. */
export interface EntryDraft {
  /** 1 to 255 characters of `[A-Za-z0-9_.-]`. */
  readonly id?: string | undefined;
  readonly spiffeId: SpiffeId;
  readonly parentId: SpiffeId;
  /** In the order they were given, without repeats. */
  readonly selectors: readonly Selector[];
  /** 0 means the server's default. */
  readonly x509SvidTtlSeconds: number;
  readonly jwtSvidTtlSeconds: number;
  readonly federatesWith: readonly TrustDomain[];
  readonly dnsNames: readonly string[];
  readonly admin: boolean;
  readonly downstream: boolean;
  readonly storeSvid: boolean;
  readonly hint: string;
  readonly disableX509SvidPrefetch: boolean;
  readonly jwtSvidIncludeJti: boolean;
  /** Ours: SVIDs of this entry never reach an agent's disk, sealed or not. */
  readonly forbidCache: boolean;
  readonly expiresAt: number | undefined;
}

/** Instants are epoch milliseconds; an absent instant is `undefined`. Frozen once built. */
export interface RegistrationEntry extends EntryDraft {
  readonly id: string;
  /** Whole seconds, set by the server. */
  readonly createdAt: number;
  /** Starts at 0, one more with every successful update. */
  readonly revisionNumber: number;
}

/**
 * What one entry may hold. The numbers are far above what people register and keep one entry from filling an index, a
 * message or a certificate; hint and id are the contract's, the others ours.
 */
export const entryLimits = {
  idLength: 255,
  /** [Workload API 8] */
  hintBytes: 1024,
  selectors: 1000,
  selectorBytes: 8192,
  /** Of all selectors of one entry together. */
  selectorsTotalBytes: 262_144,
  federatesWith: 1000,
  dnsNames: 256,
  ttlSeconds: 2_147_483_647,
} as const;

const idForm = /^[A-Za-z0-9_.-]+$/;

/**
 * Checks every rule an entry must keep on its own, in the order in which clients of SPIRE know them, and returns the
 * draft frozen, an empty id made absent and federated trust domains without repeats. IDs, selectors and names are
 * checked again as texts, so a draft may come from a cast. Whether it resembles another entry is the store's to tell.
 * @throws invalid `entry.parent-id|spiffe-id`, `entry.selectors.missing|count|size`, `entry.selector`, `entry.dns-name`,
 *   `entry.dns-name.count`, `entry.federates-with`, `entry.federates-with.count`, `entry.hint.length`, `entry.text`,
 *   `entry.x509-svid-ttl`, `entry.jwt-svid-ttl`, `entry.expires-at`, `entry.store-svid.selector-types|prefetch`,
 *   `entry.id.length|characters`
 * @throws exists `entry.selectors.repeated`, `entry.dns-name.repeated`
 */
export function checkEntryDraft(draft: EntryDraft, trustDomain: TrustDomain): EntryDraft {
  checkNames(draft, trustDomain);
  checkSelectors(draft.selectors);
  checkDnsNames(draft.dnsNames);
  const federatesWith = checkFederation(draft.federatesWith);
  checkHint(draft.hint);
  checkTimes(draft);
  checkStoreSvid(draft);
  const id = checkId(draft.id);
  return freezeFields({ ...draft, id, federatesWith });
}

/** Whether the entry has ended at the instant; without an end it never does. */
export function isExpired(entry: Pick<RegistrationEntry, 'expiresAt'>, now: number): boolean {
  return entry.expiresAt !== undefined && entry.expiresAt <= now;
}

/**
 * The same text for entries of the same SPIFFE ID, parent and set of selectors, another for all others. It is as long
 * as they are together.
 */
export function matchKey(entry: Pick<RegistrationEntry, 'spiffeId' | 'parentId' | 'selectors'>): string {
  return JSON.stringify([entry.spiffeId, entry.parentId, ...canonicalSelectors(entry.selectors)]);
}

/** An entry out of a checked draft. */
export function composeEntry(
  draft: EntryDraft,
  given: { readonly id: string; readonly createdAt: number; readonly revisionNumber: number },
): RegistrationEntry {
  return freezeFields({ ...draft, ...given });
}

/**
 * True for a rule that SPIRE checks while it converts an entry, false for one its store checks; their status texts
 * begin differently.
 */
export function isConversionFault(error: SpiffeError): boolean {
  return !/^entry\.(?:x509-svid-ttl|jwt-svid-ttl|expires-at|store-svid|id|selectors\.repeated|dns-name\.repeated)/.test(
    error.reason,
  );
}

function freezeFields<T extends EntryDraft>(fields: T): T {
  return Object.freeze({
    ...fields,
    selectors: Object.freeze([...fields.selectors]),
    federatesWith: Object.freeze([...fields.federatesWith]),
    dnsNames: Object.freeze([...fields.dnsNames]),
  });
}

function checkNames(draft: EntryDraft, trustDomain: TrustDomain): void {
  const parentId = within('entry.parent-id', 'invalid parent ID', () => parseSpiffeId(draft.parentId));
  const parentFault = memberFault(parentId, trustDomain);
  if (parentFault !== undefined) {
    throw new SpiffeError('invalid', 'entry.parent-id', `invalid parent ID: ${parentFault}`);
  }
  const spiffeId = within('entry.spiffe-id', 'invalid spiffe ID', () => parseSpiffeId(draft.spiffeId));
  const fault =
    memberFault(spiffeId, trustDomain) ??
    (isWorkloadId(spiffeId) ? undefined : `"${spiffeId}" is not a workload in trust domain "${trustDomain}"; path is reserved`);
  if (fault !== undefined) throw new SpiffeError('invalid', 'entry.spiffe-id', `invalid spiffe ID: ${fault}`);
}

function memberFault(id: SpiffeId, trustDomain: TrustDomain): string | undefined {
  if (!isMemberOf(id, trustDomain)) return `"${id}" is not a member of trust domain "${trustDomain}"`;
  return pathOf(id) === '' ? `"${id}" is not a member of trust domain "${trustDomain}"; path is empty` : undefined;
}

function checkSelectors(selectors: readonly Selector[]): void {
  if (selectors.length === 0) {
    throw new SpiffeError('invalid', 'entry.selectors.missing', 'selector list is empty');
  }
  if (selectors.length > entryLimits.selectors) {
    throw new SpiffeError('invalid', 'entry.selectors.count', `more than ${entryLimits.selectors} selectors`);
  }
  let total = 0;
  for (const selector of selectors) {
    within('entry.selector', '', () => parseSelector(selector));
    checkText(selector);
    const bytes = Buffer.byteLength(selector);
    total += bytes;
    if (bytes > entryLimits.selectorBytes || total > entryLimits.selectorsTotalBytes) {
      throw new SpiffeError('invalid', 'entry.selectors.size', 'selectors are too long');
    }
  }
  if (new Set(selectors).size !== selectors.length) {
    throw new SpiffeError('exists', 'entry.selectors.repeated', 'a selector is given twice');
  }
}

function checkDnsNames(names: readonly string[]): void {
  if (names.length > entryLimits.dnsNames) {
    throw new SpiffeError('invalid', 'entry.dns-name.count', `more than ${entryLimits.dnsNames} DNS names`);
  }
  for (const name of names) {
    const fault = dnsNameFault(name);
    if (fault !== undefined) throw new SpiffeError('invalid', 'entry.dns-name', `invalid DNS name: ${fault}`);
  }
  if (new Set(names).size !== names.length) {
    throw new SpiffeError('exists', 'entry.dns-name.repeated', 'a DNS name is given twice');
  }
}

function checkFederation(names: readonly TrustDomain[]): readonly TrustDomain[] {
  if (names.length > entryLimits.federatesWith) {
    throw new SpiffeError(
      'invalid',
      'entry.federates-with.count',
      `more than ${entryLimits.federatesWith} federated trust domains`,
    );
  }
  for (const name of names) {
    within('entry.federates-with', 'invalid federated trust domain', () => parseTrustDomain(name));
  }
  return [...new Set(names)];
}

function checkHint(hint: string): void {
  if (Buffer.byteLength(hint) > entryLimits.hintBytes) {
    throw new SpiffeError(
      'invalid',
      'entry.hint.length',
      `hint is too long, max length is ${entryLimits.hintBytes} characters`,
    );
  }
  checkText(hint);
}

function checkTimes(draft: EntryDraft): void {
  if (!isTtl(draft.x509SvidTtlSeconds)) {
    throw new SpiffeError('invalid', 'entry.x509-svid-ttl', 'invalid registration entry: X509SvidTtl is not set');
  }
  if (!isTtl(draft.jwtSvidTtlSeconds)) {
    throw new SpiffeError('invalid', 'entry.jwt-svid-ttl', 'invalid registration entry: JwtSvidTtl is not set');
  }
  if (draft.expiresAt !== undefined && !(Number.isSafeInteger(draft.expiresAt) && draft.expiresAt > 0)) {
    throw new SpiffeError('invalid', 'entry.expires-at', 'invalid registration entry: expiry is not an instant');
  }
}

function isTtl(seconds: number): boolean {
  return Number.isInteger(seconds) && seconds >= 0 && seconds <= entryLimits.ttlSeconds;
}

function checkStoreSvid(draft: EntryDraft): void {
  if (!draft.storeSvid) return;
  if (new Set(draft.selectors.map(selectorType)).size > 1) {
    throw new SpiffeError(
      'invalid',
      'entry.store-svid.selector-types',
      'invalid registration entry: selector types must be the same when store SVID is enabled',
    );
  }
  if (draft.disableX509SvidPrefetch) {
    throw new SpiffeError(
      'invalid',
      'entry.store-svid.prefetch',
      'invalid registration entry: X509-SVID prefetch cannot be disabled when store SVID is enabled',
    );
  }
}

function checkId(id: string | undefined): string | undefined {
  if (id === undefined || id === '') return undefined;
  if (id.length > entryLimits.idLength) {
    throw new SpiffeError('invalid', 'entry.id.length', 'invalid registration entry: entry ID too long');
  }
  if (!idForm.test(id)) {
    throw new SpiffeError(
      'invalid',
      'entry.id.characters',
      'invalid registration entry: entry ID contains invalid characters',
    );
  }
  return id;
}

/** A zero byte ends a text in C and is refused by PostgreSQL; half a surrogate pair is no text at all. */
function checkText(text: string): void {
  if (text.includes('\0') || !text.isWellFormed()) {
    throw new SpiffeError('invalid', 'entry.text', 'text contains a zero byte or is not Unicode');
  }
}

/** Runs a parser of another module and tells which field its refusal concerns. */
function within<T>(
  reason: 'entry.parent-id' | 'entry.spiffe-id' | 'entry.selector' | 'entry.federates-with',
  prefix: string,
  parse: () => T,
): T {
  try {
    return parse();
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    const message = prefix === '' ? cause.message : `${prefix}: ${cause.message}`;
    throw new SpiffeError('invalid', reason, message, { detail: { rule: cause.reason }, cause });
  }
}
