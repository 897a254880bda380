/**
 * Which addresses bundles may be fetched from, so that nobody who may name an endpoint turns the server on itself, on its
 * cloud's metadata service or on a network that it is not to touch. Resolving and connecting are left to whoever fetches.
 */
import { BlockList, isIP } from 'node:net';
import { addressScope, canonicalAddress } from '../../runtime/http-address.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

export interface AddressRules {
  /** Whether networks of the organisation (10.0.0.0/8, fc00::/7 and their like) count. */
  readonly private: boolean;
  /** `203.0.113.0/24` or one address; allowed whatever else is said. */
  readonly allow: readonly string[];
}

/** Public addresses, private ones unless forbidden, and what is allowed by name; never anything else. */
export function addressFilter(rules: AddressRules): (address: string) => boolean {
  const allowed = new BlockList();
  for (const text of rules.allow) {
    const { prefix, bits, family } = parseSubnet(text);
    allowed.addSubnet(prefix, bits, family);
  }
  return (text) => {
    const address = canonicalAddress(text);
    if (address === undefined) return false;
    if (allowed.check(address, isIP(address) === 4 ? 'ipv4' : 'ipv6')) return true;
    const scope = addressScope(address);
    return scope === 'public' || (scope === 'private' && rules.private);
  };
}

/** @throws invalid `federation.subnet` */
export function parseSubnet(text: string): { readonly prefix: string; readonly bits: number; readonly family: 'ipv4' | 'ipv6' } {
  const [prefix = '', length] = text.split('/', 2);
  const version = isIP(prefix);
  const longest = version === 4 ? 32 : 128;
  const bits = length === undefined ? longest : /^\d{1,3}$/.test(length) ? Number(length) : Number.NaN;
  if (version === 0 || text.split('/').length > 2 || prefix.includes('%') || !(bits <= longest)) {
    throw new SpiffeError('invalid', 'federation.subnet', `${JSON.stringify(text)} is no address, and no subnet such as 10.1.0.0/16`);
  }
  return { prefix, bits, family: version === 4 ? 'ipv4' : 'ipv6' };
}
