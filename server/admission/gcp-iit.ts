/**
 * Evidence: the identity token of a Compute Engine instance, signed by Google for this very purpose. It says which instance
 * asked, not that the one who shows it runs there, so it makes an agent once; what only Google's APIs could tell is left out.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId } from '../../spiffe/id.ts';
import { isJsonObject, type JsonObject } from '../../spiffe/json.ts';
import { composeSelector } from '../../spiffe/selector.ts';
import { checkInstants, hasAudience, maxJwsBytes, parseKeySet, verifyJws, type JwsKeys, type SignedClaims } from './jws.ts';
import type { Verifier } from './verifier.ts';

export interface GcpIitOptions {
  /** Projects whose instances may join; at least one, or any customer of Google's could. */
  readonly projectAllowList: readonly string[];
  /** Google's key set as JSON, or what yields the newest: Google replaces its keys every few days. */
  readonly jwks: string | (() => Promise<string>);
}

/** What a token says of its instance. */
export interface GcpInstance {
  readonly projectId: string;
  readonly zone: string;
  readonly instanceId: string;
  readonly instanceName: string;
  /** Of the instance, when Google verified it. */
  readonly serviceAccount: string | undefined;
}

const type = 'gcp_iit';
const audience = 'spire-gcp-node-attestor';
const issuers: readonly unknown[] = ['https://accounts.google.com', 'accounts.google.com'];
const leewayMs = 60_000;
const forms = {
  project_id: /^[a-z][a-z0-9-]{4,28}[a-z0-9]$/,
  zone: /^[a-z][a-z0-9-]{0,61}[a-z0-9]$/,
  instance_id: /^[1-9][0-9]{0,19}$/,
  instance_name: /^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/,
} as const;
const emailForm = /^[a-z0-9][a-z0-9._-]{0,127}@[a-z0-9][a-z0-9.-]{0,252}$/;

/** @throws invalid `gcp-iit.options`, `jws.keys` */
export function createGcpIitVerifier({ projectAllowList, jwks }: GcpIitOptions): Verifier {
  if (projectAllowList.length === 0 || projectAllowList.some((project) => !forms.project_id.test(project))) {
    throw new SpiffeError('invalid', 'gcp-iit.options', told('the allowed projects are missing, or one is none'));
  }
  const keys = createKeys(jwks);
  return {
    type,
    async verify(payload, _challenge, { trustDomain, at }) {
      const claims = verifyToken(readToken(payload), await keys(), at);
      const { projectId, zone, instanceId, instanceName, serviceAccount } = readInstance(claims);
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
export function readInstance(claims: SignedClaims): GcpInstance {
  const google = claims['google'];
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
    serviceAccount: readEmail(claims),
  };
}

function readEmail(claims: JsonObject): string | undefined {
  const { email, email_verified: verified } = claims as { readonly [name: string]: unknown };
  if (email === undefined) return undefined;
  if (typeof email !== 'string' || !emailForm.test(email) || verified !== true) {
    throw badClaims('its email is not verified, or none');
  }
  return email;
}

function readToken(payload: Uint8Array): string {
  if (payload.length === 0 || payload.length > maxJwsBytes) {
    throw new SpiffeError('invalid', 'gcp-iit.malformed', told('the identity token is missing or too long'));
  }
  return Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('latin1');
}

function verifyToken(token: string, keys: JwsKeys, at: number): SignedClaims {
  try {
    const claims = verifyJws(token, keys, { algorithms: ['RS256'] });
    checkInstants(claims, at, leewayMs);
    if (!hasAudience(claims, audience)) {
      throw new SpiffeError('denied', 'gcp-iit.audience', told('the identity token is meant for somebody else'));
    }
    if (!issuers.includes(claims['iss'])) {
      throw new SpiffeError('denied', 'gcp-iit.issuer', told('the identity token is not issued by Google'));
    }
    return claims;
  } catch (cause) {
    if (!(cause instanceof SpiffeError) || cause.kind === 'denied') throw cause;
    const message = told(`the identity token is not verified: ${cause.message}`);
    if (cause.reason === 'jws.expired' || cause.reason === 'jws.not-yet') {
      throw new SpiffeError('denied', 'gcp-iit.expired', message, { cause });
    }
    if (cause.kind === 'unauthenticated') throw new SpiffeError('invalid', 'gcp-iit.signature', message, { cause });
    throw new SpiffeError('invalid', 'gcp-iit.malformed', message, { cause });
  }
}

/** Text is read once; a source is asked each time, and read anew when it says something new. */
function createKeys(jwks: GcpIitOptions['jwks']): () => Promise<JwsKeys> {
  let known = typeof jwks === 'string' ? { text: jwks, keys: parseKeySet(jwks) } : undefined;
  return async () => {
    try {
      const text = typeof jwks === 'string' ? jwks : await jwks();
      if (known?.text !== text) known = { text, keys: parseKeySet(text) };
      return known.keys;
    } catch (cause) {
      throw new SpiffeError('unavailable', 'gcp-iit.keys', told('the keys of Google cannot be read'), { cause });
    }
  };
}

function badClaims(what: string): SpiffeError {
  return new SpiffeError('invalid', 'gcp-iit.claims', told(`the identity token cannot be used: ${what}`));
}

function told(what: string): string {
  return `nodeattestor(${type}): ${what}`;
}
