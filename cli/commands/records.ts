/**
 * `steeple ledger …`, `steeple audit …` and `steeple authority …`: who holds what, what happened, and which keys sign.
 * The server records and rotates; this shows and asks.
 */
import type { AuditEvent__Output } from '../../proto/gen/steeple/operator/v1/AuditEvent.ts';
import type { Authority__Output } from '../../proto/gen/steeple/operator/v1/Authority.ts';
import type { Credential__Output } from '../../proto/gen/steeple/operator/v1/Credential.ts';
import { systemClock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { command, type Command, exitCodes, type Io } from '../command.ts';
import type { FlagSpec } from '../flags.ts';
import { pages, serverSocketFlag, withServer } from '../operators.ts';
import { distance, instant, json, outputFlag, type OutputForm, outputForm, plain, record, table } from '../print.ts';

const service = 'steeple.operator.v1.Operator';

const limitFlag = {
  limit: { type: 'number', value: 'N', summary: 'at most so many; 100 unless given' },
} as const satisfies Record<string, FlagSpec>;

const kindFlag = {
  kind: { type: 'text', value: 'KIND', summary: 'x509, jwt or wit', choices: ['x509', 'jwt', 'wit'] },
} as const satisfies Record<string, FlagSpec>;

export const recordCommands: readonly Command[] = [
  command({
    name: 'ledger list',
    summary: 'list credentials, newest first: who holds which, until when',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      ...limitFlag,
      ...kindFlag,
      'spiffe-id': { type: 'text', value: 'ID', summary: 'credentials of this identity' },
      'entry-id': { type: 'text', value: 'ID', summary: 'credentials given by this entry' },
      'agent-id': { type: 'text', value: 'ID', summary: 'credentials asked for by this agent' },
      unexpired: { type: 'switch', summary: 'only those that are still valid' },
    },
    async run({ flags }, io) {
      const filter = {
        kind: flags.kind ?? '',
        spiffe_id: flags['spiffe-id'] ?? '',
        entry_id: flags['entry-id'] ?? '',
        agent_id: flags['agent-id'] ?? '',
        unexpired: flags.unexpired === true,
      };
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const found = await upTo(flags.limit ?? 100, (token, size) =>
          client
            .unary(services[service].ListCredentials, { ...filter, page_size: size, page_token: token }, { signal })
            .then((page) => ({ items: page.credentials, next: page.next_page_token })),
        );
        if (outputForm(flags.output) === 'json') io.out(json(found.map(credentialView)));
        else {
          const now = systemClock.now();
          io.out(
            table(
              ['ID', 'KIND', 'SPIFFE ID', 'STATE', 'ISSUED', 'EXPIRES', 'AGENT'],
              found.map((item) => [
                item.id,
                item.kind,
                item.spiffe_id,
                item.state,
                instant(Number(item.issued_at_ms)),
                distance(Number(item.expires_at_ms), now),
                item.agent_id,
              ]),
            ),
          );
        }
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'ledger show',
    summary: 'show one credential by its serial or jti: who asked, why it was granted',
    flags: { ...serverSocketFlag, ...outputFlag },
    positionals: ['SERIAL|JTI'],
    async run({ flags, positionals }, io) {
      const [id] = positionals;
      if (id === undefined) throw new SpiffeError('invalid', 'cli.ledger.id', 'which credential? its serial or jti is needed');
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const item = await client.unary(services[service].GetCredential, { id }, { signal });
        if (outputForm(flags.output) === 'json') io.out(json(credentialView(item)));
        else {
          io.out(
            record([
              ['ID', item.id],
              ['Kind', item.kind],
              ['SPIFFE ID', item.spiffe_id],
              ['State', item.state],
              ['Reason', item.reason],
              ['Decision', item.decision_id],
              ['Entry', item.entry_id],
              ['Agent', item.agent_id],
              ['Process', item.process],
              ['Audience', item.audience],
              ['Authority', item.authority_id],
              ['Issued', instant(Number(item.issued_at_ms))],
              ['Valid from', instant(Number(item.not_before_ms))],
              ['Expires', instant(Number(item.expires_at_ms))],
            ]),
          );
        }
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'audit search',
    summary: 'search the record, newest first',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      ...limitFlag,
      type: { type: 'text', value: 'TYPE', summary: 'events of this type, such as entry.created' },
      actor: { type: 'text', value: 'WHO', summary: 'events caused by this actor' },
      subject: { type: 'text', value: 'WHAT', summary: 'events about this entry, agent, identity or authority' },
      outcome: { type: 'text', summary: 'how it ended', choices: ['done', 'refused', 'failed'] },
      since: { type: 'text', value: 'WHEN', summary: 'an RFC 3339 instant, or a duration back from now' },
      until: { type: 'text', value: 'WHEN', summary: 'an RFC 3339 instant, or a duration back from now' },
    },
    async run({ flags }, io) {
      const filter = {
        type: flags.type ?? '',
        actor: flags.actor ?? '',
        subject: flags.subject ?? '',
        outcome: flags.outcome ?? '',
        since_ms: when('since', flags.since),
        until_ms: when('until', flags.until),
      };
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const found = await upTo(flags.limit ?? 100, (token, size) =>
          client
            .unary(services[service].SearchAudit, { ...filter, page_size: size, page_token: token }, { signal })
            .then((page) => ({ items: page.events, next: page.next_page_token })),
        );
        if (outputForm(flags.output) === 'json') io.out(json(found.map(eventView)));
        else io.out(found.toReversed().map(eventLine).join(''));
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'audit tail',
    summary: 'follow the record as it grows',
    flags: { ...serverSocketFlag, ...outputFlag, last: { type: 'number', value: 'N', summary: 'first the newest so many; 10 unless given' } },
    async run({ flags }, io) {
      const form = outputForm(flags.output);
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        try {
          for await (const event of client.serverStream(services[service].TailAudit, { last: flags.last ?? 10 }, { signal })) {
            io.out(form === 'json' ? `${JSON.stringify(eventView(event))}\n` : eventLine(event));
          }
        } catch (error) {
          // Left by the reader, which is how a tail ends.
          if (!io.signal.aborted) throw error;
        }
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'authority show',
    summary: 'show the keys that sign, that will sign and that signed',
    flags: { ...serverSocketFlag, ...outputFlag, ...kindFlag },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const { authorities } = await client.unary(services[service].ListAuthorities, {}, { signal });
        showAuthorities(io, outputForm(flags.output), authorities.filter(({ kind }) => flags.kind === undefined || kind === flags.kind));
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'authority prepare',
    summary: 'make the next authority and publish it in the bundle',
    flags: { ...serverSocketFlag, ...outputFlag, ...kindFlag },
    async run({ flags }, io) {
      const kind = wanted(flags.kind);
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const prepared = await client.unary(services[service].PrepareAuthority, { kind }, { signal });
        showAuthorities(io, outputForm(flags.output), [prepared]);
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'authority activate',
    summary: 'let a prepared authority sign from now on',
    flags: { ...serverSocketFlag, ...outputFlag, ...kindFlag, id: { type: 'text', value: 'ID', summary: 'the prepared authority' } },
    async run({ flags }, io) {
      const { id } = flags;
      if (id === undefined) throw new SpiffeError('invalid', 'cli.authority.id', '--id is needed; `steeple authority show` lists them');
      const kind = wanted(flags.kind);
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const active = await client.unary(services[service].ActivateAuthority, { kind, id }, { signal });
        showAuthorities(io, outputForm(flags.output), [active]);
        return exitCodes.ok;
      });
    },
  }),
];

async function upTo<T>(
  limit: number,
  fetch: (token: string, size: number) => Promise<{ readonly items: readonly T[]; readonly next: string }>,
): Promise<readonly T[]> {
  const found: T[] = [];
  for await (const page of pages((token) => fetch(token, Math.min(1000, Math.max(1, limit - found.length))))) {
    found.push(...page);
    if (found.length >= limit) break;
  }
  return found.slice(0, limit);
}

function wanted(kind: string | undefined): string {
  if (kind === undefined) throw new SpiffeError('invalid', 'cli.authority.kind', '--kind x509, --kind jwt or --kind wit is needed');
  return kind;
}

/** Epoch milliseconds of an instant, or of so long ago; 0 when absent. */
function when(flag: string, text: string | undefined): number {
  if (text === undefined) return 0;
  const back = /^(\d{1,9})([smhd])$/.exec(text);
  if (back !== null) {
    const unit = { s: 1, m: 60, h: 3600, d: 86_400 }[back[2] as 's' | 'm' | 'h' | 'd'];
    return systemClock.now() - Number(back[1]) * unit * 1000;
  }
  const at = Date.parse(text);
  if (Number.isNaN(at)) throw new SpiffeError('invalid', 'cli.audit.instant', `--${flag} wants 2030-01-31T12:00:00Z or 15m`);
  return at;
}

function showAuthorities(io: Io, form: OutputForm, authorities: readonly Authority__Output[]): void {
  if (form === 'json') {
    io.out(
      json(
        authorities.map((item) => ({
          kind: item.kind,
          id: item.id,
          state: item.state,
          keyType: item.key_type,
          createdAt: instant(Number(item.created_at_ms)),
          publishedAt: instant(Number(item.published_at_ms)),
          activatedAt: instant(Number(item.activated_at_ms)),
          expiresAt: instant(Number(item.expires_at_ms)),
          unconfirmedAgents: item.unconfirmed_agents,
        })),
      ),
    );
    return;
  }
  io.out(
    table(
      ['KIND', 'ID', 'STATE', 'KEY', 'CREATED', 'EXPIRES', 'WAITS FOR'],
      authorities.map((item) => [
        item.kind,
        item.id,
        item.state,
        item.key_type,
        instant(Number(item.created_at_ms)),
        instant(Number(item.expires_at_ms)),
        item.unconfirmed_agents.length === 0 ? '-' : `${item.unconfirmed_agents.length} agents`,
      ]),
    ),
  );
}

function credentialView(item: Credential__Output): object {
  return {
    id: item.id,
    kind: item.kind,
    spiffeId: item.spiffe_id,
    entryId: item.entry_id,
    agentId: item.agent_id,
    authorityId: item.authority_id,
    decisionId: item.decision_id,
    reason: item.reason,
    state: item.state,
    issuedAt: instant(Number(item.issued_at_ms)),
    notBeforeAt: instant(Number(item.not_before_ms)),
    expiresAt: instant(Number(item.expires_at_ms)),
    audience: item.audience,
    process: item.process,
  };
}

function eventView(event: AuditEvent__Output): object {
  return {
    number: Number(event.number),
    at: new Date(Number(event.at_ms)).toISOString(),
    type: event.type,
    actor: event.actor,
    call: event.call,
    outcome: event.outcome,
    reason: event.reason,
    subject: event.subject,
    detail: detailOf(event),
  };
}

function detailOf(event: AuditEvent__Output): unknown {
  try {
    return JSON.parse(event.detail) as unknown;
  } catch {
    return event.detail;
  }
}

function eventLine(event: AuditEvent__Output): string {
  const at = new Date(Number(event.at_ms)).toISOString();
  const why = event.reason === '' ? '' : ` (${event.reason})`;
  const about = event.subject === '' ? '' : ` ${event.subject}`;
  const more = event.detail === '{}' || event.detail === '' ? '' : ` ${event.detail}`;
  return `${plain(`${at} #${event.number} ${event.type} ${event.outcome}${why}${about} by ${event.actor}${more}`)}\n`;
}
