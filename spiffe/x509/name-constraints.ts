/**
 * Name constraints of an authority, held against the names of what is below it [RFC 5280 4.2.1.10]: URI and DNS forms are
 * enforced, and a certificate that has a name of any other constrained form is refused.
 */
import { SpiffeError } from '../errors.ts';
import type { CertificateBody } from './certificate.ts';
import { nameForm, type Subtree } from './extensions.ts';

/** The Name without attributes. */
const emptyNameBytes = 2;

/**
 * Whether every name of `below` lies within what `authority` may speak for.
 * @throws unauthenticated `x509.path.name-constraint`
 */
export function checkNameConstraints(authority: CertificateBody, below: CertificateBody): void {
  const constraints = authority.extensions.nameConstraints;
  if (constraints === undefined) return;
  for (const [form, names] of namesByForm(below)) {
    const permitted = constraints.permitted.filter((subtree) => subtree.form === form);
    const excluded = constraints.excluded.filter((subtree) => subtree.form === form);
    if (permitted.length === 0 && excluded.length === 0) continue;
    for (const name of names) {
      const isWithin = (subtree: Subtree): boolean => isInSubtree(form, name, subtree.value ?? '');
      const readable = form === nameForm.uri || form === nameForm.dns;
      if (!readable || excluded.some(isWithin) || (permitted.length > 0 && !permitted.some(isWithin))) {
        throw new SpiffeError('unauthenticated', 'x509.path.name-constraint', 'an authority may not speak for one of the names');
      }
    }
  }
}

function namesByForm(below: CertificateBody): readonly (readonly [form: number, names: readonly string[]])[] {
  const others = new Set(below.subjectAltName?.others);
  if (below.subject.length > emptyNameBytes) others.add(nameForm.directory);
  return [
    [nameForm.uri, below.uris],
    [nameForm.dns, below.dnsNames],
    ...[...others].map((form) => [form, ['']] as const),
  ];
}

function isInSubtree(form: number, name: string, base: string): boolean {
  if (form === nameForm.dns) {
    // A base of zero or more labels; a leading dot is tolerated, as elsewhere.
    const [host, suffix] = [name.toLowerCase(), base.toLowerCase()];
    if (suffix === '') return true;
    return host === suffix || host.endsWith(suffix.startsWith('.') ? suffix : `.${suffix}`);
  }
  const host = hostOf(name);
  if (host === undefined) {
    throw new SpiffeError('unauthenticated', 'x509.path.name-constraint', 'a URI name without a host meets a name constraint');
  }
  // A leading dot stands for one or more labels in front, no dot for this very host.
  const suffix = base.toLowerCase();
  if (suffix === '') return true;
  return suffix.startsWith('.') ? host.endsWith(suffix) && host.length > suffix.length : host === suffix;
}

function hostOf(uri: string): string | undefined {
  const authority = /^[A-Za-z][A-Za-z0-9+.-]*:\/\/([^/?#]+)/.exec(uri)?.[1];
  const host = authority?.replace(/^[^@]*@/, '').replace(/:\d*$/, '');
  return host === undefined || host === '' ? undefined : host.toLowerCase();
}
