/**
 * What an operator may say about fetching the bundles of other trust domains, and about showing ours and its keys to them.
 * The relationships themselves are in the store.
 */
import { z } from 'zod';
import { absolutePath, duration, parsed, port, section } from '../../runtime/config.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSubnet } from './addresses.ts';
import { parseIssuer, parseJwksUrl } from './oidc.ts';

const subnet = z.string().superRefine((text, context) => {
  try {
    parseSubnet(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: error instanceof SpiffeError ? error.message : 'is no subnet' });
  }
});

export const fetchSection = section({
  /** Bounds of how often one bundle is fetched, whatever its publisher asks for. */
  shortest: duration({ min: '1s', max: '1d' }).prefault('1m'),
  longest: duration({ min: '1m', max: '30d' }).prefault('1d'),
  /** Bundles fetched at the same time. */
  at_once: z.int().min(1).max(256).default(16),
  /** Whether endpoints may be in networks of the organisation, such as 10.0.0.0/8. */
  private_addresses: z.boolean().default(true),
  /** Subnets that endpoints may be in although they are the machine itself, its link or nobody's. */
  allow_addresses: z.array(subnet).max(256).default([]),
  /** PEM of the authorities of `https_web`; the machine's own when absent. */
  web_ca: absolutePath().optional(),
}).refine(({ shortest, longest }) => shortest <= longest, { path: ['shortest'], message: 'must not be more than longest' });

export type FetchConfig = z.output<typeof fetchSection>;

const certificateFiles = {
  /** PEM, the leaf first; followed when it changes. */
  certificate_file: absolutePath(),
  /** PEM, owner-only. */
  key_file: absolutePath(),
};

/** Whole seconds, because that is what the documents and headers say. */
const seconds = (limits: { readonly min: string; readonly max: string }) =>
  duration(limits).refine((ms) => ms % 1000 === 0, 'must be whole seconds');

export const endpointSection = section({
  address: z.string().min(1).default('0.0.0.0'),
  port: port().default(8443),
  profile: z
    .discriminatedUnion('type', [
      section({ type: z.literal('https_spiffe') }),
      section({ type: z.literal('https_web'), ...certificateFiles }),
    ])
    .prefault({ type: 'https_spiffe' }),
  refresh_hint: seconds({ min: '1s', max: '1d' }).prefault('5m'),
});

export type EndpointConfig = z.output<typeof endpointSection>;

export const oidcSection = section({
  address: z.string().min(1).default('0.0.0.0'),
  port: port().default(443),
  ...certificateFiles,
  /** `iss` of JWT-SVIDs. */
  issuer: parsed(parseIssuer),
  jwks_url: parsed(parseJwksUrl).optional(),
  /** Further host names by which the pages may be asked for. */
  domains: z.array(z.string().regex(/^[a-zA-Z0-9.-]{1,253}$/, 'must be a host name')).max(64).default([]),
  /** How long others may keep the pages. */
  max_age: seconds({ min: '1s', max: '1d' }).prefault('5m'),
});

export type OidcConfig = z.output<typeof oidcSection>;

export interface ShownConfig {
  readonly federation: { readonly endpoint?: EndpointConfig | undefined };
  readonly oidc?: OidcConfig | undefined;
}

/** Intervals within which everybody fetched once, one failure and what caches keep included. */
const intervalsUntilFetched = 3;

/** How long a key has to be in the bundle before it signs, for those who fetch it there (FED-02). */
export function publicationLeadMs(config: ShownConfig, kind: 'x509' | 'jwt' | 'wit'): number {
  const hintMs = config.federation.endpoint?.refresh_hint ?? 0;
  const keptMs = kind === 'jwt' ? (config.oidc?.max_age ?? 0) : 0;
  return intervalsUntilFetched * Math.max(hintMs, keptMs);
}

type Life = { readonly ttl: number };

interface CheckedConfig extends ShownConfig {
  readonly svids: { readonly jwt_issuer?: string | undefined };
  readonly authorities: { readonly x509: Life; readonly jwt: Life; readonly wit?: Life | undefined };
}

/** The rules between these sections and others. */
export function checkShown(config: CheckedConfig, issue: (path: string[], message: string) => void): void {
  const { federation, oidc, svids, authorities } = config;
  if (oidc !== undefined && oidc.issuer !== svids.jwt_issuer) {
    issue(['oidc', 'issuer'], 'must be what svids.jwt_issuer says, to the character');
  }
  // Prepared at half of its life and needed at five sixths of it, a key has a third of it to become known.
  for (const kind of ['x509', 'jwt', 'wit'] as const) {
    const longestMs = (authorities[kind]?.ttl ?? Number.POSITIVE_INFINITY) / 3;
    if (publicationLeadMs(config, kind) <= longestMs) continue;
    const isHint = publicationLeadMs({ federation }, kind) > longestMs;
    const path = isHint ? ['federation', 'endpoint', 'refresh_hint'] : ['oidc', 'max_age'];
    issue(path, `must not be longer than a ninth of authorities.${kind}.ttl`);
  }
}
