/**
 * `steeple entry …`: registration entries created, shown, changed and deleted, one by flags or many from a file. The
 * rules of entries are the server's; it answers for each item.
 */
import { readFile } from 'node:fs/promises';
import { parse as parseYaml } from 'yaml';
import { entryFromMessage } from '../../proto/convert/entry.ts';
import { idToMessage } from '../../proto/convert/id.ts';
import { federatesWithMatchToMessage, selectorMatchToMessage } from '../../proto/convert/selector.ts';
import type { Entry, Entry__Output } from '../../proto/gen/spire/api/types/Entry.ts';
import type { EntryMask } from '../../proto/gen/spire/api/types/EntryMask.ts';
import type { Status__Output } from '../../proto/gen/spire/api/types/Status.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, trustDomainFromText } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { command, type Command, exitCodes, type Io } from '../command.ts';
import { entryFileItems, type EntryFileItem } from '../entry-file.ts';
import type { FlagSpecs, FlagValues } from '../flags.ts';
import { type Line, pages, serverSocketFlag, slices, withServer } from '../operators.ts';
import { instant, json, outputFlag, outputForm, plain, record, table } from '../print.ts';

const service = 'spire.api.server.entry.v1.Entry';
type EntryLine = Line<typeof service>;
const batchSize = 200;

const fieldFlags = {
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

export const entryCommands: readonly Command[] = [
  command({
    name: 'entry create',
    summary: 'register an identity, or many from a file',
    usage: ['--parent-id ID --spiffe-id ID --selector TYPE:VALUE …', '--file FILE'],
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      ...fieldFlags,
      id: { type: 'text', value: 'ID', summary: 'the entry id; made up by the server when absent' },
      node: { type: 'switch', summary: 'an alias of nodes: the parent is the server' },
      file: { type: 'text', value: 'FILE', summary: 'YAML or JSON with many entries; - for standard input' },
    },
    async run({ flags }, io) {
      const asked = flags.file === undefined ? [fromFlags(flags, flags.id, flags.node === true)] : await fromFile(flags.file, io);
      return change(flags, io, asked, async ({ client, services, signal }, batch) => {
        const { results } = await client.unary(services[service].BatchCreateEntry, { entries: [...batch] }, { signal });
        return results;
      });
    },
  }),
  command({
    name: 'entry update',
    summary: 'change an entry; what no flag names stays as it is',
    usage: ['--id ID [flags]', '--file FILE'],
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      ...fieldFlags,
      id: { type: 'text', value: 'ID', summary: 'the entry to change' },
      file: { type: 'text', value: 'FILE', summary: 'YAML or JSON with many entries, each replaced whole' },
    },
    async run({ flags }, io) {
      const { id } = flags;
      if (flags.file !== undefined) {
        const asked = await fromFile(flags.file, io);
        return change(flags, io, asked, async ({ client, services, signal }, batch) => {
          const { results } = await client.unary(services[service].BatchUpdateEntry, { entries: [...batch] }, { signal });
          return results;
        });
      }
      if (id === undefined) throw new SpiffeError('invalid', 'cli.entry.id', '--id or --file is needed');
      const { entry, mask } = changedFields(flags, id);
      return change(flags, io, [entry], async ({ client, services, signal }, batch) => {
        const request = { entries: [...batch], input_mask: mask };
        return (await client.unary(services[service].BatchUpdateEntry, request, { signal })).results;
      });
    },
  }),
  command({
    name: 'entry show',
    summary: 'show entries, all or those that match',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      id: { type: 'text', value: 'ID', summary: 'one entry by its id' },
      'spiffe-id': { type: 'text', value: 'ID', summary: 'entries that give this identity' },
      'parent-id': { type: 'text', value: 'ID', summary: 'entries below this parent' },
      selector: { type: 'list', value: 'TYPE:VALUE', summary: 'entries with these selectors' },
      'match-selectors-on': { type: 'text', summary: 'how selectors compare', choices: ['exact', 'subset', 'superset', 'any'] },
      'federates-with': { type: 'list', value: 'DOMAIN', summary: 'entries that federate with these' },
      'match-federates-with-on': { type: 'text', summary: 'how trust domains compare', choices: ['exact', 'subset', 'superset', 'any'] },
      hint: { type: 'text', value: 'TEXT', summary: 'entries with this hint' },
      downstream: { type: 'switch', summary: 'entries of downstream servers' },
    },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service], async (line) => {
        if (flags.id !== undefined) {
          const entry = await line.client.unary(line.services[service].GetEntry, { id: flags.id }, { signal: line.signal });
          return showAll(io, outputForm(flags.output), [entry]);
        }
        const found: Entry__Output[] = [];
        for await (const page of listed(line, filterOf(flags))) found.push(...page);
        return showAll(io, outputForm(flags.output), found);
      });
    },
  }),
  command({
    name: 'entry count',
    summary: 'count entries, all or those that match',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      'spiffe-id': { type: 'text', value: 'ID', summary: 'entries that give this identity' },
      'parent-id': { type: 'text', value: 'ID', summary: 'entries below this parent' },
      selector: { type: 'list', value: 'TYPE:VALUE', summary: 'entries with these selectors' },
      'match-selectors-on': { type: 'text', summary: 'how selectors compare', choices: ['exact', 'subset', 'superset', 'any'] },
      'federates-with': { type: 'list', value: 'DOMAIN', summary: 'entries that federate with these' },
      'match-federates-with-on': { type: 'text', summary: 'how trust domains compare', choices: ['exact', 'subset', 'superset', 'any'] },
      hint: { type: 'text', value: 'TEXT', summary: 'entries with this hint' },
      downstream: { type: 'switch', summary: 'entries of downstream servers' },
    },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const { count } = await client.unary(services[service].CountEntries, { filter: filterOf(flags) }, { signal });
        io.out(outputForm(flags.output) === 'json' ? json({ count }) : `${count}\n`);
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'entry delete',
    summary: 'delete entries; their identities end with them',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      id: { type: 'list', value: 'ID', summary: 'an entry; may be repeated' },
      file: { type: 'text', value: 'FILE', summary: 'ids, one a line; - for standard input' },
    },
    positionals: ['ID…'],
    async run({ flags, positionals }, io) {
      const listedIds = flags.file === undefined ? [] : (await readText(flags.file, io)).split(/\s+/).filter((id) => id !== '');
      const ids = [...flags.id, ...positionals, ...listedIds];
      if (ids.length === 0) throw new SpiffeError('invalid', 'cli.entry.id', 'which entries? --id or --file is needed');
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const outcomes: { id: string; code: number; message: string }[] = [];
        for (const batch of slices(ids, batchSize)) {
          const { results } = await client.unary(services[service].BatchDeleteEntry, { ids: [...batch] }, { signal });
          outcomes.push(...results.map(({ id, status }) => ({ id, code: status?.code ?? 2, message: status?.message ?? '' })));
        }
        const failed = outcomes.filter(({ code }) => code !== 0);
        if (outputForm(flags.output) === 'json') io.out(json(outcomes));
        else for (const { id, code, message } of outcomes) io.out(`${plain(id)}  ${code === 0 ? 'deleted' : plain(message)}\n`);
        return failed.length === 0 ? exitCodes.ok : exitCodes.failed;
      });
    },
  }),
];

