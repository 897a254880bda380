/**
 * An identity that the program holds by itself, from files as a rule, in the form that TLS ends take a source in. Reading
 * files and knowing when they changed are the program's.
 */
import { type Clock, systemClock } from '../runtime/clock.ts';
import type { TlsIdentity } from '../runtime/tls.ts';
import { createWatch, type Watch } from '../runtime/watch.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import { x509AuthoritiesOf, type X509BundleSource } from './bundle-set.ts';

/** What a `FixedX509Source` presents and believes. */
export interface FixedIdentity {
  /** What to present; nothing when absent, as a client without an identity does. */
  readonly svid?: X509Svid;
  /** Whom to believe. */
  readonly bundles: readonly Bundle[];
}

/** As far as TLS ends go, an `X509Source`. */
export interface FixedX509Source extends X509BundleSource {
  readonly identity: Watch<TlsIdentity>;
  readonly clock: Clock;
  /** Presents and believes this from now on; connections that are open stay. */
  set(identity: FixedIdentity): void;
}

/** A source of what the program holds, to be set anew when that changes. */
export function fixedX509Source(identity: FixedIdentity, clock: Clock = systemClock): FixedX509Source {
  const watch = createWatch(tlsIdentity(identity));
  let bundles = new Map<TrustDomain, Bundle>();
  const remember = (next: FixedIdentity): void => {
    bundles = new Map(next.bundles.map((bundle) => [bundle.trustDomain, bundle]));
  };
  remember(identity);
  return {
    identity: watch,
    clock,
    x509BundleFor: (trustDomain) => x509AuthoritiesOf(bundles.get(trustDomain)),
    set(next) {
      remember(next);
      watch.set(tlsIdentity(next));
    },
  };
}

function tlsIdentity({ svid, bundles }: FixedIdentity): TlsIdentity {
  return { svid, bundles: new Map(bundles.map((bundle) => [bundle.trustDomain, bundle])) };
}
