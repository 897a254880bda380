/**
 * Registration entries between messages and domain values, whole or under a mask. Only what makes a value of a message is
 * checked here; the rules an entry must keep are `checkEntryDraft` of `spiffe/entry.ts`.
 */
import { composeEntry, type EntryDraft, type RegistrationEntry } from '../../spiffe/entry.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { trustDomainFromText, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import type { EntryRevision } from '../gen/spire/api/server/entry/v1/EntryRevision.ts';
import type { Entry, Entry__Output } from '../gen/spire/api/types/Entry.ts';
import type { EntryMask__Output } from '../gen/spire/api/types/EntryMask.ts';
import { idFromMessage, idToMessage } from './id.ts';
import { instantFromSeconds, integerFromText, optionalInstantFromSeconds, secondsFromInstant } from './scalar.ts';
import { selectorsFromMessages, selectorsToMessages } from './selector.ts';

/** What an update can replace. */
export type EntryFields = Omit<EntryDraft, 'id'>;

/** Which fields; absent means all of them. */
export type EntryMaskMessage = EntryMask__Output | null | undefined;

/** The field of ours has no mask bit and is always there, like the id. */
export function entryToMessage(entry: RegistrationEntry, mask?: EntryMaskMessage): Entry {
  const attributes = entry.disableX509SvidPrefetch || entry.jwtSvidIncludeJti;
  const message: Entry = { id: entry.id, steeple_forbid_cache: entry.forbidCache };
  if (has(mask, 'spiffe_id')) message.spiffe_id = idToMessage(entry.spiffeId);
  if (has(mask, 'parent_id')) message.parent_id = idToMessage(entry.parentId);
  if (has(mask, 'selectors')) message.selectors = selectorsToMessages(entry.selectors);
  if (has(mask, 'x509_svid_ttl')) message.x509_svid_ttl = entry.x509SvidTtlSeconds;
  if (has(mask, 'federates_with')) message.federates_with = [...entry.federatesWith];
  if (has(mask, 'admin')) message.admin = entry.admin;
  if (has(mask, 'downstream')) message.downstream = entry.downstream;
  if (has(mask, 'expires_at')) message.expires_at = secondsFromInstant(entry.expiresAt);
  if (has(mask, 'dns_names')) message.dns_names = [...entry.dnsNames];
  if (has(mask, 'revision_number')) message.revision_number = entry.revisionNumber;
  if (has(mask, 'store_svid')) message.store_svid = entry.storeSvid;
  if (has(mask, 'jwt_svid_ttl')) message.jwt_svid_ttl = entry.jwtSvidTtlSeconds;
  if (has(mask, 'hint')) message.hint = entry.hint;
  if (has(mask, 'created_at')) message.created_at = secondsFromInstant(entry.createdAt);
  // All-default attributes are read back as absent.
  if (attributes && has(mask, 'additional_attributes')) {
    message.additional_attributes = {
      disable_x509_svid_prefetch: entry.disableX509SvidPrefetch,
      jwt_svid_include_jti: entry.jwtSvidIncludeJti,
    };
  }
  return message;
}

/** What a syncing agent compares; the creation instant must be that of the entry itself. */
export function entryRevisionToMessage(entry: RegistrationEntry): EntryRevision {
  return { id: entry.id, revision_number: entry.revisionNumber, created_at: secondsFromInstant(entry.createdAt) };
}

/**
 * A whole entry as a server sends it without a mask; repeats among selectors are dropped.
 * @throws invalid `proto.entry.missing|id|selectors-empty` and as `entryDraftFromMessage`
 */
export function entryFromMessage(message: Entry__Output | null | undefined): RegistrationEntry {
  const draft = entryDraftFromMessage(message);
  if (draft.id === undefined) throw new SpiffeError('invalid', 'proto.entry.id', 'missing entry ID');
  if (draft.selectors.length === 0) throw new SpiffeError('invalid', 'proto.entry.selectors-empty', 'selector list is empty');
  return composeEntry(
    { ...draft, selectors: [...new Set(draft.selectors)] },
    {
      id: draft.id,
      createdAt: instantFromSeconds(message?.created_at ?? '', 'created_at'),
      revisionNumber: integerFromText(message?.revision_number ?? '', 'revision_number'),
    },
  );
}

/**
 * What an operator asks for, to be checked before it is used. Creation instant and revision in the message are ignored.
 * @throws invalid `proto.entry.missing|parent-id|spiffe-id|federates-with`, `proto.instant.range` and as `selectorFromMessage`
 */
