/**
 * Files with many federation relationships: YAML or JSON in our words, or in those of SPIRE's `federation create -data`,
 * which differ in capitals alone. Finding the file and sending what is in it is left to the federation commands.
 */
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { SpiffeError } from '../spiffe/errors.ts';
import type { BundleFormat } from './bundle-text.ts';

/** Texts are checked where they become IDs and URLs. */
export interface RelationshipItem {
  readonly trustDomain: string;
  readonly endpointUrl: string;
  readonly profile: 'https_web' | 'https_spiffe';
  readonly endpointId: string | undefined;
  readonly bundle: { readonly text: string; readonly format: BundleFormat } | undefined;
}

/** Names in lower case, as capitals do not count. */
const item = z.strictObject({
  trustdomain: z.string(),
  bundleendpointurl: z.string(),
  bundleendpointprofile: z.enum(['https_web', 'https_spiffe']),
  endpointspiffeid: z.string().optional(),
  trustdomainbundle: z.union([z.string(), z.record(z.string(), z.unknown())]).nullish(),
  trustdomainbundleformat: z.enum(['pem', 'spiffe']).optional(),
  // What `federation show --output json` adds.
  state: z.unknown().optional(),
});

const longestFile = 64 * 1024 * 1024;

/**
 * A list, or an object with a list under `federationRelationships`.
 * @param file for messages
 * @throws invalid `cli.federation-file.size|syntax|shape`, the latter naming the first item that is wrong
 */
export function readRelationships(text: string, file: string): readonly RelationshipItem[] {
  if (text.length > longestFile) throw new SpiffeError('invalid', 'cli.federation-file.size', `${file} is too large; split it`);
  let document: unknown;
  try {
    document = parseYaml(text, { maxAliasCount: 0, uniqueKeys: true, logLevel: 'error', intAsBigInt: true });
  } catch (cause) {
    throw new SpiffeError('invalid', 'cli.federation-file.syntax', `${file} is neither YAML nor JSON`, { cause });
  }
  const list = Array.isArray(document) ? document : (lowered(document) as { federationrelationships?: unknown }).federationrelationships;
  if (!Array.isArray(list)) throw new SpiffeError('invalid', 'cli.federation-file.shape', `${file} holds no list of relationships`);
  return list.map((given: unknown, index) => readItem(given, index));
}

function readItem(given: unknown, index: number): RelationshipItem {
  const parsed = item.safeParse(lowered(given));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const path = issue === undefined || issue.path.length === 0 ? '' : ` ${issue.path.map(String).join('.')}:`;
    throw new SpiffeError('invalid', 'cli.federation-file.shape', `relationship ${index + 1}:${path} ${issue?.message ?? 'malformed'}`);
  }
  const { data } = parsed;
  const { trustdomainbundle: bundle } = data;
  const format = data.trustdomainbundleformat ?? (typeof bundle === 'object' ? 'spiffe' : 'pem');
  return {
    trustDomain: data.trustdomain,
    endpointUrl: data.bundleendpointurl,
    profile: data.bundleendpointprofile,
    endpointId: data.endpointspiffeid,
    bundle: bundle === undefined || bundle === null ? undefined : { text: typeof bundle === 'string' ? bundle : exactJson(bundle), format },
  };
}

function lowered(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value ?? {};
  return Object.fromEntries(Object.entries(value).map(([name, held]) => [name.toLowerCase(), held]));
}

/** Sequences have 64 bits, which numbers would round. */
function exactJson(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map(exactJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, held]) => `${JSON.stringify(name)}:${exactJson(held)}`).join(',')}}`;
}
