/**
 * An entry's fields as flags, as items of a file and as the message that is sent: what is written, turned into what the
 * server is asked. Asking it is the entry commands'.
 */
import { idToMessage } from '../proto/convert/id.ts';
import type { Entry } from '../proto/gen/spire/api/types/Entry.ts';
import type { EntryMask } from '../proto/gen/spire/api/types/EntryMask.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { parseSpiffeId, trustDomainFromText } from '../spiffe/id.ts';
import { parseSelector } from '../spiffe/selector.ts';
import type { EntryFileItem } from './entry-file.ts';
import type { FlagSpecs, FlagValues } from './flags.ts';

export const fieldFlags = {
  'spiffe-id': { type: 'text', value: 'ID', summary: 'the identity the entry gives' },
  'parent-id': { type: 'text', value: 'ID', summary: 'the agent or entry it hangs from' },
  selector: { type: 'list', value: 'TYPE:VALUE', summary: 'an attested fact that is required; may be repeated' },
  ttl: { type: 'duration', value: 'TIME', summary: 'life of both kinds of SVID' },
  'x509-svid-ttl': { type: 'duration', value: 'TIME', summary: 'life of X509-SVIDs' },
  'jwt-svid-ttl': { type: 'duration', value: 'TIME', summary: 'life of JWT-SVIDs' },
  'federates-with': { type: 'list', value: 'DOMAIN', summary: 'a trust domain whose bundle it gets; may be repeated' },
  dns: { type: 'list', value: 'NAME', summary: 'a DNS name of its X509-SVIDs; may be repeated' },
  hint: { type: 'text', value: 'TEXT', summary: 'tells several identities of one workload apart' },
  expires: { type: 'text', value: 'WHEN', summary: 'when the entry ends: epoch seconds or an RFC 3339 instant' },
  admin: { type: 'switch', summary: 'may call the administrative API' },
  downstream: { type: 'switch', summary: 'may be a downstream server' },
  'store-svid': { type: 'switch', summary: "its SVIDs go to the agent's SVID store" },
  'disable-x509-svid-prefetch': { type: 'switch', summary: 'sign only when a workload asks' },
  'jwt-svid-include-jti': { type: 'switch', summary: 'JWT-SVIDs carry a jti and are not reused' },
  'forbid-cache': { type: 'switch', summary: "SVIDs never reach the agent's disk" },
} as const satisfies FlagSpecs;

type FieldValues = FlagValues<typeof fieldFlags>;

/** @throws invalid, as the parsers of what is written */
export function fromFlags(flags: FieldValues, id: string | undefined, node: boolean): Entry {
  return itemToMessage({
    ...definedFields(flags),
    ...(id !== undefined && { id }),
    ...(node && { parentId: serverParent(flags['spiffe-id']) }),
  });
}

function serverParent(spiffeId: string | undefined): string {
  if (spiffeId === undefined) throw new SpiffeError('invalid', 'cli.entry.spiffe-id', '--spiffe-id is needed');
  return `spiffe://${trustDomainFromText(spiffeId)}/spire/server`;
}

/** What the flags name, in the words of an entry file. */
function definedFields(flags: FieldValues): EntryFileItem {
  const [x509, jwt] = [flags['x509-svid-ttl'] ?? flags.ttl, flags['jwt-svid-ttl'] ?? flags.ttl];
  return {
    ...(flags['spiffe-id'] !== undefined && { spiffeId: flags['spiffe-id'] }),
    ...(flags['parent-id'] !== undefined && { parentId: flags['parent-id'] }),
    ...(flags.selector.length > 0 && { selectors: flags.selector }),
    ...(x509 !== undefined && { x509SvidTtl: x509 }),
    ...(jwt !== undefined && { jwtSvidTtl: jwt }),
    ...(flags['federates-with'].length > 0 && { federatesWith: flags['federates-with'] }),
    ...(flags.dns.length > 0 && { dnsNames: flags.dns }),
    ...(flags.hint !== undefined && { hint: flags.hint }),
    ...(flags.expires !== undefined && { expiresAt: flags.expires }),
    ...(flags.admin !== undefined && { admin: flags.admin }),
    ...(flags.downstream !== undefined && { downstream: flags.downstream }),
    ...(flags['store-svid'] !== undefined && { storeSvid: flags['store-svid'] }),
    ...(flags['disable-x509-svid-prefetch'] !== undefined && { disableX509SvidPrefetch: flags['disable-x509-svid-prefetch'] }),
    ...(flags['jwt-svid-include-jti'] !== undefined && { jwtSvidIncludeJti: flags['jwt-svid-include-jti'] }),
    ...(flags['forbid-cache'] !== undefined && { forbidCache: flags['forbid-cache'] }),
  };
}

