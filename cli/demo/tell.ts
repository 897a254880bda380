/**
 * What happens in the demo as lines for a person: when, who, what, and the facts of it. Where it is known from is
 * `story.ts`.
 */
import { z } from 'zod';
import type { AuditEvent__Output } from '../../proto/gen/steeple/operator/v1/AuditEvent.ts';
import type { Credential__Output } from '../../proto/gen/steeple/operator/v1/Credential.ts';
import { plain } from '../print.ts';

/** `12:00:01  agent    attested   pid 4242 …` */
export function happened(at: number, who: string, what: string, more: string): string {
  return `${clockTime(at)}  ${who.padEnd(7)}  ${what.padEnd(10)}  ${plain(more)}\n`;
}

export function clockTime(at: number): string {
  const time = new Date(at);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map((part) => String(part).padStart(2, '0')).join(':');
}

export interface Told {
  readonly who: string;
  readonly what: string;
  readonly more: string;
}

/**
 * What the record says of an event; nothing where it says no more than another line does.
 * @param credential what the ledger holds, when the event is about one
 */
export function tell(event: AuditEvent__Output, credential: Credential__Output | undefined): Told | undefined {
  const { type, subject, reason } = event;
  const detail = detailOf(event);
  const process = detail.pid === undefined ? subject : `pid ${detail.pid} ${detail.path ?? ''}`.trim();
  switch (type) {
    case 'agent.attested':
      return { who: 'server', what: 'admitted', more: subject };
    case 'agent.renewed':
      return { who: 'server', what: 'renewed', more: `agent ${subject}` };
    case 'entry.created':
    case 'entry.updated':
    case 'entry.deleted':
      return { who: 'server', what: type.slice('entry.'.length), more: `entry ${subject}${detail.spiffeId === undefined ? '' : ` for ${detail.spiffeId}`}` };
    case 'workload.attested':
      return { who: 'agent', what: 'attested', more: `${process}${chosen(detail.selectors)}${reason === '' ? '' : ` (${reason})`}` };
    case 'workload.delivered':
    case 'workload.rotated':
      return { who: 'server', what: 'issued', more: `${serialText(detail.credential)} to ${subject}${until(credential)}` };
    case 'workload.refused':
      return { who: 'agent', what: 'refused', more: `${process}: ${reason}` };
    case 'workload.matched':
    case 'workload.closed':
    case 'agent.inventory':
    case 'token.created':
      return undefined;
    default: {
      const [noun = '', verb = ''] = type.split('.');
      const about = [noun === 'server' ? '' : noun, subject, reason === '' ? '' : `(${reason})`].filter((part) => part !== '').join(' ');
      return { who: 'server', what: verb, more: about };
    }
  }
}

/** The serial or jti that the event is about. */
export function credentialOf(event: AuditEvent__Output): string | undefined {
  return detailOf(event).credential;
}

export function serialText(serial: string | undefined): string {
  return `serial ${(serial ?? '?').slice(0, 12)}…`;
}

const details = z.looseObject({
  pid: z.number().optional().catch(undefined),
  path: z.string().optional().catch(undefined),
  credential: z.string().optional().catch(undefined),
  spiffeId: z.string().optional().catch(undefined),
  selectors: z.array(z.string()).default([]).catch([]),
});

function detailOf(event: AuditEvent__Output): z.output<typeof details> {
  try {
    return details.parse(JSON.parse(event.detail));
  } catch {
    return { selectors: [] };
  }
}

/** The facts that the demo's entries ask for; the path is told already. */
function chosen(selectors: readonly string[]): string {
  const uid = selectors.find((selector) => selector.startsWith('unix:uid:'));
  return uid === undefined ? '' : ` uid ${uid.slice('unix:uid:'.length)}`;
}

function until(credential: Credential__Output | undefined): string {
  if (credential === undefined) return '';
  const because = credential.reason === '' ? '' : `: ${credential.reason}`;
  return ` until ${clockTime(Number(credential.expires_at_ms))}${because}`;
}
