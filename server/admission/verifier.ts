/**
 * The seam to whatever makes a node believable: it judges evidence, may pose challenges, and yields who the node is. What
 * follows from that, record and SVID, is `admit.ts`.
 */
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';

export interface VerifierContext {
  readonly trustDomain: TrustDomain;
  /** Of the node's end of the connection. */
  readonly remoteAddress: string;
  readonly at: number;
  /** Waits for somebody outside and lends the turn to other nodes meanwhile; rejects when the node has left. */
  readonly outside?: <T>(wait: () => Promise<T>) => Promise<T>;
}

export interface VerifiedNode {
  readonly agentId: SpiffeId;
  readonly selectors: readonly Selector[];
  /** Whether the same kind of evidence can be shown again. */
  readonly canReattest: boolean;
  /** The evidence could be shown by whoever once read it, so it makes an agent once and never again. */
  readonly firstUseOnly?: boolean;
  /** Of a token that has yet to be spent, in the transaction that records the agent. */
  readonly tokenHash: string | undefined;
}

export interface Verifier {
  /** As evidence names it. */
  readonly type: string;
  /** Since its attestation, after which an agent that renews has to prove itself anew; any time if absent. */
  readonly renewableMs?: number;
  /**
   * @param payload as it came; the verifier bounds it before it does anything with it
   * @throws invalid for evidence that cannot be read, denied for evidence that does not convince
   */
  verify(
    payload: Uint8Array,
    challenge: (bytes: Uint8Array) => Promise<Uint8Array>,
    context: VerifierContext,
  ): Promise<VerifiedNode>;
}