/** What the flags change of an entry, and which fields those are. @throws invalid `cli.entry.no-change|forbid-cache` */
export function changedFields(flags: FieldValues, id: string): { entry: Entry; mask: EntryMask } {
  const item = definedFields(flags);
  if (item.forbidCache !== undefined) {
    throw new SpiffeError('invalid', 'cli.entry.forbid-cache', '--forbid-cache is changed with --file, where the entry is replaced whole');
  }
  const entry = itemToMessage({ ...item, id });
  const mask: EntryMask = {
    spiffe_id: item.spiffeId !== undefined,
    parent_id: item.parentId !== undefined,
    selectors: item.selectors !== undefined,
    x509_svid_ttl: item.x509SvidTtl !== undefined,
    jwt_svid_ttl: item.jwtSvidTtl !== undefined,
    federates_with: item.federatesWith !== undefined,
    dns_names: item.dnsNames !== undefined,
    hint: item.hint !== undefined,
    expires_at: item.expiresAt !== undefined,
    admin: item.admin !== undefined,
    downstream: item.downstream !== undefined,
    store_svid: item.storeSvid !== undefined,
    additional_attributes: item.disableX509SvidPrefetch !== undefined || item.jwtSvidIncludeJti !== undefined,
  };
  if (!Object.values(mask).includes(true)) throw new SpiffeError('invalid', 'cli.entry.no-change', 'no flag says what to change');
  return { entry, mask };
}

/** @throws invalid, as the parsers of IDs and selectors; `cli.entry.expires` */
export function itemToMessage(item: EntryFileItem): Entry {
  return {
    id: item.id ?? '',
    ...(item.spiffeId !== undefined && { spiffe_id: idToMessage(parseSpiffeId(item.spiffeId)) }),
    ...(item.parentId !== undefined && { parent_id: idToMessage(parseSpiffeId(item.parentId)) }),
    selectors: (item.selectors ?? []).map((text) => {
      const selector = parseSelector(text);
      const colon = selector.indexOf(':');
      return { type: selector.slice(0, colon), value: selector.slice(colon + 1) };
    }),
    x509_svid_ttl: item.x509SvidTtl ?? 0,
    jwt_svid_ttl: item.jwtSvidTtl ?? 0,
    federates_with: (item.federatesWith ?? []).map((text) => trustDomainFromText(text)),
    dns_names: [...(item.dnsNames ?? [])],
    hint: item.hint ?? '',
    expires_at: item.expiresAt === undefined ? 0 : expirySeconds(item.expiresAt),
    admin: item.admin ?? false,
    downstream: item.downstream ?? false,
    store_svid: item.storeSvid ?? false,
    additional_attributes: {
      disable_x509_svid_prefetch: item.disableX509SvidPrefetch ?? false,
      jwt_svid_include_jti: item.jwtSvidIncludeJti ?? false,
    },
    steeple_forbid_cache: item.forbidCache ?? false,
  };
}

function expirySeconds(text: string | number): number {
  const written = String(text);
  if (/^\d{1,12}$/.test(written)) return Number(written);
  const at = /^\d{4}-\d{2}-\d{2}T/.test(written) ? Date.parse(written) : Number.NaN;
  if (Number.isNaN(at)) throw new SpiffeError('invalid', 'cli.entry.expires', '--expires wants epoch seconds or 2030-01-31T12:00:00Z');
  return Math.floor(at / 1000);
}
