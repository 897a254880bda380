/**
 * SPIRE's entry service: what operators ask of registration entries, and what polling agents sync. The rules of entries
 * are `registry/entries.ts`; our own agents follow instead (`node.ts`).
 */
import { entryDraftFromMessage, entryFieldsFromMessage, entryRevisionToMessage, entryToMessage, type EntryMaskMessage } from '../../proto/convert/entry.ts';
import { memberIdFromMessage, workloadIdFromMessage } from '../../proto/convert/id.ts';
import { federatesWithMatchFromMessage, selectorMatchFromMessage } from '../../proto/convert/selector.ts';
import type { SyncAuthorizedEntriesRequest__Output } from '../../proto/gen/spire/api/server/entry/v1/SyncAuthorizedEntriesRequest.ts';
import type { SyncAuthorizedEntriesResponse } from '../../proto/gen/spire/api/server/entry/v1/SyncAuthorizedEntriesResponse.ts';
import type { _spire_api_server_entry_v1_ListEntriesRequest_Filter__Output as FilterMessage } from '../../proto/gen/spire/api/server/entry/v1/ListEntriesRequest.ts';
import type { Entry } from '../../proto/gen/spire/api/types/Entry.ts';
import type { Clock } from '../../runtime/clock.ts';
import { type EntryDraft, isConversionFault, type RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { EntryFilter } from '../registry/index.ts';
import type { DeleteOutcome, EntryOutcome, EntryUpdate, Page, Scope } from '../store/store.ts';
import { agentOf, scopeOf } from './caller.ts';
import type { Handlers } from './handlers.ts';
import { type ItemStatus, okStatus, statusOf } from './item-status.ts';

/** Entries per message of a sync. */
const syncPage = 500;

export interface EntryRules {
  create(drafts: readonly EntryDraft[], scope: Scope): Promise<readonly EntryOutcome[]>;
  update(updates: readonly EntryUpdate[], scope: Scope): Promise<readonly EntryOutcome[]>;
  delete(ids: readonly string[], scope: Scope): Promise<readonly DeleteOutcome[]>;
}

export interface EntryQueries {
  get(id: string): RegistrationEntry | undefined;
  count(filter: EntryFilter): number;
  list(filter: EntryFilter, pageSize: number, pageToken: string): Page<RegistrationEntry>;
}

export interface EntriesDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly rules: EntryRules;
  readonly entries: EntryQueries;
  readonly authorizedEntries: (agentId: SpiffeId) => readonly RegistrationEntry[];
}

interface ItemResult {
  status: ItemStatus;
  entry?: Entry;
}

export function createEntriesApi(deps: EntriesDeps): Handlers<'spire.api.server.entry.v1.Entry'> {
  const { trustDomain, clock, rules, entries } = deps;

  return {
    async CountEntries({ filter }) {
      return { count: entries.count(filterFrom(filter, trustDomain)) };
    },

    async ListEntries({ filter, output_mask, page_size, page_token }) {
      const page = entries.list(filterFrom(filter, trustDomain), page_size, page_token);
      return { entries: page.items.map((entry) => entryToMessage(entry, output_mask)), next_page_token: page.nextToken };
    },

    async GetEntry({ id, output_mask }) {
      if (id === '') throw new SpiffeError('invalid', 'entry.id.missing', 'missing ID');
      const entry = entries.get(id);
      if (entry === undefined) throw new SpiffeError('missing', 'entry.unknown', 'entry not found');
      return entryToMessage(entry, output_mask);
    },

    async BatchCreateEntry(request, caller) {
      const drafts = request.entries.map((message) => attempt(() => entryDraftFromMessage(message)));
      const outcomes = await eachValid(drafts, (valid) => rules.create(valid, scopeOf(caller, clock.now())));
      return { results: outcomes.map((outcome) => itemResult(outcome, 'failed to create entry', request.output_mask)) };
    },

    async BatchUpdateEntry(request, caller) {
      const updates = request.entries.map((message) =>
        attempt((): EntryUpdate => ({ id: message.id, fields: entryFieldsFromMessage(message, request.input_mask) })),
      );
      const outcomes = await eachValid(updates, (valid) => rules.update(valid, scopeOf(caller, clock.now())));
      return { results: outcomes.map((outcome) => itemResult(outcome, 'failed to update entry', request.output_mask)) };
    },

    async BatchDeleteEntry({ ids }, caller) {
      const named = ids.filter((id) => id !== '');
      const outcomes = new Map((await rules.delete(named, scopeOf(caller, clock.now()))).map((outcome) => [outcome.id, outcome]));
      return {
        results: ids.map((id) => {
          if (id === '') return { status: { code: 3, message: 'missing entry ID' }, id };
          return { status: outcomes.get(id)?.status === 'done' ? okStatus : { code: 5, message: 'entry not found' }, id };
        }),
      };
    },

    async GetAuthorizedEntries({ output_mask }, caller) {
      const held = deps.authorizedEntries(agentOf(caller).id);
      return { entries: held.map((entry) => entryToMessage(entry, output_mask)) };
    },

    SyncAuthorizedEntries(requests, caller) {
      return sync(requests, deps.authorizedEntries(agentOf(caller).id));
    },
  };
}

