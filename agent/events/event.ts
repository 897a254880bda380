/**
 * What an agent witnesses about workloads, as values. Numbering and keeping them is `spool.ts`, sampling and shipping
 * `report.ts`.
 */
import type { WorkloadProcess } from '../process.ts';

export const eventKinds = ['attested', 'matched', 'delivered', 'rotated', 'refused', 'closed', 'gap', 'sampled'] as const;
export type EventKind = (typeof eventKinds)[number];

export interface WorkloadEvent {
  /** Epoch milliseconds. */
  readonly at: number;
  readonly kind: EventKind;
  readonly process: WorkloadProcess | undefined;
  readonly selectors: readonly string[];
  readonly entryId: string;
  readonly spiffeId: string;
  /** Serial in lower hex for an X509-SVID, jti for a JWT-SVID when it has one. */
  readonly credential: string;
  readonly reason: string;
  /** Of the Workload API, when a call of it was refused or is over. */
  readonly method: string;
  /** SPIFFE ID of who asked on behalf of the process, and how it referred to it; `''` when the process asked itself. */
  readonly broker: string;
  readonly reference: string;
  /** How many events this one stands for. */
  readonly count: number;
}

export interface NumberedEvent extends WorkloadEvent {
  /** From 1, without gaps within a spool. */
  readonly sequence: number;
}

/** What is not given is empty; the count is one. */
export function composeEvent(event: Pick<WorkloadEvent, 'at' | 'kind'> & Partial<WorkloadEvent>): WorkloadEvent {
  return Object.freeze({
    process: undefined,
    selectors: [],
    entryId: '',
    spiffeId: '',
    credential: '',
    reason: '',
    method: '',
    broker: '',
    reference: '',
    count: 1,
    ...event,
  });
}
