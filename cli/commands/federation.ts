/**
 * `steeple federation …`: relationships with other trust domains made, shown, changed, asked and ended, one by flags or
 * many from a file. The server fetches their bundles; `steeple bundle …` shows what came.
 */
import { readFile } from 'node:fs/promises';
import { bundleToMessage } from '../../proto/convert/bundle.ts';
import type { FederationRelationship, FederationRelationship__Output } from '../../proto/gen/spire/api/types/FederationRelationship.ts';
import type { Status__Output } from '../../proto/gen/spire/api/types/Status.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { type TrustDomain, trustDomainFromText } from '../../spiffe/id.ts';
import { type BundleFormat, parseBundleText } from '../bundle-text.ts';
import { command, type Command, exitCodes, type Io } from '../command.ts';
import { readRelationships, type RelationshipItem } from '../federation-file.ts';
import { relationshipView, showRelationships, type States } from '../federation-view.ts';
import type { FlagSpec } from '../flags.ts';
import { type Line, pages, serverSocketFlag, slices, withServer } from '../operators.ts';
import { json, outputFlag, outputForm, plain } from '../print.ts';

const service = 'spire.api.server.trustdomain.v1.TrustDomain';
const operator = 'steeple.operator.v1.Operator';
const bundleService = 'spire.api.server.bundle.v1.Bundle';
type FederationLine = Line<typeof service | typeof operator>;
const batchSize = 50;

const fieldFlags = {
  'trust-domain': { type: 'text', value: 'DOMAIN', summary: 'the trust domain whose bundle is fetched' },
  'bundle-endpoint-url': { type: 'text', value: 'URL', summary: 'where its bundle is served' },
  'bundle-endpoint-profile': {
    type: 'text',
    summary: 'how the endpoint is known: https_web by its host name, https_spiffe by its SPIFFE ID',
    choices: ['https_web', 'https_spiffe'],
  },
  'endpoint-spiffe-id': { type: 'text', value: 'ID', summary: 'the SPIFFE ID of an https_spiffe endpoint' },
  'trust-domain-bundle-path': { type: 'text', value: 'FILE', summary: 'a bundle to begin with; - for standard input' },
  'trust-domain-bundle-format': { type: 'text', summary: 'of that bundle; pem unless given', choices: ['pem', 'spiffe'] },
  file: { type: 'text', value: 'FILE', summary: 'YAML or JSON with many relationships; - for standard input' },
} as const satisfies Record<string, FlagSpec>;

const domainFlags = {
  'trust-domain': { type: 'text', value: 'DOMAIN', summary: 'the trust domain' },
  id: { type: 'text', value: 'DOMAIN', summary: 'the same, as SPIRE names it' },
} as const satisfies Record<string, FlagSpec>;

const bundleModes = { restrict: 'RESTRICT', delete: 'DELETE', dissociate: 'DISSOCIATE' } as const;