/**
 * Up to a page is sent whole and the call ends; more is sent as revisions first, then as the client asks by id.
 * @throws invalid `sync.first-ids|revision-masked`
 */
async function* sync(
  requests: AsyncIterable<SyncAuthorizedEntriesRequest__Output>,
  held: readonly RegistrationEntry[],
): AsyncIterable<SyncAuthorizedEntriesResponse> {
  let mask: EntryMaskMessage;
  let first = true;
  const byId = new Map(held.map((entry) => [entry.id, entry]));
  for await (const request of requests) {
    if (first) {
      first = false;
      if (request.ids.length > 0) {
        throw new SpiffeError('invalid', 'sync.first-ids', 'specifying IDs on initial request is not supported');
      }
      mask = request.output_mask;
      if (mask && !mask.revision_number) {
        throw new SpiffeError('invalid', 'sync.revision-masked', 'revision number cannot be masked');
      }
      if (held.length <= syncPage) {
        yield { entries: held.map((entry) => entryToMessage(entry, mask)) };
        return;
      }
      for (let start = 0; start < held.length; start += syncPage) {
        const page = held.slice(start, start + syncPage);
        yield { entry_revisions: page.map(entryRevisionToMessage), more: start + syncPage < held.length };
      }
      continue;
    }
    const wanted = [...new Set(request.ids)].toSorted().flatMap((id) => byId.get(id) ?? []);
    for (let start = 0; start < Math.max(1, wanted.length); start += syncPage) {
      const page = wanted.slice(start, start + syncPage);
      yield { entries: page.map((entry) => entryToMessage(entry, mask)), more: start + syncPage < wanted.length };
    }
  }
}

/** @throws invalid `entry.filter.parent-id|spiffe-id` and as the set matches of `proto/convert/selector.ts` */
function filterFrom(message: FilterMessage | null, trustDomain: TrustDomain): EntryFilter {
  if (message === null) return {};
  return {
    ...(message.by_spiffe_id !== null && {
      spiffeId: worded('malformed SPIFFE ID filter', () => workloadIdFromMessage(message.by_spiffe_id, trustDomain)),
    }),
    ...(message.by_parent_id !== null && {
      parentId: worded('malformed parent ID filter', () => memberIdFromMessage(message.by_parent_id, trustDomain)),
    }),
    ...(message.by_selectors !== null && { selectors: selectorMatchFromMessage(message.by_selectors) }),
    ...(message.by_federates_with !== null && { federatesWith: federatesWithMatchFromMessage(message.by_federates_with) }),
    // The contract's callers always send these; their empty values ask for nothing.
    ...(message.by_hint !== null && message.by_hint.value !== '' && { hint: message.by_hint.value }),
    ...(message.by_downstream?.value === true && { downstream: true }),
  };
}

function worded<T>(prefix: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof SpiffeError) || error.kind !== 'invalid') throw error;
    throw new SpiffeError('invalid', error.reason, `${prefix}: ${error.message}`, { cause: error });
  }
}

type Attempt<T> = { readonly value: T } | { readonly error: SpiffeError };

/** A fault of the message is the outcome of its item; anything else ends the call. */
function attempt<T>(read: () => T): Attempt<T> {
  try {
    return { value: read() };
  } catch (error) {
    if (error instanceof SpiffeError && error.kind === 'invalid') return { error };
    throw error;
  }
}

/** Runs the valid items as one batch and puts all outcomes back into the order of the request. */
async function eachValid<T>(
  attempts: readonly Attempt<T>[],
  run: (valid: readonly T[]) => Promise<readonly EntryOutcome[]>,
): Promise<readonly EntryOutcome[]> {
  const valid = attempts.flatMap((item) => ('value' in item ? [item.value] : []));
  const outcomes = (valid.length === 0 ? [] : await run(valid)).values();
  return attempts.map((item) => {
    if ('error' in item) return { status: 'refused', error: item.error };
    const next = outcomes.next();
    if (next.done === true) throw new SpiffeError('internal', 'entry.batch', 'the registry answered fewer items than it was asked');
    return next.value;
  });
}

function itemResult(outcome: EntryOutcome, prefix: string, mask: EntryMaskMessage): ItemResult {
  switch (outcome.status) {
    case 'done':
      return { status: okStatus, entry: entryToMessage(outcome.entry, mask) };
    case 'similar':
      return { status: { code: 6, message: 'similar entry already exists' }, entry: entryToMessage(outcome.entry, mask) };
    case 'refused': {
      const { error } = outcome;
      // The contract drops the cause of what is not found.
      if (error.kind === 'missing') return { status: statusOf(error, prefix, 'bare') };
      const converting = error.kind === 'invalid' && isConversionFault(error);
      return { status: statusOf(error, converting ? 'failed to convert entry' : prefix) };
    }
  }
}
