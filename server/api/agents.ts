/**
 * SPIRE's agent service: how a node joins and stays, and what operators do with agents. Which evidence counts is
 * `admission/`; what ends an agent's stream is told to the feed here.
 */
import { agentToMessage } from '../../proto/convert/agent.ts';
import { agentIdFromMessage, workloadIdFromMessage } from '../../proto/convert/id.ts';
import { secondsFromInstant } from '../../proto/convert/scalar.ts';
import { selectorMatchFromMessage } from '../../proto/convert/selector.ts';
import { x509SvidToMessage, type IssuedX509Svid } from '../../proto/convert/svid.ts';
import type { AttestAgentRequest__Output } from '../../proto/gen/spire/api/server/agent/v1/AttestAgentRequest.ts';
import type { AttestAgentResponse } from '../../proto/gen/spire/api/server/agent/v1/AttestAgentResponse.ts';
import type { _spire_api_server_agent_v1_ListAgentsRequest_Filter__Output as FilterMessage } from '../../proto/gen/spire/api/server/agent/v1/ListAgentsRequest.ts';
import type { SPIFFEID__Output } from '../../proto/gen/spire/api/types/SPIFFEID.ts';
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { AgentFilter } from '../registry/agents.ts';
import type { AgentRecord, Page, Scope, Store } from '../store/store.ts';
import { agentOf, type Caller, scopeOf } from './caller.ts';
import type { Handlers } from './handlers.ts';

/** How long one attestation may take, all challenges included. */
const attestLimitMs = 30_000;
const maxVersionBytes = 255;

export interface Evidence {
  readonly type: string;
  readonly payload: Uint8Array;
  readonly csr: Uint8Array;
  readonly address: string;
}

/** A node's admission and stay. */
export interface Admission {
  /** Poses challenges through `challenge`. */
  admit(
    evidence: Evidence,
    challenge: (bytes: Uint8Array) => Promise<Uint8Array>,
    scope: Scope,
    signal: AbortSignal,
  ): Promise<{ readonly svid: IssuedX509Svid; readonly canReattest: boolean }>;
  renew(agent: AgentRecord, csr: Uint8Array, scope: Scope): Promise<IssuedX509Svid>;
  createToken(
    asked: { readonly ttlSeconds: number; readonly token: string; readonly agentId: SpiffeId | undefined },
    scope: Scope,
  ): Promise<{ readonly token: string; readonly expiresAt: number }>;
}

export interface AgentQueries {
  get(id: SpiffeId): AgentRecord | undefined;
  count(filter: AgentFilter): number;
  list(filter: AgentFilter, pageSize: number, pageToken: string): Page<AgentRecord>;
}

export interface AgentsDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly admission: Admission;
  readonly agents: AgentQueries;
  readonly store: Pick<Store, 'banAgent' | 'deleteAgent' | 'setAgentVersion'>;
  /** Ends the agent's stream and connections now; it is told why first. */
  readonly disconnect: (id: SpiffeId, why: 'banned' | 'evicted') => void;
}

export function createAgentsApi(deps: AgentsDeps): Handlers<'spire.api.server.agent.v1.Agent'> {
  const { trustDomain, clock, admission, agents, store } = deps;

  const agentId = (message: SPIFFEID__Output | null): SpiffeId => {
    try {
      return agentIdFromMessage(message, trustDomain);
    } catch (error) {
      if (!(error instanceof SpiffeError)) throw error;
      throw new SpiffeError('invalid', 'agent.id', `invalid agent ID: ${error.message}`, { cause: error });
    }
  };

  return {
    async CountAgents({ filter }) {
      return { count: agents.count(filterFrom(filter)) };
    },

    async ListAgents({ filter, output_mask, page_size, page_token }) {
      const page = agents.list(filterFrom(filter), page_size, page_token);
      return { agents: page.items.map((agent) => agentToMessage(agent, output_mask)), next_page_token: page.nextToken };
    },

    async GetAgent({ id, output_mask }) {
      const agent = agents.get(agentId(id));
      if (agent === undefined) throw new SpiffeError('missing', 'agent.unknown', 'agent not found');
      return agentToMessage(agent, output_mask);
    },

    async DeleteAgent({ id }, caller) {
      const evicted = agentId(id);
      await store.deleteAgent(evicted, scopeOf(caller, clock.now()));
      deps.disconnect(evicted, 'evicted');
      return {};
    },

    async BanAgent({ id }, caller) {
      const banned = agentId(id);
      await store.banAgent(banned, scopeOf(caller, clock.now()));
      deps.disconnect(banned, 'banned');
      return {};
    },

    AttestAgent(requests, caller, signal) {
      return attest(requests, caller, deps, signal);
    },

    async RenewAgent({ params }, caller) {
      if (params === null) throw new SpiffeError('invalid', 'agent.renew.params', 'params cannot be nil');
      if (params.csr.length === 0) throw new SpiffeError('invalid', 'agent.renew.csr', 'missing CSR');
      const svid = await admission.renew(agentOf(caller), params.csr, scopeOf(caller, clock.now()));
      return { svid: x509SvidToMessage(svid) };
    },

    async CreateJoinToken({ ttl, token, agent_id }, caller) {
      if (ttl < 1) throw new SpiffeError('invalid', 'token.ttl', 'ttl is required, you must provide one');
      const asked = { ttlSeconds: ttl, token, agentId: agent_id === null ? undefined : aliasId(agent_id, trustDomain) };
      const created = await admission.createToken(asked, scopeOf(caller, clock.now()));
      return { value: created.token, expires_at: secondsFromInstant(created.expiresAt) };
    },

    async PostStatus({ agent_version }, caller) {
      if (Buffer.byteLength(agent_version) > maxVersionBytes) {
        throw new SpiffeError('invalid', 'agent.version', 'agent version is too long (max 255 characters)');
      }
      const agent = agentOf(caller);
      if (agent_version !== '' && agent_version !== agent.agentVersion) {
        await store.setAgentVersion(agent.id, agent_version, scopeOf(caller, clock.now()));
      }
      return {};
    },
  };
}