export const federationCommands: readonly Command[] = [
  command({
    name: 'federation create',
    summary: 'fetch the bundle of another trust domain from now on',
    usage: [
      '--trust-domain DOMAIN --bundle-endpoint-url URL --bundle-endpoint-profile https_web',
      '--trust-domain DOMAIN --bundle-endpoint-url URL --bundle-endpoint-profile https_spiffe --endpoint-spiffe-id ID …',
      '--file FILE',
    ],
    flags: { ...serverSocketFlag, ...outputFlag, ...fieldFlags },
    async run({ flags }, io) {
      const asked = flags.file === undefined ? [messageOf(await fromFlags(flags, io))] : await fromFile(flags.file, io);
      return change(flags, io, asked, async ({ client, services, signal }, batch) => {
        const request = { federation_relationships: [...batch] };
        return (await client.unary(services[service].BatchCreateFederationRelationship, request, { signal })).results;
      });
    },
  }),
  command({
    name: 'federation list',
    summary: 'list relationships, and how fetching their bundles goes',
    flags: { ...serverSocketFlag, ...outputFlag },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service, operator], async (line) => {
        const found: FederationRelationship__Output[] = [];
        const fetch = async (token: string) => {
          const request = { page_size: 200, page_token: token };
          const page = await line.client.unary(line.services[service].ListFederationRelationships, request, { signal: line.signal });
          return { items: page.federation_relationships, next: page.next_page_token };
        };
        for await (const page of pages(fetch)) found.push(...page);
        showRelationships(io, outputForm(flags.output), found, await statesOf(line), 'table');
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'federation show',
    summary: 'show one relationship',
    flags: { ...serverSocketFlag, ...outputFlag, ...domainFlags },
    positionals: ['DOMAIN'],
    async run({ flags, positionals }, io) {
      const trustDomain = domainOf(flags, positionals);
      return withServer(flags.socket, io, [service, operator], async (line) => {
        showRelationships(io, outputForm(flags.output), [await get(line, trustDomain)], await statesOf(line, trustDomain), 'record');
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'federation update',
    summary: 'change a relationship; what no flag names stays as it is',
    usage: ['--trust-domain DOMAIN [flags]', '--file FILE'],
    flags: { ...serverSocketFlag, ...outputFlag, ...fieldFlags },
    async run({ flags }, io) {
      const asked = flags.file === undefined ? undefined : await fromFile(flags.file, io);
      const items = asked ?? [await changed(flags, io)];
      return change(flags, io, items, async ({ client, services, signal }, batch) => {
        const request = { federation_relationships: [...batch] };
        return (await client.unary(services[service].BatchUpdateFederationRelationship, request, { signal })).results;
      });
    },
  }),
  command({
    name: 'federation refresh',
    summary: 'fetch the bundle of a relationship now',
    flags: { ...serverSocketFlag, ...domainFlags },
    positionals: ['DOMAIN'],
    async run({ flags, positionals }, io) {
      const request = { trust_domain: domainOf(flags, positionals) };
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        await client.unary(services[service].RefreshBundle, request, { signal });
        io.out('bundle refreshed\n');
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'federation delete',
    summary: 'end a relationship; its bundle stays trusted unless --bundle says otherwise',
    flags: {
      ...serverSocketFlag,
      ...domainFlags,
      bundle: {
        type: 'text',
        summary: 'what becomes of the bundle: kept, or deleted as by `bundle delete --mode`',
        choices: ['keep', 'restrict', 'delete', 'dissociate'],
      },
    },
    positionals: ['DOMAIN'],
    async run({ flags, positionals }, io) {
      const trustDomain = domainOf(flags, positionals);
      return withServer(flags.socket, io, [service, bundleService], async ({ client, services, signal }) => {
        const ending = { trust_domains: [trustDomain] };
        const ended = await client.unary(services[service].BatchDeleteFederationRelationship, ending, { signal });
        if (!isDone(ended.results[0]?.status, io)) return exitCodes.failed;
        io.out('relationship deleted\n');
        if (flags.bundle === undefined || flags.bundle === 'keep') {
          io.err(`its bundle, where there is one, is kept and trusted; \`steeple bundle delete --id ${plain(trustDomain)}\` ends that\n`);
          return exitCodes.ok;
        }
        const mode = bundleModes[flags.bundle as keyof typeof bundleModes];
        const deleted = await client.unary(services[bundleService].BatchDeleteFederatedBundle, { ...ending, mode }, { signal });
        const status = deleted.results[0]?.status;
        // It never came.
        if (status?.code === notFound) return exitCodes.ok;
        if (!isDone(status, io)) return exitCodes.failed;
        io.out('bundle deleted\n');
        return exitCodes.ok;
      });
    },
  }),
];

const notFound = 5;

interface FieldFlags {
  readonly socket: string | undefined;
  readonly 'trust-domain': string | undefined;
  readonly 'bundle-endpoint-url': string | undefined;
  readonly 'bundle-endpoint-profile': string | undefined;
  readonly 'endpoint-spiffe-id': string | undefined;
  readonly 'trust-domain-bundle-path': string | undefined;
  readonly 'trust-domain-bundle-format': string | undefined;
}

/** @throws invalid `cli.federation.flag` */
async function fromFlags(flags: FieldFlags, io: Io): Promise<RelationshipItem> {
  const profile = flags['bundle-endpoint-profile'];
  // Nothing is inferred from anything else [Federation 5.1].
  if (profile === undefined) throw missing('--bundle-endpoint-profile');
  return {
    trustDomain: flags['trust-domain'] ?? refuse('--trust-domain'),
    endpointUrl: flags['bundle-endpoint-url'] ?? refuse('--bundle-endpoint-url'),
    profile: profile as RelationshipItem['profile'],
    endpointId: flags['endpoint-spiffe-id'],
    bundle: await bundleOf(flags, io),
  };
}

/** The relationship as it is, with what the flags say of it: the server looks at all of it. */
async function changed(flags: FieldFlags, io: Io): Promise<FederationRelationship> {
  const trustDomain = trustDomainFromText(flags['trust-domain'] ?? refuse('--trust-domain or --file'));
  const bundle = await bundleOf(flags, io);
  const known = await withServer(flags.socket, io, [service], (line) => get(line, trustDomain));
  return messageOf({
    trustDomain,
    endpointUrl: flags['bundle-endpoint-url'] ?? known.bundle_endpoint_url,
    profile: (flags['bundle-endpoint-profile'] ?? (known.https_spiffe ? 'https_spiffe' : 'https_web')) as RelationshipItem['profile'],
    endpointId: flags['endpoint-spiffe-id'] ?? known.https_spiffe?.endpoint_spiffe_id,
    bundle,
  });
}

async function bundleOf(flags: FieldFlags, io: Io): Promise<RelationshipItem['bundle']> {
  const path = flags['trust-domain-bundle-path'];
  if (path === undefined) return undefined;
  return { text: await readText(path, io), format: (flags['trust-domain-bundle-format'] ?? 'pem') as BundleFormat };
}

async function fromFile(file: string, io: Io): Promise<readonly FederationRelationship[]> {
  return readRelationships(await readText(file, io), file).map(messageOf);
}

function messageOf({ trustDomain: name, endpointUrl, profile, endpointId, bundle }: RelationshipItem): FederationRelationship {
  const trustDomain = trustDomainFromText(name);
  if (profile === 'https_spiffe' && endpointId === undefined) throw missing('--endpoint-spiffe-id');
  return {
    trust_domain: trustDomain,
    bundle_endpoint_url: endpointUrl,
    ...(profile === 'https_web' ? { https_web: {} } : { https_spiffe: { endpoint_spiffe_id: endpointId ?? '' } }),
    ...(bundle !== undefined && { trust_domain_bundle: bundleToMessage(parseBundleText(bundle.text, bundle.format, trustDomain)) }),
  };
}

function refuse(what: string): never {
  throw missing(what);
}

function missing(what: string): SpiffeError {
  return new SpiffeError('invalid', 'cli.federation.flag', `${what} is needed`);
}

function domainOf(flags: { readonly 'trust-domain': string | undefined; readonly id: string | undefined }, positionals: readonly string[]): TrustDomain {
  return trustDomainFromText(flags['trust-domain'] ?? flags.id ?? positionals[0] ?? refuse('which trust domain? --trust-domain'));
}

function get({ client, services, signal }: Line<typeof service>, trustDomain: TrustDomain): Promise<FederationRelationship__Output> {
  return client.unary(services[service].GetFederationRelationship, { trust_domain: trustDomain }, { signal });
}

interface Result {
  readonly status: Status__Output | null;
  readonly federation_relationship: FederationRelationship__Output | null;
}

/** Sends the items in batches, and shows every item that failed. */
async function change(
  flags: { readonly socket: string | undefined; readonly output: string | undefined },
  io: Io,
  asked: readonly FederationRelationship[],
  send: (line: FederationLine, batch: readonly FederationRelationship[]) => Promise<readonly Result[]>,
): Promise<number> {
  const form = outputForm(flags.output);
  return withServer(flags.socket, io, [service, operator], async (line) => {
    const results: { readonly name: string; readonly result: Result | undefined }[] = [];
    for (const batch of slices(asked, batchSize)) {
      const answers = await send(line, batch);
      results.push(...batch.map(({ trust_domain = '' }, index) => ({ name: trust_domain, result: answers[index] })));
    }
    const failed = results.filter(({ result }) => result?.status?.code !== 0);
    const done = results.flatMap(({ result }) => (result?.status?.code === 0 && result.federation_relationship ? [result.federation_relationship] : []));
    if (form === 'json') {
      const states = await statesOf(line);
      io.out(json(results.map(({ result }) => ({
        status: result?.status ?? null,
        relationship: result?.federation_relationship ? relationshipView(result.federation_relationship, states) : null,
      }))));
    } else {
      for (const { name, result } of failed) io.err(`${plain(name)}: ${plain(result?.status?.message ?? 'no answer')}\n`);
      if (asked.length > 1) io.out(`${done.length} done, ${failed.length} failed\n`);
      else if (done.length === 1) showRelationships(io, form, done, new Map(), 'record');
    }
    return failed.length === 0 ? exitCodes.ok : exitCodes.failed;
  });
}

function isDone(status: Status__Output | null | undefined, io: Io): boolean {
  if (status?.code === 0) return true;
  io.err(`${plain(status?.message ?? 'no answer')}\n`);
  return false;
}

async function statesOf({ client, services, signal }: FederationLine, trustDomain: TrustDomain | '' = ''): Promise<States> {
  const { states } = await client.unary(services[operator].ListRelationshipStates, { trust_domain: trustDomain }, { signal });
  return new Map(states.map((state) => [state.trust_domain, state]));
}

async function readText(path: string, io: Io): Promise<string> {
  if (path === '-') return io.input();
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new SpiffeError('invalid', 'cli.file.unreadable', `cannot read ${path}`, { cause });
  }
}
