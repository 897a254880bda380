/**
 * Evidence: the token that a CI system signed for one of its jobs, which must be exactly a job that is trusted. A token
 * can be read by whatever runs in the job, so it makes an agent once. Keys and signatures are in the files beside this.
 *
 * Payload: `{"token":"<JWT>","trust":"<name>"}`; `trust` may be left out, and can only narrow what is believed.
 *
 * Agent ID: `/spire/agent/oidc_ci/<trust>/<fingerprint>`, a fresh one for each token. Selectors: `trust`, `issuer` and
 * `subject`, and of the claims those in `toldClaims`, each as `oidc_ci:<name>:<value>`.
 *
 * The token's own expiry bounds only when it can be shown: it is minutes where jobs take hours. The agent renews until it
 * ends with its job, and no longer than jobs take, whoever may have its key by then.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId } from '../../spiffe/id.ts';
import { isJsonObject, parseJson, type JsonValue } from '../../spiffe/json.ts';
import { composeSelector, type Selector } from '../../spiffe/selector.ts';
import type { Clock } from '../../runtime/clock.ts';
import { openIssuerKeys, type IssuerKeys, type OidcKeyPlace } from './issuer-keys.ts';
import { checkTimes, maxTokenLength, parseToken, verifyToken, type VerifiedToken } from './oidc-token.ts';
import { checkTrusts, type OidcCiTrust } from './oidc-ci-trust.ts';
import type { Verifier } from './verifier.ts';

export interface OidcCiOptions {
  readonly clock: Clock;
  readonly trusts: readonly OidcCiTrust[];
  /** How long an agent may go on renewing after its job has shown the token: as long as jobs take. 6 hours if absent. */
  readonly maxAgentLifeMs?: number;
}

type OpenKeys = (issuer: string, place: OidcKeyPlace, clock: Clock) => IssuerKeys;

const type = 'oidc_ci';
const maxPayloadBytes = maxTokenLength + 1024;
const defaultMaxTokenAgeMs = 15 * 60_000;
const defaultMaxAgentLifeMs = 6 * 60 * 60_000;
const longestValue = 1024;

/** Claims that become selectors where a token has them as texts, of GitHub's tokens first, then of GitLab's and Buildkite's. */
const toldClaims: readonly string[] = [
  'repository',
  'repository_id',
  'repository_owner',
  'repository_owner_id',
  'repository_visibility',
  'ref',
  'ref_type',
  'ref_protected',
  'sha',
  'workflow',
  'workflow_ref',
  'job_workflow_ref',
  'environment',
  'event_name',
  'run_id',
  'run_number',
  'run_attempt',
  'runner_environment',
  'actor',
  'actor_id',
  'project_id',
  'project_path',
  'namespace_id',
  'namespace_path',
  'pipeline_id',
  'pipeline_source',
  'job_id',
  'ref_path',
  'ci_config_ref_uri',
  'environment_protected',
  'deployment_tier',
  'user_login',
  'organization_slug',
  'pipeline_slug',
  'build_branch',
  'step_key',
];

/**
 * What runs for these may be the code under review, a stranger's perhaps, while the subject can be that of a branch: they
 * are believed only by trusts that name them.
 */
const reviewEvents: Readonly<Record<string, readonly string[]>> = {
  event_name: ['pull_request', 'pull_request_target', 'pull_request_review', 'pull_request_review_comment'],
  pipeline_source: ['merge_request_event', 'external_pull_request_event'],
};

/**
 * Its verifications throw invalid `oidc-ci.malformed`, denied `oidc-ci.issuer|algorithm|key|signature|time|audience|
 * subject|claim|event`, unavailable `oidc-ci.keys`.
 * @throws invalid `oidc-ci.config`
 */
