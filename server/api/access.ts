/**
 * Every method of the server: on which door it is served, who may call it, and how often. A method without a row does
 * not compile. Establishing who the caller is belongs to `caller.ts`; spending the budgets to `budget.ts`.
 */
import type { ServiceDefinitions } from '../../proto/load.ts';

/** The services that the two doors serve. */
export type ServedService =
  | 'grpc.health.v1.Health'
  | 'spire.api.server.agent.v1.Agent'
  | 'spire.api.server.bundle.v1.Bundle'
  | 'spire.api.server.entry.v1.Entry'
  | 'spire.api.server.svid.v1.SVID'
  | 'spire.api.server.trustdomain.v1.TrustDomain'
  | 'steeple.node.v1.Node'
  | 'steeple.operator.v1.Operator';

type NamedKeys<T> = keyof { [K in keyof T as string extends K ? never : K]: T[K] } & string;

export type Method = { [S in ServedService]: `/${S}/${NamedKeys<ServiceDefinitions[S]>}` }[ServedService];

/**
 * `anyone` needs no certificate; `agent` is a node whose record says it may call now; `admin` and `downstream` are
 * identities whose entry says so; `operator` is whoever may open the operators' socket.
 */
export type Role = 'anyone' | 'operator' | 'admin' | 'downstream' | 'agent';

/** Names a bucket of the configuration; calls that share one share its tokens. */
export type Budget = 'signing' | 'tokens' | 'status' | 'sync' | 'report' | 'publish';

export interface AccessRow {
  readonly who: readonly Role[];
  /** `operators`: not served over TCP at all. */
  readonly door: 'both' | 'operators';
  readonly budget: Budget | undefined;
  /** Repeated fields of the request whose items cost a token each; without any a call costs one. */
  readonly items: readonly string[];
}

function row(who: readonly Role[], door: AccessRow['door'] = 'both', budget?: Budget, ...items: string[]): AccessRow {
  return { who, door, budget, items };
}

const steward: readonly Role[] = ['operator', 'admin'];
const local: readonly Role[] = ['operator'];
const agent: readonly Role[] = ['agent'];

export const access: Readonly<Record<Method, AccessRow>> = {
  '/grpc.health.v1.Health/Check': row(local, 'operators'),
  '/grpc.health.v1.Health/List': row(local, 'operators'),
  '/grpc.health.v1.Health/Watch': row(local, 'operators'),

  // Failed attempts have a budget of their own in admission, which honest nodes behind one address do not share.
  '/spire.api.server.agent.v1.Agent/AttestAgent': row(['anyone']),
  '/spire.api.server.agent.v1.Agent/RenewAgent': row(agent, 'both', 'signing'),
  '/spire.api.server.agent.v1.Agent/PostStatus': row(agent, 'both', 'status'),
  '/spire.api.server.agent.v1.Agent/CountAgents': row(steward),
  '/spire.api.server.agent.v1.Agent/ListAgents': row(steward),
  '/spire.api.server.agent.v1.Agent/GetAgent': row(steward),
  '/spire.api.server.agent.v1.Agent/DeleteAgent': row(steward),
  '/spire.api.server.agent.v1.Agent/BanAgent': row(steward),
  '/spire.api.server.agent.v1.Agent/CreateJoinToken': row(steward),

  '/spire.api.server.bundle.v1.Bundle/GetBundle': row(['anyone']),
  '/spire.api.server.bundle.v1.Bundle/GetFederatedBundle': row(['operator', 'admin', 'agent']),
  '/spire.api.server.bundle.v1.Bundle/CountBundles': row(steward),
  '/spire.api.server.bundle.v1.Bundle/AppendBundle': row(steward),
  '/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority': row(['downstream'], 'both', 'publish'),
  '/spire.api.server.bundle.v1.Bundle/PublishWITAuthority': row(['downstream'], 'both', 'publish'),
  '/spire.api.server.bundle.v1.Bundle/ListFederatedBundles': row(steward),
  '/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle': row(steward),
  '/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle': row(steward),
  '/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle': row(steward),
  '/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle': row(steward),

  '/spire.api.server.entry.v1.Entry/GetAuthorizedEntries': row(agent, 'both', 'sync'),
  '/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries': row(agent, 'both', 'sync'),
  '/spire.api.server.entry.v1.Entry/CountEntries': row(steward),
  '/spire.api.server.entry.v1.Entry/ListEntries': row(steward),
  '/spire.api.server.entry.v1.Entry/GetEntry': row(steward),
  '/spire.api.server.entry.v1.Entry/BatchCreateEntry': row(steward),
  '/spire.api.server.entry.v1.Entry/BatchUpdateEntry': row(steward),
  '/spire.api.server.entry.v1.Entry/BatchDeleteEntry': row(steward),

  '/spire.api.server.svid.v1.SVID/BatchNewX509SVID': row(agent, 'both', 'signing', 'params'),
  '/spire.api.server.svid.v1.SVID/NewJWTSVID': row(agent, 'both', 'tokens'),
  '/spire.api.server.svid.v1.SVID/BatchNewWITSVID': row(agent, 'both', 'tokens', 'params'),
  '/spire.api.server.svid.v1.SVID/MintX509SVID': row(steward),
  '/spire.api.server.svid.v1.SVID/MintJWTSVID': row(steward),
  '/spire.api.server.svid.v1.SVID/MintWITSVID': row(steward),
  '/spire.api.server.svid.v1.SVID/NewDownstreamX509CA': row(['downstream'], 'both', 'signing'),

  '/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships': row(steward),
  '/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship': row(steward),
  '/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship': row(steward),
  '/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship': row(steward),
  '/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship': row(steward),
  '/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle': row(steward),

  '/steeple.node.v1.Node/Behind': row(agent, 'both', 'sync'),
  '/steeple.node.v1.Node/Follow': row(agent, 'both', 'sync'),
  '/steeple.node.v1.Node/Issue': row(agent, 'both', 'signing', 'x509', 'jwt', 'wit'),
  '/steeple.node.v1.Node/Report': row(agent, 'both', 'report'),

  '/steeple.operator.v1.Operator/GetStatus': row(local, 'operators'),
  '/steeple.operator.v1.Operator/ListCredentials': row(local, 'operators'),
  '/steeple.operator.v1.Operator/GetCredential': row(local, 'operators'),
  '/steeple.operator.v1.Operator/SearchAudit': row(local, 'operators'),
  '/steeple.operator.v1.Operator/TailAudit': row(local, 'operators'),
  '/steeple.operator.v1.Operator/ListAuthorities': row(local, 'operators'),
  '/steeple.operator.v1.Operator/PrepareAuthority': row(local, 'operators'),
  '/steeple.operator.v1.Operator/ActivateAuthority': row(local, 'operators'),
  '/steeple.operator.v1.Operator/ListRelationshipStates': row(local, 'operators'),
};

/** The row of a method by its full name, or `undefined` for one that is not ours. */
export function accessRow(method: string): AccessRow | undefined {
  return Object.hasOwn(access, method) ? access[method as Method] : undefined;
}
