/**
 * The seam to whatever proves which node this is: it produces evidence and answers challenges. What the server makes of
 * it is not known here; the table from a configured type to an implementation is in `agent.ts`.
 */

/** One attempt at proving the node. */
export interface Evidence {
  readonly payload: Uint8Array;
  /** @throws denied `evidence.challenge.unexpected`, invalid `evidence.challenge.malformed` */
  answer(challenge: Uint8Array): Promise<Uint8Array>;
}

export interface EvidenceSource {
  /** As the server's verifier is called: `join_token`, `x509pop`. */
  readonly type: string;
  /** Whether `produce` can be expected to convince the server more than once. */
  readonly repeatable: boolean;
  /** Read afresh each time, so that replaced files count. @throws invalid or unavailable with a reason of the source */
  produce(): Promise<Evidence>;
}