interface Result {
  readonly status: Status__Output | null;
  readonly entry: Entry__Output | null;
}

/** Sends the items in batches, tells how far it is when there are many, and shows every item that failed. */
async function change(
  flags: { readonly socket: string | undefined; readonly output: string | undefined },
  io: Io,
  asked: readonly Entry[],
  send: (line: EntryLine, batch: readonly Entry[]) => Promise<readonly Result[]>,
): Promise<number> {
  const form = outputForm(flags.output);
  return withServer(flags.socket, io, [service], async (line) => {
    const results: { asked: Entry; result: Result | undefined }[] = [];
    for (const batch of slices(asked, batchSize)) {
      const answers = await send(line, batch);
      results.push(...batch.map((item, index) => ({ asked: item, result: answers[index] })));
      if (asked.length > batchSize) io.err(`${results.length} of ${asked.length}\n`);
    }
    const failed = results.filter(({ result }) => result?.status?.code !== 0);
    if (form === 'json') {
      io.out(json(results.map(({ result }) => ({ status: result?.status ?? null, entry: result?.entry ? view(result.entry) : null }))));
    } else if (asked.length === 1 && failed.length === 0 && results[0]?.result?.entry) {
      io.out(recordOf(entryFromMessage(results[0].result.entry)));
    } else {
      for (const { asked: item, result } of failed) {
        const id = item.id || item.spiffe_id?.path || '';
        io.err(`${plain(id)}: ${plain(result?.status?.message ?? 'no answer')}\n`);
      }
      if (asked.length > 1) io.out(`${results.length - failed.length} done, ${failed.length} failed\n`);
    }
    return failed.length === 0 ? exitCodes.ok : exitCodes.failed;
  });
}

