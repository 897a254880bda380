import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  entryDraftFromMessage,
  entryFieldsFromMessage,
  entryFromMessage,
  entryRevisionToMessage,
  entryToMessage,
} from '../../../proto/convert/entry.ts';
import type { Entry } from '../../../proto/gen/spire/api/types/Entry.ts';
import type { EntryMask__Output } from '../../../proto/gen/spire/api/types/EntryMask.ts';
import { loadServices } from '../../../proto/load.ts';
import { entries, overTheWire } from './arbitrary.ts';

const service = 'spire.api.server.entry.v1.Entry';
const { GetEntry } = loadServices(service)[service];
const received = (message: Entry): ReturnType<typeof GetEntry.responseDeserialize> =>
  overTheWire(GetEntry.responseType, message);

const noMask: EntryMask__Output = {
  spiffe_id: false,
  parent_id: false,
  selectors: false,
  x509_svid_ttl: false,
  federates_with: false,
  admin: false,
  downstream: false,
  expires_at: false,
  dns_names: false,
  revision_number: false,
  store_svid: false,
  jwt_svid_ttl: false,
  hint: false,
  created_at: false,
  additional_attributes: false,
};

const fieldOfMask = {
  spiffe_id: 'spiffeId',
  parent_id: 'parentId',
  selectors: 'selectors',
  x509_svid_ttl: 'x509SvidTtlSeconds',
  federates_with: 'federatesWith',
  admin: 'admin',
  downstream: 'downstream',
  expires_at: 'expiresAt',
  dns_names: 'dnsNames',
  store_svid: 'storeSvid',
  jwt_svid_ttl: 'jwtSvidTtlSeconds',
  hint: 'hint',
} as const;

const minimal: Entry = {
  id: 'e1',
  spiffe_id: { trust_domain: 'example.org', path: '/web' },
  parent_id: { trust_domain: 'example.org', path: '/spire/agent/x' },
  selectors: [{ type: 'unix', value: 'uid:1000' }],
};

describe('entries in messages', () => {
  it('survive the wire whole', () => {
    fc.assert(
      fc.property(entries, (entry) => {
        expect(entryFromMessage(received(entryToMessage(entry)))).toEqual(entry);
      }),
    );
  });

  it('survive as drafts, without what the server sets', () => {
    fc.assert(
      fc.property(entries, (entry) => {
        const { createdAt: _createdAt, revisionNumber: _revisionNumber, ...draft } = entry;
        expect(entryDraftFromMessage(received(entryToMessage(entry)))).toEqual(draft);
      }),
    );
  });

  it('carry only masked fields, the id and the field of ours', () => {
    fc.assert(
      fc.property(entries, fc.constantFrom(...(Object.keys(noMask) as (keyof EntryMask__Output)[])), (entry, name) => {
        const masked = entryToMessage(entry, { ...noMask, [name]: true });
        const whole = entryToMessage(entry);
        const present = name in whole ? { [name]: whole[name] } : {};
        expect(masked).toEqual({ id: entry.id, steeple_forbid_cache: entry.forbidCache, ...present });
      }),
    );
  });

  it('replace exactly the masked fields on update', () => {
    fc.assert(
      fc.property(entries, fc.constantFrom(...(Object.keys(fieldOfMask) as (keyof typeof fieldOfMask)[])), (entry, name) => {
        const field = fieldOfMask[name];
        const fields = entryFieldsFromMessage(received(entryToMessage(entry)), { ...noMask, [name]: true });
        expect(Object.keys(fields)).toEqual([field]);
        expect(fields[field]).toEqual(entry[field]);
      }),
    );
  });

  it('replace both attributes under their one mask bit, also with an absent message', () => {
    const mask = { ...noMask, additional_attributes: true };
    expect(entryFieldsFromMessage(received(minimal), mask)).toEqual({ disableX509SvidPrefetch: false, jwtSvidIncludeJti: false });
  });

  it('replace everything but id, creation and revision without a mask', () => {
    fc.assert(
      fc.property(entries, (entry) => {
        const { id: _id, createdAt: _createdAt, revisionNumber: _revisionNumber, ...fields } = entry;
        expect(entryFieldsFromMessage(received(entryToMessage(entry)), null)).toEqual(fields);
      }),
    );
  });

  it('do not look at fields outside the mask', () => {
    const broken = received({ ...minimal, spiffe_id: null, selectors: [{ type: '', value: '' }], hint: 'new' });
    expect(entryFieldsFromMessage(broken, { ...noMask, hint: true })).toEqual({ hint: 'new' });
  });

  it('have absent attributes when all of them are default', () => {
    const entry = entryFromMessage(received({ ...minimal, additional_attributes: {} }));
    expect(entryToMessage(entry)).not.toHaveProperty('additional_attributes');
  });

  it('have no id as a draft when the message has none', () => {
    expect(entryDraftFromMessage(received({ ...minimal, id: '' })).id).toBeUndefined();
  });

  it('have the same creation instant in a revision as in the entry, or agents would fetch them forever', () => {
    fc.assert(
      fc.property(entries, (entry) => {
        expect(entryRevisionToMessage(entry).created_at).toBe(entryToMessage(entry).created_at);
      }),
    );
  });

  it('round instants down to whole seconds', () => {
    const entry = { ...entryFromMessage(received(minimal)), expiresAt: 1_999 };
    expect(entryToMessage(entry).expires_at).toBe(1);
  });
});

