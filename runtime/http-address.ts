/**
 * What an IP address is an address of: the machine itself, a private network, the public one. Facts of the registries of
 * special addresses alone; who may be asked where is left to whoever asks.
 */
import { BlockList, isIP } from 'node:net';

/**
 * `local`: the machine itself, its link, or a cloud's metadata service for it. `private`: reached within one
 * organisation's network. `reserved`: nobody's, documentation's, everybody's (multicast). `public`: the rest.
 */
export type AddressScope = 'local' | 'private' | 'reserved' | 'public';

type Subnet = readonly [prefix: string, bits: number];

const local = blockList(
  ['0.0.0.0', 8],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['::', 128],
  ['::1', 128],
  ['fe80::', 10],
  // Metadata and host services of clouds that are not on the link-local address.
  ['100.100.100.200', 32],
  ['168.63.129.16', 32],
  ['192.0.0.192', 32],
  ['fd00:ec2::254', 128],
  ['fd20:ce::254', 128],
);
const organisation = blockList(
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['172.16.0.0', 12],
  ['192.168.0.0', 16],
  ['fc00::', 7],
  // Site-local addresses, given up but still routed by some.
  ['fec0::', 10],
);
const reserved = blockList(
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 3],
  ['2001::', 23],
  ['2001:db8::', 32],
  ['3fff::', 20],
);
const globalUnicast = blockList(['2000::', 3]);

/**
 * The one way of writing an address: an IPv6 one that only wraps an IPv4 one is that one, zones are left out.
 * @returns undefined when it is no address
 */
export function canonicalAddress(text: string): string | undefined {
  const address = text.replace(/^\[|\]$|%.*$/g, '');
  if (isIP(address) === 4) return address;
  if (isIP(address) !== 6) return undefined;
  const groups = groupsOf(address);
  const isMapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff;
  return isMapped ? dotted(groups[6], groups[7]) : new URL(`http://[${address}]`).hostname.slice(1, -1);
}

/** @param address as `canonicalAddress` writes it */
export function addressScope(address: string): AddressScope {
  const family = isIP(address) === 4 ? 'ipv4' : 'ipv6';
  if (local.check(address, family)) return 'local';
  if (organisation.check(address, family)) return 'private';
  if (reserved.check(address, family)) return 'reserved';
  if (family === 'ipv4') return 'public';
  const inner = embedded(groupsOf(address));
  if (inner !== undefined) return addressScope(inner);
  return globalUnicast.check(address, family) ? 'public' : 'reserved';
}

/**
 * What one holder of addresses may be taken to have: an IPv4 address, or the 64 bits of an IPv6 one that are a network.
 * Anything else stays as it is.
 */
export function networkOf(text: string): string {
  const address = canonicalAddress(text);
  if (address === undefined || isIP(address) === 4) return address ?? text;
  return groupsOf(address)
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(':');
}

/** The IPv4 address that a translator or tunnel on the way would go on to [RFC 6052, RFC 3056, RFC 4291 2.5.5.1]. */
function embedded(groups: readonly number[]): string | undefined {
  const startsWith = (...head: readonly number[]): boolean => head.every((group, place) => groups[place] === group);
  if (startsWith(0x64, 0xff9b, 0, 0, 0, 0) || startsWith(0, 0, 0, 0, 0, 0)) return dotted(groups[6], groups[7]);
  return startsWith(0x2002) ? dotted(groups[1], groups[2]) : undefined;
}

function groupsOf(address: string): readonly number[] {
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const numbers = (part: string): number[] => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)));
  const [before, after] = [numbers(head), numbers(tail ?? '')];
  return [...before, ...Array.from({ length: 8 - before.length - after.length }, () => 0), ...after];
}

function dotted(high = 0, low = 0): string {
  return [high >> 8, high & 255, low >> 8, low & 255].join('.');
}

function blockList(...subnets: readonly Subnet[]): BlockList {
  const list = new BlockList();
  for (const [prefix, bits] of subnets) list.addSubnet(prefix, bits, isIP(prefix) === 4 ? 'ipv4' : 'ipv6');
  return list;
}