/** Joins the admission, which asks when it likes, to the stream, which is answered in turns. */
async function* attest(
  requests: AsyncIterable<AttestAgentRequest__Output>,
  caller: Caller,
  { admission, clock }: AgentsDeps,
  callSignal: AbortSignal,
): AsyncIterable<AttestAgentResponse> {
  const done = new AbortController();
  const signal = AbortSignal.any([callSignal, done.signal]);
  const late = clock.sleep(attestLimitMs, signal).then(() => {
    throw new SpiffeError('unavailable', 'attest.time', 'attestation took too long');
  });
  late.catch(() => undefined);
  try {
    const incoming = requests[Symbol.asyncIterator]();
    const next = async (): Promise<AttestAgentRequest__Output> => {
      const step = await Promise.race([incoming.next(), late]);
      if (step.done === true) throw new SpiffeError('invalid', 'attest.ended', 'the stream ended before attestation did');
      return step.value;
    };
    const evidence = readParams(await next(), caller.address);
    let question = Promise.withResolvers<Uint8Array>();
    const challenge = async (bytes: Uint8Array): Promise<Uint8Array> => {
      question.resolve(bytes);
      const answer = await next();
      if (answer.step !== 'challenge_response' || !answer.challenge_response) {
        throw new SpiffeError('invalid', 'attest.challenge-response', 'expected a challenge response');
      }
      return answer.challenge_response;
    };
    const admitted = admission.admit(evidence, challenge, scopeOf(caller, clock.now()), signal);
    for (;;) {
      const turn = await Promise.race([
        question.promise.then((bytes) => ({ bytes })),
        admitted.then((result) => ({ result })),
        late,
      ]);
      if ('result' in turn) {
        const { svid, canReattest } = turn.result;
        yield { result: { svid: x509SvidToMessage(svid), reattestable: canReattest } };
        return;
      }
      question = Promise.withResolvers<Uint8Array>();
      yield { challenge: Buffer.from(turn.bytes) };
    }
  } finally {
    done.abort();
  }
}

/** @throws invalid `attest.params` */
function readParams(request: AttestAgentRequest__Output, address: string): Evidence {
  const missing = (what: string): SpiffeError => new SpiffeError('invalid', 'attest.params', `malformed param: missing ${what}`);
  if (request.step !== 'params' || !request.params) throw missing('params');
  const { data, params } = request.params;
  if (data === null) throw missing('attestation data');
  if (params === null) throw missing('X509-SVID parameters');
  if (params.csr.length === 0) throw missing('CSR');
  if (data.type === '') throw missing('attestation data type');
  if (data.payload.length === 0) throw missing('attestation data payload');
  return { type: data.type, payload: data.payload, csr: params.csr, address };
}

function aliasId(message: SPIFFEID__Output, trustDomain: TrustDomain): SpiffeId {
  try {
    return workloadIdFromMessage(message, trustDomain);
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    throw new SpiffeError('invalid', 'token.agent-id', `invalid agent ID: ${error.message}`, { cause: error });
  }
}

function filterFrom(message: FilterMessage | null): AgentFilter {
  if (message === null) return {};
  const expiresBefore = goInstant(message.by_expires_before);
  return {
    ...(message.by_attestation_type !== '' && { attestationType: message.by_attestation_type }),
    ...(message.by_selector_match !== null && { selectors: selectorMatchFromMessage(message.by_selector_match) }),
    ...(message.by_banned !== null && { banned: message.by_banned.value }),
    ...(message.by_can_reattest !== null && { canReattest: message.by_can_reattest.value }),
    ...(expiresBefore !== undefined && { expiresBefore }),
  };
}

/** Go's layout `2006-01-02 15:04:05 -0700 -07`; what does not read as that is no filter, as in the contract. */
function goInstant(text: string): number | undefined {
  const parts = /^(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}:\d{2}) ([+-]\d{2})(\d{2}) \S+$/.exec(text);
  if (parts === null) return undefined;
  const [, date = '', time = '', hours = '', minutes = ''] = parts;
  const at = Date.parse(`${date}T${time}${hours}:${minutes}`);
  return Number.isNaN(at) ? undefined : at;
}
