/**
 * `steeple entry …`: registration entries created, shown, changed and deleted, one by flags or many from a file. The
 * rules of entries are the server's; it answers for each item.
 */
import { readFile } from 'node:fs/promises';
import { entryFromMessage } from '../../proto/convert/entry.ts';
import type { Entry, Entry__Output } from '../../proto/gen/spire/api/types/Entry.ts';
import type { Status__Output } from '../../proto/gen/spire/api/types/Status.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { command, type Command, exitCodes, type Io } from '../command.ts';
import { changedFields, fieldFlags, fromFlags, itemToMessage } from '../entry-fields.ts';
import { readEntries } from '../entry-file.ts';
import { filterFlags, filterOf } from '../entry-filter.ts';
import { entryRecord, entryView, showEntries } from '../entry-view.ts';
import { type Line, pages, serverSocketFlag, slices, withServer } from '../operators.ts';
import { json, outputFlag, outputForm, plain } from '../print.ts';

const service = 'spire.api.server.entry.v1.Entry';
const bundleService = 'spire.api.server.bundle.v1.Bundle';
type EntryLine = Line<typeof service | typeof bundleService>;
const batchSize = 200;

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
      ...filterFlags,
    },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service, bundleService], async (line) => {
        if (flags.id !== undefined) {
          const entry = await line.client.unary(line.services[service].GetEntry, { id: flags.id }, { signal: line.signal });
          return showEntries(io, outputForm(flags.output), [entry], await waitingFor(line, [entry]));
        }
        const found: Entry__Output[] = [];
        for await (const page of listed(line, filterOf(flags))) found.push(...page);
        return showEntries(io, outputForm(flags.output), found, await waitingFor(line, found));
      });
    },
  }),
  command({
    name: 'entry count',
    summary: 'count entries, all or those that match',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      ...filterFlags,
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
  return withServer(flags.socket, io, [service, bundleService], async (line) => {
    const results: { asked: Entry; result: Result | undefined }[] = [];
    for (const batch of slices(asked, batchSize)) {
      const answers = await send(line, batch);
      results.push(...batch.map((item, index) => ({ asked: item, result: answers[index] })));
      if (asked.length > batchSize) io.err(`${results.length} of ${asked.length}\n`);
    }
    const failed = results.filter(({ result }) => result?.status?.code !== 0);
    const waiting = await waitingFor(line, results.flatMap(({ result }) => result?.entry ?? []));
    if (form === 'json') {
      io.out(json(results.map(({ result }) => ({ status: result?.status ?? null, entry: result?.entry ? entryView(result.entry, waiting) : null }))));
    } else if (asked.length === 1 && failed.length === 0 && results[0]?.result?.entry) {
      io.out(entryRecord(entryFromMessage(results[0].result.entry), waiting));
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

/** The trust domains among those the entries federate with whose bundle the server does not have yet. */
async function waitingFor({ client, services, signal }: EntryLine, entries: readonly Entry__Output[]): Promise<ReadonlySet<string>> {
  const waiting = new Set(entries.flatMap((entry) => entry.federates_with.filter((name) => name !== entry.spiffe_id?.trust_domain)));
  if (waiting.size === 0) return waiting;
  // Names alone: every field that could be masked is.
  const request = { output_mask: {} };
  const { bundles } = await client.unary(services[bundleService].ListFederatedBundles, request, { signal });
  for (const { trust_domain } of bundles) waiting.delete(trust_domain);
  return waiting;
}

async function fromFile(file: string, io: Io): Promise<readonly Entry[]> {
  return readEntries(await readText(file, io), file).map(itemToMessage);
}

async function readText(file: string, io: Io): Promise<string> {
  if (file === '-') return io.input();
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new SpiffeError('invalid', 'cli.file.unreadable', `cannot read ${file}`, { cause });
  }
}

function listed({ client, services, signal }: EntryLine, filter: object): AsyncGenerator<readonly Entry__Output[]> {
  return pages(async (token) => {
    const request = { filter, page_size: 500, page_token: token };
    const page = await client.unary(services[service].ListEntries, request, { signal });
    return { items: page.entries, next: page.next_page_token };
  });
}
