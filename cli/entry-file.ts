/**
 * Files with many entries: YAML or JSON in our words, or in those of SPIRE's `entry create -data`. Finding the file and
 * sending its entries is left to the entry commands.
 */
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { SpiffeError } from '../spiffe/errors.ts';

/** TTLs are seconds; texts are checked where they become IDs and selectors. */
export interface EntryFileItem {
  readonly id?: string;
  readonly spiffeId?: string;
  readonly parentId?: string;
  readonly selectors?: readonly string[];
  readonly x509SvidTtl?: number;
  readonly jwtSvidTtl?: number;
  readonly federatesWith?: readonly string[];
  readonly dnsNames?: readonly string[];
  readonly hint?: string;
  readonly expiresAt?: string | number;
  readonly admin?: boolean;
  readonly downstream?: boolean;
  readonly storeSvid?: boolean;
  readonly disableX509SvidPrefetch?: boolean;
  readonly jwtSvidIncludeJti?: boolean;
  readonly forbidCache?: boolean;
}

const seconds = z.number().int().min(0).max(2_147_483_647);

const ours = z.strictObject({
  id: z.string().optional(),
  spiffeId: z.string(),
  parentId: z.string(),
  selectors: z.array(z.string()),
  x509SvidTtlSeconds: seconds.optional(),
  jwtSvidTtlSeconds: seconds.optional(),
  federatesWith: z.array(z.string()).optional(),
  dnsNames: z.array(z.string()).optional(),
  hint: z.string().optional(),
  expiresAt: z.union([z.string(), z.number()]).nullish(),
  admin: z.boolean().optional(),
  downstream: z.boolean().optional(),
  storeSvid: z.boolean().optional(),
  disableX509SvidPrefetch: z.boolean().optional(),
  jwtSvidIncludeJti: z.boolean().optional(),
  forbidCache: z.boolean().optional(),
  // What `entry show --output json` adds; the server sets them.
  createdAt: z.unknown().optional(),
  revisionNumber: z.unknown().optional(),
  pendingBundles: z.unknown().optional(),
});

const spires = z.strictObject({
  entry_id: z.string().optional(),
  spiffe_id: z.string(),
  parent_id: z.string(),
  selectors: z.array(z.strictObject({ type: z.string(), value: z.string() })),
  ttl: seconds.optional(),
  x509_svid_ttl: seconds.optional(),
  jwt_svid_ttl: seconds.optional(),
  federates_with: z.array(z.string()).optional(),
  dns_names: z.array(z.string()).optional(),
  hint: z.string().optional(),
  entry_expiry: z.number().int().optional(),
  admin: z.boolean().optional(),
  downstream: z.boolean().optional(),
  store_svid: z.boolean().optional(),
});

const longestFile = 256 * 1024 * 1024;

/**
 * The entries that a text holds.
 * @param file for messages
 * @throws invalid `cli.entry-file.syntax`, and as `entryFileItems`
 */
export function readEntries(text: string, file: string): readonly EntryFileItem[] {
  if (text.length > longestFile) throw new SpiffeError('invalid', 'cli.entry-file.size', `${file} is too large; split it`);
  let document: unknown;
  try {
    document = parseYaml(text, { maxAliasCount: 0, uniqueKeys: true, logLevel: 'error' });
  } catch (cause) {
    throw new SpiffeError('invalid', 'cli.entry-file.syntax', `${file} is neither YAML nor JSON`, { cause });
  }
  return entryFileItems(document);
}

/**
 * The entries of a parsed file: a list, or an object with a list under `entries`.
 * @throws invalid `cli.entry-file.shape` naming the first item that is wrong and what is wrong with it
 */
export function entryFileItems(document: unknown): readonly EntryFileItem[] {
  const list = Array.isArray(document) ? document : (document as { entries?: unknown } | null)?.entries;
  if (!Array.isArray(list)) {
    throw new SpiffeError('invalid', 'cli.entry-file.shape', 'the file holds no list of entries');
  }
  return list.map((item: unknown, index) => readItem(item, index));
}

function readItem(item: unknown, index: number): EntryFileItem {
  const inSpiresWords = typeof item === 'object' && item !== null && 'spiffe_id' in item;
  if (inSpiresWords) {
    const parsed = spires.safeParse(item);
    if (!parsed.success) throw wrong(index, parsed.error);
    const entry = parsed.data;
    return withoutAbsent({
      id: entry.entry_id,
      spiffeId: entry.spiffe_id,
      parentId: entry.parent_id,
      selectors: entry.selectors.map(({ type, value }) => `${type}:${value}`),
      x509SvidTtl: entry.x509_svid_ttl ?? entry.ttl,
      jwtSvidTtl: entry.jwt_svid_ttl ?? entry.ttl,
      federatesWith: entry.federates_with,
      dnsNames: entry.dns_names,
      hint: entry.hint,
      expiresAt: entry.entry_expiry,
      admin: entry.admin,
      downstream: entry.downstream,
      storeSvid: entry.store_svid,
    });
  }
  const parsed = ours.safeParse(item);
  if (!parsed.success) throw wrong(index, parsed.error);
  const { x509SvidTtlSeconds, jwtSvidTtlSeconds, expiresAt, createdAt: _created, revisionNumber: _revision, pendingBundles: _pending, ...rest } = parsed.data;
  return withoutAbsent({ ...rest, x509SvidTtl: x509SvidTtlSeconds, jwtSvidTtl: jwtSvidTtlSeconds, expiresAt: expiresAt ?? undefined });
}

function withoutAbsent(item: { readonly [K in keyof EntryFileItem]?: EntryFileItem[K] | undefined }): EntryFileItem {
  return Object.fromEntries(Object.entries(item).filter(([, value]) => value !== undefined));
}

function wrong(index: number, error: z.ZodError): SpiffeError {
  const [issue] = error.issues;
  const path = issue === undefined || issue.path.length === 0 ? '' : ` ${issue.path.map(String).join('.')}:`;
  return new SpiffeError('invalid', 'cli.entry-file.shape', `entry ${index + 1}:${path} ${issue?.message ?? 'malformed'}`);
}