export function entryDraftFromMessage(message: Entry__Output | null | undefined): EntryDraft {
  if (!message) throw new SpiffeError('invalid', 'proto.entry.missing', 'missing entry');
  return Object.freeze({
    id: message.id === '' ? undefined : message.id,
    parentId: parentIdOf(message),
    spiffeId: spiffeIdOf(message),
    selectors: selectorsFromMessages(message.selectors),
    dnsNames: Object.freeze([...message.dns_names]),
    federatesWith: federatesWithOf(message),
    x509SvidTtlSeconds: message.x509_svid_ttl,
    jwtSvidTtlSeconds: message.jwt_svid_ttl,
    admin: message.admin,
    downstream: message.downstream,
    storeSvid: message.store_svid,
    hint: message.hint,
    ...attributesOf(message),
    forbidCache: message.steeple_forbid_cache,
    expiresAt: optionalInstantFromSeconds(message.expires_at, 'expires_at'),
  });
}

/**
 * The fields an update replaces: those in the mask, or all of them without one. Only these are looked at.
 * @throws invalid as `entryDraftFromMessage`
 */
export function entryFieldsFromMessage(
  message: Entry__Output | null | undefined,
  mask: EntryMaskMessage,
): Partial<EntryFields> {
  if (!mask) {
    const { id: _, ...fields } = entryDraftFromMessage(message);
    return Object.freeze(fields);
  }
  if (!message) throw new SpiffeError('invalid', 'proto.entry.missing', 'missing entry');
  return Object.freeze({
    ...(mask.parent_id && { parentId: parentIdOf(message) }),
    ...(mask.spiffe_id && { spiffeId: spiffeIdOf(message) }),
    ...(mask.selectors && { selectors: selectorsFromMessages(message.selectors) }),
    ...(mask.dns_names && { dnsNames: Object.freeze([...message.dns_names]) }),
    ...(mask.federates_with && { federatesWith: federatesWithOf(message) }),
    ...(mask.x509_svid_ttl && { x509SvidTtlSeconds: message.x509_svid_ttl }),
    ...(mask.jwt_svid_ttl && { jwtSvidTtlSeconds: message.jwt_svid_ttl }),
    ...(mask.admin && { admin: message.admin }),
    ...(mask.downstream && { downstream: message.downstream }),
    ...(mask.store_svid && { storeSvid: message.store_svid }),
    ...(mask.hint && { hint: message.hint }),
    ...(mask.expires_at && { expiresAt: optionalInstantFromSeconds(message.expires_at, 'expires_at') }),
    ...(mask.additional_attributes && attributesOf(message)),
  });
}

function has(mask: EntryMaskMessage, name: keyof EntryMask__Output): boolean {
  return mask?.[name] ?? true;
}

function attributesOf(message: Entry__Output): Pick<EntryFields, 'disableX509SvidPrefetch' | 'jwtSvidIncludeJti'> {
  return {
    disableX509SvidPrefetch: message.additional_attributes?.disable_x509_svid_prefetch ?? false,
    jwtSvidIncludeJti: message.additional_attributes?.jwt_svid_include_jti ?? false,
  };
}

function parentIdOf(message: Entry__Output): SpiffeId {
  try {
    return idFromMessage(message.parent_id);
  } catch (error) {
    throw new SpiffeError('invalid', 'proto.entry.parent-id', `invalid parent ID: ${fault(error)}`, { cause: error });
  }
}

function spiffeIdOf(message: Entry__Output): SpiffeId {
  try {
    return idFromMessage(message.spiffe_id);
  } catch (error) {
    throw new SpiffeError('invalid', 'proto.entry.spiffe-id', `invalid spiffe ID: ${fault(error)}`, { cause: error });
  }
}

function federatesWithOf(message: Entry__Output): readonly TrustDomain[] {
  try {
    return Object.freeze(message.federates_with.map(trustDomainFromText));
  } catch (error) {
    throw new SpiffeError('invalid', 'proto.entry.federates-with', `invalid federated trust domain: ${fault(error)}`, {
      cause: error,
    });
  }
}

/** What is wrong with a part, for the sentence that names the part. Anything else than a refusal is not ours to word. */
function fault(error: unknown): string {
  if (!isSpiffeError(error, 'invalid')) throw error;
  return error.message;
}