function fromFlags(flags: FieldValues, id: string | undefined, node: boolean): Entry {
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

function changedFields(flags: FieldValues, id: string): { entry: Entry; mask: EntryMask } {
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

function itemToMessage(item: EntryFileItem): Entry {
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

async function fromFile(file: string, io: Io): Promise<readonly Entry[]> {
  const text = await readText(file, io);
  let document: unknown;
  try {
    document = parseYaml(text, { maxAliasCount: 0, uniqueKeys: true });
  } catch (cause) {
    throw new SpiffeError('invalid', 'cli.entry-file.syntax', `${file} is neither YAML nor JSON`, { cause });
  }
  return entryFileItems(document).map(itemToMessage);
}

async function readText(file: string, io: Io): Promise<string> {
  if (file === '-') return io.input();
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new SpiffeError('invalid', 'cli.file.unreadable', `cannot read ${file}`, { cause });
  }
}

interface FilterFlags {
  readonly 'spiffe-id': string | undefined;
  readonly 'parent-id': string | undefined;
  readonly selector: readonly string[];
  readonly 'match-selectors-on': string | undefined;
  readonly 'federates-with': readonly string[];
  readonly 'match-federates-with-on': string | undefined;
  readonly hint: string | undefined;
  readonly downstream: boolean | undefined;
}

type Behavior = 'exact' | 'subset' | 'superset' | 'any';

function filterOf(flags: FilterFlags): object {
  return {
    ...(flags['spiffe-id'] !== undefined && { by_spiffe_id: idToMessage(parseSpiffeId(flags['spiffe-id'])) }),
    ...(flags['parent-id'] !== undefined && { by_parent_id: idToMessage(parseSpiffeId(flags['parent-id'])) }),
    ...(flags.selector.length > 0 && {
      by_selectors: selectorMatchToMessage({
        members: new Set(flags.selector.map(parseSelector)),
        behavior: (flags['match-selectors-on'] ?? 'superset') as Behavior,
      }),
    }),
    ...(flags['federates-with'].length > 0 && {
      by_federates_with: federatesWithMatchToMessage({
        members: new Set(flags['federates-with'].map(trustDomainFromText)),
        behavior: (flags['match-federates-with-on'] ?? 'superset') as Behavior,
      }),
    }),
    ...(flags.hint !== undefined && { by_hint: { value: flags.hint } }),
    ...(flags.downstream !== undefined && { by_downstream: { value: flags.downstream } }),
  };
}

function listed({ client, services, signal }: EntryLine, filter: object): AsyncGenerator<readonly Entry__Output[]> {
  return pages(async (token) => {
    const request = { filter, page_size: 500, page_token: token };
    const page = await client.unary(services[service].ListEntries, request, { signal });
    return { items: page.entries, next: page.next_page_token };
  });
}

function showAll(io: Io, form: 'table' | 'json', messages: readonly Entry__Output[]): number {
  if (form === 'json') {
    io.out(json(messages.map(view)));
    return exitCodes.ok;
  }
  const entries = messages.map(entryFromMessage);
  const [only] = entries;
  if (entries.length === 1 && only !== undefined) {
    io.out(recordOf(only));
    return exitCodes.ok;
  }
  io.out(
    table(
      ['ID', 'SPIFFE ID', 'PARENT', 'SELECTORS'],
      entries.map((entry) => [entry.id, entry.spiffeId, entry.parentId, entry.selectors.join(' ')]),
    ),
  );
  io.err(`${entries.length} entries\n`);
  return exitCodes.ok;
}

/** For programs: the words of an entry file, so that what is shown can be sent back. */
function view(message: Entry__Output): object {
  const entry = entryFromMessage(message);
  return { ...entry, expiresAt: entry.expiresAt === undefined ? null : instant(entry.expiresAt), createdAt: instant(entry.createdAt) };
}

function recordOf(entry: RegistrationEntry): string {
  const flagsOn = [
    entry.admin && 'admin',
    entry.downstream && 'downstream',
    entry.storeSvid && 'store-svid',
    entry.disableX509SvidPrefetch && 'disable-x509-svid-prefetch',
    entry.jwtSvidIncludeJti && 'jwt-svid-include-jti',
    entry.forbidCache && 'forbid-cache',
  ].filter((flag) => flag !== false);
  const ttl = (seconds: number): string => (seconds === 0 ? 'default' : `${seconds}s`);
  return record([
    ['Entry ID', entry.id],
    ['SPIFFE ID', entry.spiffeId],
    ['Parent ID', entry.parentId],
    ['Revision', String(entry.revisionNumber)],
    ['X509-SVID TTL', ttl(entry.x509SvidTtlSeconds)],
    ['JWT-SVID TTL', ttl(entry.jwtSvidTtlSeconds)],
    ['Selectors', entry.selectors],
    ['Federates with', entry.federatesWith],
    ['DNS names', entry.dnsNames],
    ['Hint', entry.hint],
    ['Flags', flagsOn],
    ['Created', instant(entry.createdAt)],
    ['Expires', instant(entry.expiresAt)],
  ]);
}

