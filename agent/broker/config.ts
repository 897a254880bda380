/**
 * What an operator may say about brokers and delegates: where brokers are served, which there are and how narrow, and the
 * rules across those keys. What follows from it is `callers.ts` and `listen.ts`.
 */
import path from 'node:path';
import { z } from 'zod';
import { isMemberOf, isWorkloadId, parseSpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import { parsed, port, section, socketPath } from '../../runtime/config.ts';

const count = (min: number, max: number): z.ZodInt => z.int().min(min).max(max);

const caller = section({
  spiffe_id: parsed(parseSpiffeId),
  /** Kinds of references it may make. */
  references: z.array(z.enum(['pid', 'kubernetes'])).min(1).default(['pid', 'kubernetes']),
  /** Only for workloads that are attested to be in one of these namespaces. */
  namespaces: z.array(z.string().min(1)).min(1).optional(),
  /** Only identities that are, or are below, one of these. */
  spiffe_ids: z.array(parsed(parseSpiffeId)).min(1).optional(),
  /** Only tokens for these. */
  audiences: z.array(z.string().min(1)).min(1).optional(),
});

/** The SPIFFE Broker API; off where it is left out. */
export const broker = section({
  socket_path: socketPath().optional(),
  listen: section({ address: z.string().min(1).default('127.0.0.1'), port: port() }).optional(),
  min_tls_version: z.enum(['1.2', '1.3']).default('1.3'),
  /** What is answered of the two there are. */
  profiles: z.array(z.enum(['x509', 'jwt'])).min(1).default(['x509', 'jwt']),
  /** `any` takes process numbers from brokers that count processes otherwise than this agent does. */
  pid_namespace: z.enum(['same', 'any']).default('same'),
  callers: z.array(caller).min(1),
  limits: section({
    connections: count(1, 10_000).default(256),
    calls_per_caller: count(1, 100_000).default(2_000),
    calls_per_second_per_caller: count(1, 100_000).default(200),
    processes: count(1, 100_000).default(4_000),
  }).prefault({}),
});

export type BrokerConfig = z.output<typeof broker>;
export type BrokerCallerConfig = BrokerConfig['callers'][number];

/** SPIFFE IDs that may ask for others' identities through SPIRE's API on the operators' socket; none unless given. */
export const authorizedDelegates = z.array(parsed(parseSpiffeId)).default([]);

interface BrokerKeys {
  readonly trust_domain: TrustDomain;
  readonly socket_path: string;
  readonly admin_socket_path: string;
  readonly broker?: BrokerConfig | undefined;
}

interface Problem {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** What is wrong across keys, each with its path. */
export function brokerProblems(config: BrokerKeys): readonly Problem[] {
  const { trust_domain: trustDomain, broker: brokers } = config;
  if (brokers === undefined) return [];
  const problems: Problem[] = [];
  const issue = (where: Problem['path'], message: string): void => void problems.push({ path: ['broker', ...where], message });
  const { socket_path: socket, listen, callers } = brokers;
  if (socket === undefined && listen === undefined) issue([], 'one of socket_path and listen is needed');
  if (socket !== undefined) {
    const below = path.relative(path.dirname(config.socket_path), path.dirname(socket));
    if (below === '' || (!below.startsWith('..') && !path.isAbsolute(below))) {
      issue(['socket_path'], 'must not be in or below the directory of socket_path, which everybody may enter');
    }
    if (socket === config.admin_socket_path) issue(['socket_path'], 'must differ from admin_socket_path');
  }
  const seen = new Set<string>();
  for (const [index, { spiffe_id: id }] of callers.entries()) {
    const where = ['callers', index, 'spiffe_id'];
    if (seen.has(id)) issue(where, `${id} is there twice`);
    seen.add(id);
    // Connections are verified by this trust domain's bundle alone.
    if (!isMemberOf(id, trustDomain) || !isWorkloadId(id)) issue(where, `${id} is no workload's ID in ${trustDomain}`);
  }
  return problems;
}
