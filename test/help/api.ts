/**
 * Calls handlers of the server's API the way the wire does: requests and responses pass through their protobuf form, so
 * that what a test sees is what a client would.
 */
import type { MethodDefinition } from '@grpc/proto-loader';

import type { Caller } from '../../server/api/caller.ts';
import type { AgentRecord } from '../../server/store/store.ts';

export const operatorCaller: Caller = {
  role: 'operator',
  name: 'operator:0/1',
  account: 'operator:0',
  id: undefined,
  agent: undefined,
  address: '',
  call: '/test',
};

export function agentCaller(agent: AgentRecord): Caller {
  return { role: 'agent', name: agent.id, account: agent.id, id: agent.id, agent, address: '192.0.2.1', call: '/test' };
}

/** One request, one response. */
export async function unary<Req, Res, ReqOut, ResOut>(
  method: MethodDefinition<Req, Res, ReqOut, ResOut>,
  handler: (request: ReqOut, caller: Caller, signal: AbortSignal) => Promise<Res>,
  request: Req,
  caller: Caller = operatorCaller,
): Promise<ResOut> {
  const input = method.requestDeserialize(method.requestSerialize(request));
  return received(method, await handler(input, caller, new AbortController().signal));
}

/** Requests given one by one; all responses until the handler ends. */
export async function* stream<Req, Res, ReqOut, ResOut>(
  method: MethodDefinition<Req, Res, ReqOut, ResOut>,
  handler: (requests: AsyncIterable<ReqOut>, caller: Caller, signal: AbortSignal) => AsyncIterable<Res>,
  requests: AsyncIterable<Req> | Iterable<Req>,
  caller: Caller = operatorCaller,
  signal: AbortSignal = new AbortController().signal,
): AsyncGenerator<ResOut> {
  async function* decoded(): AsyncGenerator<ReqOut> {
    for await (const request of requests) yield method.requestDeserialize(method.requestSerialize(request));
  }
  for await (const response of handler(decoded(), caller, signal)) yield received(method, response);
}

function received<Req, Res, ReqOut, ResOut>(method: MethodDefinition<Req, Res, ReqOut, ResOut>, response: Res): ResOut {
  return method.responseDeserialize(method.responseSerialize(response));
}