export function createOidcCiVerifier(options: OidcCiOptions, open: OpenKeys = openIssuerKeys): Verifier {
  const { clock, trusts, maxAgentLifeMs = defaultMaxAgentLifeMs } = options;
  checkTrusts(trusts);
  const issuers = new Map<string, IssuerKeys>();
  for (const { issuer, keys } of trusts) if (!issuers.has(issuer)) issuers.set(issuer, open(issuer, keys, clock));
  return {
    type,
    renewableMs: maxAgentLifeMs,
    async verify(payload, _challenge, { trustDomain, at, outside = (wait) => wait() }) {
      const evidence = readEvidence(payload);
      const token = parseToken(evidence.token);
      const keys = issuers.get(token.claimedIssuer);
      if (keys === undefined) throw new SpiffeError('denied', 'oidc-ci.issuer', said('the issuer of the token is not trusted'));
      const asked = trusts.filter(({ issuer, name }) => issuer === token.claimedIssuer && name === (evidence.trust ?? name));
      if (asked.length === 0) throw new SpiffeError('denied', 'oidc-ci.issuer', said('the trust asked for is of another issuer'));
      const verified = verifyToken(token, await outside(() => keys.current(token.keyId)));
      const trust = chooseTrust(verified, asked);
      checkTimes(verified, at, trust.maxTokenAgeMs ?? defaultMaxTokenAgeMs);
      checkEvent(verified, trust);
      return {
        agentId: composeSpiffeId(trustDomain, `/spire/agent/${type}/${trust.name}/${verified.fingerprint}`),
        selectors: selectorsOf(verified, trust),
        canReattest: false,
        firstUseOnly: true,
        tokenHash: undefined,
      };
    },
  };
}

function readEvidence(payload: Uint8Array): { readonly token: string; readonly trust: string | undefined } {
  let value: JsonValue;
  try {
    value = parseJson(payload, { maxBytes: maxPayloadBytes, maxDepth: 2, integers: 'number' });
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw malformed(`failed to unmarshal attestation data: ${cause.message}`, cause);
  }
  if (!isJsonObject(value)) throw malformed('failed to unmarshal attestation data: not an object');
  const { token, trust } = value as { readonly [name in 'token' | 'trust']?: JsonValue };
  if (typeof token !== 'string' || token === '') throw malformed('missing token in attestation data');
  if (trust !== undefined && typeof trust !== 'string') throw malformed('trust in attestation data is not a text');
  return { token, trust };
}

/** At most one is left: `checkTrusts` lets no two of them believe the same token. */
function chooseTrust(token: VerifiedToken, asked: readonly OidcCiTrust[]): OidcCiTrust {
  // A token for several could be shown here by each of the others.
  const [audience, ...others] = token.audience;
  const forUs = asked.filter((trust) => others.length === 0 && trust.audience === audience);
  if (forUs.length === 0) {
    throw new SpiffeError('denied', 'oidc-ci.audience', said('the token is not meant for this server alone'));
  }
  const ofJob = forUs.filter((trust) => trust.subject === token.subject);
  if (ofJob.length === 0) {
    throw new SpiffeError('denied', 'oidc-ci.subject', said(`the subject ${quoted(token.subject)} is not trusted`));
  }
  const trust = ofJob.find(({ claims = {} }) => Object.entries(claims).every(([name, value]) => token.claims[name] === value));
  if (trust === undefined) {
    throw new SpiffeError('denied', 'oidc-ci.claim', said('a claim of the token is missing or not the one that is trusted'));
  }
  return trust;
}

function checkEvent({ claims }: VerifiedToken, trust: OidcCiTrust): void {
  for (const [name, events] of Object.entries(reviewEvents)) {
    const value = claims[name];
    if (typeof value !== 'string' || !events.includes(value) || Object.hasOwn(trust.claims ?? {}, name)) continue;
    throw new SpiffeError('denied', 'oidc-ci.event', said(`the job runs for ${value}, which the trust does not name`));
  }
}

function selectorsOf({ issuer, subject, claims }: VerifiedToken, trust: OidcCiTrust): readonly Selector[] {
  const told = toldClaims.flatMap((name) => {
    const value = claims[name];
    // Whoever names branches and jobs writes these texts; what is no plain one is not told.
    return typeof value === 'string' && isPlain(value) ? [`${name}:${value}`] : [];
  });
  return [`trust:${trust.name}`, `issuer:${issuer}`, `subject:${subject}`, ...told].map((value) => composeSelector(type, value));
}

function isPlain(text: string): boolean {
  return text !== '' && text.length <= longestValue && !/\p{C}/u.test(text);
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
}

function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'oidc-ci.malformed', said(what), { cause });
}

function said(what: string): string {
  return `nodeattestor(${type}): ${what}`;
}
