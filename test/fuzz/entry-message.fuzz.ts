/**
 * Any bytes as an entry: the decoder may refuse them, the conversion may call them invalid, and what it accepts must come
 * back the same from a second trip over the wire.
 */
import { isDeepStrictEqual } from 'node:util';
import { entryDraftFromMessage, entryFieldsFromMessage, entryFromMessage, entryToMessage } from '../../proto/convert/entry.ts';
import type { EntryMask__Output } from '../../proto/gen/spire/api/types/EntryMask.ts';
import { loadServices } from '../../proto/load.ts';
import { isSpiffeError } from '../../spiffe/errors.ts';

const service = 'spire.api.server.entry.v1.Entry';
const { GetEntry } = loadServices(service)[service];
const { responseType: entryType } = GetEntry;
const fullMask = GetEntry.requestType.deserialize(
  // output_mask with every bit from 2 to 16 set.
  Buffer.concat([Buffer.from([0x12, 31]), ...Array.from({ length: 15 }, (_, n) => tag(n + 2))]),
).output_mask as EntryMask__Output;

function tag(field: number): Buffer {
  return field < 16 ? Buffer.from([field << 3, 1]) : Buffer.from([((field << 3) & 0x7f) | 0x80, field >> 4, 1]);
}

/** What `work` yields, or `undefined` when it says that the input is invalid. Anything else it throws is a finding. */
function orInvalid<Value>(work: () => Value): Value | undefined {
  try {
    return work();
  } catch (error) {
    if (isSpiffeError(error, 'invalid')) return undefined;
    throw error;
  }
}

export const target = {
  name: 'entry-message',

  corpus(): Uint8Array[] {
    const minimal = {
      id: 'e1',
      spiffe_id: { trust_domain: 'example.org', path: '/web' },
      parent_id: { trust_domain: 'example.org', path: '/spire/agent/x' },
      selectors: [{ type: 'unix', value: 'uid:1000' }],
    };
    const rich = {
      ...minimal,
      x509_svid_ttl: 60,
      jwt_svid_ttl: -1,
      federates_with: ['other.org', 'spiffe://third.org/x'],
      admin: true,
      downstream: true,
      expires_at: '1700000000',
      dns_names: ['a.example.org', '*.example.org'],
      revision_number: '9223372036854775807',
      store_svid: true,
      hint: 'h',
      created_at: 1,
      additional_attributes: { disable_x509_svid_prefetch: true },
      steeple_forbid_cache: true,
    };
    return [{}, minimal, rich, { ...minimal, additional_attributes: {} }].map((message) => entryType.serialize(message));
  },

  run(input: Uint8Array): void {
    let message;
    try {
      message = entryType.deserialize(Buffer.from(input));
    } catch {
      // The RPC layer makes a status of whatever the decoder throws.
      return;
    }
    orInvalid(() => entryDraftFromMessage(message));
    orInvalid(() => entryFieldsFromMessage(message, fullMask));
    const entry = orInvalid(() => entryFromMessage(message));
    if (entry === undefined) return;
    const again = entryFromMessage(entryType.deserialize(entryType.serialize(entryToMessage(entry))));
    if (!isDeepStrictEqual(again, entry)) throw new Error('an accepted entry changes on its way back over the wire');
  },
};
