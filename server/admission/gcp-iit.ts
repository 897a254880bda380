/**
 * Evidence: the identity token of a Compute Engine instance, signed by Google for this very purpose. It says which instance
 * asked, not that the one who shows it runs there, so it makes an agent once; what only Google's APIs could tell is left out.
 */
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId } from '../../spiffe/id.ts';
import { isJsonObject } from '../../spiffe/json.ts';
import { composeSelector } from '../../spiffe/selector.ts';
import { openIssuerKeys, type IssuerKeys, type OidcKeyPlace } from './issuer-keys.ts';
import {
  checkTimes,
  maxTokenLength,
  parseToken,
  verifyToken,
  type UnverifiedToken,
  type VerifiedToken,
} from './oidc-token.ts';
import type { Verifier } from './verifier.ts';

export interface GcpIitOptions {
  readonly clock: Clock;
  /** Projects whose instances may join; at least one, or any customer of Google's could. */
  readonly projectAllowList: readonly string[];
  /** Where Google's keys are: it replaces them every few days. */
  readonly keys: OidcKeyPlace;
}

/** What a token says of its instance. */
export interface GcpInstance {
  readonly projectId: string;
  readonly zone: string;
  readonly instanceId: string;
  readonly instanceName: string;
  /** Of the instance, where the token tells it. */
  readonly serviceAccount: string | undefined;
}

type OpenKeys = (issuer: string, place: OidcKeyPlace, clock: Clock) => IssuerKeys;

const type = 'gcp_iit';
const issuer = 'https://accounts.google.com';
const audience = 'spire-gcp-node-attestor';
/** As long as Google lets one last. */
const maxTokenAgeMs = 60 * 60_000;
const forms = {
  project_id: /^[a-z][a-z0-9-]{4,28}[a-z0-9]$/,
  zone: /^[a-z][a-z0-9-]{0,61}[a-z0-9]$/,
  instance_id: /^[1-9][0-9]{0,19}$/,
  instance_name: /^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/,
} as const;
const emailForm = /^[a-z0-9][a-z0-9._-]{0,127}@[a-z0-9][a-z0-9.-]{0,252}$/;

/** @throws invalid `gcp-iit.options` */
export function createGcpIitVerifier(options: GcpIitOptions, open: OpenKeys = openIssuerKeys): Verifier {
  const { clock, projectAllowList } = options;
  if (projectAllowList.length === 0 || projectAllowList.some((project) => !forms.project_id.test(project))) {
    throw new SpiffeError('invalid', 'gcp-iit.options', told('the allowed projects are missing, or one is none'));
  }
  const keys = open(issuer, options.keys, clock);
  return {
    type,
    async verify(payload, _challenge, { trustDomain, at }) {
      const token = readToken(payload);
      const { projectId, zone, instanceId, instanceName, serviceAccount } = readInstance(await verifySigned(token, keys, at));
      if (!projectAllowList.includes(projectId)) {
        throw new SpiffeError('denied', 'gcp-iit.project', told('the project is not allowed'));
      }
      const values = [`project-id:${projectId}`, `zone:${zone}`, `instance-name:${instanceName}`];
      if (serviceAccount !== undefined) values.push(`sa:${serviceAccount}`);
      return {
        agentId: composeSpiffeId(trustDomain, `/spire/agent/${type}/${projectId}/${instanceId}`),
        selectors: values.map((value) => composeSelector(type, value)),
        canReattest: false,
        firstUseOnly: true,
        tokenHash: undefined,
      };
    },
  };
}

/**
 * Reads an instance out of what was verified, and out of nothing else.
 * @throws invalid `gcp-iit.claims`
 */
export function readInstance(token: VerifiedToken): GcpInstance {
  const google = token.claims['google'];
  const engine = isJsonObject(google) ? google['compute_engine'] : undefined;
  // Google signs tokens for people and services too; this part is of instances alone.
  if (!isJsonObject(engine)) throw badClaims('it is of no instance');
  const text = (name: keyof typeof forms): string => {
    const value = engine[name];
    if (typeof value !== 'string' || !forms[name].test(value)) {
      throw badClaims(`its ${name} is missing or not of the form it has`);
    }
    return value;
  };
  return {
    projectId: text('project_id'),
    zone: text('zone'),
    instanceId: text('instance_id'),
    instanceName: text('instance_name'),
    serviceAccount: readEmail(token),
  };
}

function readEmail({ claims }: VerifiedToken): string | undefined {
  const { email, email_verified: verified } = claims as { readonly [name: string]: unknown };
  if (email === undefined) return undefined;
  if (typeof email !== 'string' || !emailForm.test(email) || verified !== true) {
    throw badClaims('its email is not verified, or none');
  }
  return email;
}

function readToken(payload: Uint8Array): UnverifiedToken {
  if (payload.length === 0 || payload.length > maxTokenLength) throw malformed('it is missing or too long');
  const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('latin1');
  try {
    return parseToken(text);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw malformed('it is no signed token, or of an algorithm that is not allowed', cause);
  }
}

/** Google signs with RS256 alone; whoever names another algorithm did not get the token from there. */
async function verifySigned(token: UnverifiedToken, keys: IssuerKeys, at: number): Promise<VerifiedToken> {
  if (token.algorithm !== 'RS256') throw malformed('it is of an algorithm that is not allowed');
  if (token.keyId === undefined) throw malformed('it does not say which key it is signed with');
  const known = await keys.current(token.keyId).catch((cause: unknown) => {
    throw new SpiffeError('unavailable', 'gcp-iit.keys', told('the keys of Google cannot be had at the moment'), { cause });
  });
  let verified: VerifiedToken;
  try {
    verified = verifyToken(token, known);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    if (cause.kind === 'invalid') throw malformed('a claim is not of the form it has', cause);
    throw new SpiffeError('invalid', 'gcp-iit.signature', told('the identity token is not signed by Google'), { cause });
  }
  if (verified.issuer !== issuer) {
    throw new SpiffeError('denied', 'gcp-iit.issuer', told('the identity token is of another issuer'));
  }
  // A token for several could be shown here by each of the others.
  if (verified.audience.length !== 1 || verified.audience[0] !== audience) {
    throw new SpiffeError('denied', 'gcp-iit.audience', told('the identity token is not meant for this server alone'));
  }
  try {
    checkTimes(verified, at, maxTokenAgeMs);
  } catch (cause) {
    throw new SpiffeError('denied', 'gcp-iit.expired', told('the identity token does not count now'), { cause });
  }
  return verified;
}

function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'gcp-iit.malformed', told(`the identity token cannot be read: ${what}`), { cause });
}

function badClaims(what: string): SpiffeError {
  return new SpiffeError('invalid', 'gcp-iit.claims', told(`the identity token cannot be used: ${what}`));
}

function told(what: string): string {
  return `nodeattestor(${type}): ${what}`;
}
