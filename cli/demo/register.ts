/**
 * What an operator would ask of the server for the demo: its bundle, a join token, the entries of the workloads. The
 * programs themselves are started in `story.ts`.
 */
import { join } from 'node:path';
import { agentFromMessage } from '../../proto/convert/agent.ts';
import { bundleFromMessage } from '../../proto/convert/bundle.ts';
import { entryFromMessage } from '../../proto/convert/entry.ts';
import { idToMessage } from '../../proto/convert/id.ts';
import { systemClock } from '../../runtime/clock.ts';
import { writePrivateFile } from '../../runtime/files.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId, parseTrustDomain, type SpiffeId } from '../../spiffe/id.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { itemToMessage } from '../entry-fields.ts';
import { type Line, pages } from '../operators.ts';

export const demoServices = [
  'grpc.health.v1.Health',
  'spire.api.server.agent.v1.Agent',
  'spire.api.server.bundle.v1.Bundle',
  'spire.api.server.entry.v1.Entry',
  'steeple.operator.v1.Operator',
] as const;

export type DemoLine = Line<(typeof demoServices)[number]>;

export const trustDomain = parseTrustDomain('example.org');
const node = composeSpiffeId(trustDomain, '/node/demo');

export const roles = ['alpha', 'beta', 'mallory'] as const;
export type Role = (typeof roles)[number];

export function identityOf(role: Role): SpiffeId {
  return composeSpiffeId(trustDomain, `/${role}`);
}

/** Short, so that a rotation at half life can be waited for. */
const svidSeconds = 120;
/** An agent whose SVID ends sooner is not relied on to come back with it. */
const marginMs = 60_000;

/** Writes the server's bundle for the agent's first contact. */
export async function writeBundle({ client, services, signal }: DemoLine, file: string): Promise<void> {
  const { GetBundle } = services['spire.api.server.bundle.v1.Bundle'];
  const bundle = bundleFromMessage(await client.unary(GetBundle, {}, { signal }));
  await writePrivateFile(file, formatPemCertificates(bundle.x509Authorities.map(({ certificate }) => certificate)));
}

/** Writes a new join token; the node it admits gets the name that the demo's entries hang from. */
export async function writeToken({ client, services, signal }: DemoLine, file: string): Promise<void> {
  const { CreateJoinToken } = services['spire.api.server.agent.v1.Agent'];
  const { value } = await client.unary(CreateJoinToken, { ttl: 600, agent_id: idToMessage(node) }, { signal });
  await writePrivateFile(file, value);
}

/** Whether an agent is known that can come back with the SVID it has. */
export async function hasAgent({ client, services, signal }: DemoLine): Promise<boolean> {
  const { ListAgents } = services['spire.api.server.agent.v1.Agent'];
  const listed = pages(async (token) => {
    const page = await client.unary(ListAgents, { page_size: 100, page_token: token }, { signal });
    return { items: page.agents, next: page.next_page_token };
  });
  const now = systemClock.now();
  for await (const page of listed) {
    if (page.map(agentFromMessage).some(({ serial, expiresAt }) => serial !== '' && expiresAt > now + marginMs)) return true;
  }
  return false;
}

/** Makes the entries of the workloads what they have to be: each is who runs from its own path, as this user. */
export async function registerWorkloads(line: DemoLine, pathOf: (role: Role) => string, uid: number): Promise<void> {
  const { client, services, signal } = line;
  const { BatchCreateEntry, BatchUpdateEntry } = services['spire.api.server.entry.v1.Entry'];
  const known = await knownEntries(line);
  for (const role of roles) {
    const item = {
      id: `demo-${role}`,
      spiffeId: identityOf(role),
      parentId: node,
      selectors: [`unix:path:${pathOf(role)}`, `unix:uid:${uid}`],
      x509SvidTtl: svidSeconds,
    };
    const present = known.get(item.id);
    if (present !== undefined && isAs(present, item)) continue;
    const method = present === undefined ? BatchCreateEntry : BatchUpdateEntry;
    const { results } = await client.unary(method, { entries: [itemToMessage(item)] }, { signal });
    const status = results[0]?.status;
    if (status?.code !== 0) {
      throw new SpiffeError('internal', 'cli.demo.entry', `the server does not take the entry of ${role}: ${status?.message ?? 'no answer'}`);
    }
  }
}

function isAs(entry: RegistrationEntry, item: { readonly selectors: readonly string[] }): boolean {
  return entry.x509SvidTtlSeconds === svidSeconds && [...entry.selectors].toSorted().join('\n') === item.selectors.toSorted().join('\n');
}

async function knownEntries({ client, services, signal }: DemoLine): Promise<ReadonlyMap<string, RegistrationEntry>> {
  const { ListEntries } = services['spire.api.server.entry.v1.Entry'];
  const listed = pages(async (token) => {
    const request = { filter: { by_parent_id: idToMessage(node) }, page_size: 100, page_token: token };
    const page = await client.unary(ListEntries, request, { signal });
    return { items: page.entries, next: page.next_page_token };
  });
  const found = new Map<string, RegistrationEntry>();
  for await (const page of listed) for (const entry of page.map(entryFromMessage)) found.set(entry.id, entry);
  return found;
}

/** Files of the demo beside the programs' own. */
export function demoFile(directory: string, name: string): string {
  return join(directory, 'demo', name);
}