describe('malformed entries', () => {
  it.each<[string, Entry, string, string]>([
    ['no parent ID', { ...minimal, parent_id: null }, 'proto.entry.parent-id', 'invalid parent ID: request must specify SPIFFE ID'],
    [
      'parent ID without trust domain',
      { ...minimal, parent_id: { path: '/a' } },
      'proto.entry.parent-id',
      'invalid parent ID: trust domain is missing',
    ],
    ['no SPIFFE ID', { ...minimal, spiffe_id: null }, 'proto.entry.spiffe-id', 'invalid spiffe ID: request must specify SPIFFE ID'],
    [
      'SPIFFE ID without slash',
      { ...minimal, spiffe_id: { trust_domain: 'example.org', path: 'a' } },
      'proto.entry.spiffe-id',
      'invalid spiffe ID: path must have a leading slash',
    ],
    ['selector without type', { ...minimal, selectors: [{ value: 'v' }] }, 'selector.type.missing', 'missing selector type'],
    [
      'federation with no name',
      { ...minimal, federates_with: [''] },
      'proto.entry.federates-with',
      'invalid federated trust domain: trust domain is missing',
    ],
    ['negative expiry', { ...minimal, expires_at: -1 }, 'proto.instant.range', 'expires_at is out of range'],
  ])('%s is refused', (_, message, reason, text) => {
    const refusal = expect.objectContaining({ kind: 'invalid', reason, message: text });
    expect(() => entryDraftFromMessage(received(message))).toThrowError(refusal);
    expect(() => entryFromMessage(received(message))).toThrowError(refusal);
    expect(() => entryFieldsFromMessage(received(message), null)).toThrowError(refusal);
  });

  it.each<[string, Entry, string]>([
    ['no id', { ...minimal, id: '' }, 'proto.entry.id'],
    ['no selectors', { ...minimal, selectors: [] }, 'proto.entry.selectors-empty'],
    ['negative revision', { ...minimal, revision_number: -1 }, 'proto.integer.range'],
    ['revision beyond exact numbers', { ...minimal, revision_number: '9007199254740992' }, 'proto.integer.range'],
    ['creation beyond time', { ...minimal, created_at: '9223372036854775807' }, 'proto.instant.range'],
  ])('%s is refused in a whole entry', (_, message, reason) => {
    expect(() => entryFromMessage(received(message))).toThrowError(expect.objectContaining({ kind: 'invalid', reason }));
  });

  it.each([null, undefined])('%s is a missing entry', (message) => {
    const refusal = expect.objectContaining({ kind: 'invalid', reason: 'proto.entry.missing', message: 'missing entry' });
    expect(() => entryFromMessage(message)).toThrowError(refusal);
    expect(() => entryFieldsFromMessage(message, noMask)).toThrowError(refusal);
  });
});
