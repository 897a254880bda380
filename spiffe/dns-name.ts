/**
 * DNS names as an X509-SVID may carry them beside its SPIFFE ID: lower-case host names, with at most one wildcard as the
 * whole first label. Whether a workload may have a name is the operator's word in the entry, not decided here.
 */

const labelForm = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/;
const maxLabelLength = 63;
/** What fits into 255 octets on the wire [RFC 1035 2.3.4]. */
const maxNameLength = 253;

/** Tells what is wrong with the name, or `undefined` when nothing is. */
export function dnsNameFault(name: string): string | undefined {
  if (name.length === 0) return 'empty domain';
  if (name.length > maxNameLength) return 'longer than 253 characters';
  const stars = name.split('*').length - 1;
  if (stars > 1) return 'too many wildcards';
  if (stars === 1 && !name.startsWith('*.')) return 'wildcard must be first label';
  if (name.endsWith('.')) return 'domain ends with dot';
  const labels = (stars === 1 ? name.slice(2) : name).split('.');
  for (const label of labels) {
    if (label === '') return 'empty label';
    if (label.length > maxLabelLength) return 'label longer than 63 characters';
    if (!labelForm.test(label)) return 'labels are limited to lowercase letters, numbers, and inner dashes';
    // Labels with dashes there are reserved; `xn--` hides characters that people would not recognise [RFC 5891 4.2.3.1].
    if (label.startsWith('--', 2)) return 'no punycode or otherwise reserved label';
  }
  return undefined;
}
