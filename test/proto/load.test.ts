import { describe, expect, it } from 'vitest';
import { loadMessages, loadPackage, loadServices } from '../../proto/load.ts';

const agentService = 'spire.api.server.agent.v1.Agent';
const entryService = 'spire.api.server.entry.v1.Entry';

describe('loadServices', () => {
  it('gives methods their paths, the Workload API without a package', () => {
    const services = loadServices('SpiffeWorkloadAPI', agentService);
    expect(services.SpiffeWorkloadAPI.FetchX509SVID).toMatchObject({
      path: '/SpiffeWorkloadAPI/FetchX509SVID',
      requestStream: false,
      responseStream: true,
    });
    expect(services[agentService].AttestAgent).toMatchObject({
      path: '/spire.api.server.agent.v1.Agent/AttestAgent',
      requestStream: true,
      responseStream: true,
    });
  });

  it('parses one set of names once, in whatever order they are given', () => {
    expect(loadPackage([agentService, entryService])).toBe(loadPackage([entryService, agentService, agentService]));
  });

  it('has every service it names', () => {
    const names = [
      'SpiffeWorkloadAPI',
      'grpc.health.v1.Health',
      'grpc.reflection.v1.ServerReflection',
      'grpc.reflection.v1alpha.ServerReflection',
      agentService,
      'spire.api.server.bundle.v1.Bundle',
      'spire.api.server.debug.v1.Debug',
      entryService,
      'spire.api.server.localauthority.v1.LocalAuthority',
      'spire.api.server.logger.v1.Logger',
      'spire.api.server.svid.v1.SVID',
      'spire.api.server.trustdomain.v1.TrustDomain',
      'steeple.agent.v1.Admin',
      'steeple.node.v1.Node',
      'steeple.operator.v1.Operator',
    ] as const;
    for (const [name, definition] of Object.entries(loadServices(...names))) {
      const paths = Object.values(definition as Record<string, { path: string }>).map(({ path }) => path);
      expect(paths.length, name).toBeGreaterThan(0);
      for (const path of paths) expect(path.slice(0, path.lastIndexOf('/'))).toBe(`/${name}`);
    }
  });
});

describe('what a decoded message looks like', () => {
  const { AttestAgent, ListAgents } = loadServices(agentService)[agentService];
  const { GetEntry } = loadServices(entryService)[entryService];

  it('shows absent messages as null, absent scalars and lists as empty', () => {
    const entry = GetEntry.responseDeserialize(Buffer.alloc(0));
    expect(entry).toMatchObject({ id: '', spiffe_id: null, selectors: [], expires_at: '0', x509_svid_ttl: 0, admin: false });
  });

  it('shows whether an optional message is present', () => {
    expect(GetEntry.responseDeserialize(Buffer.alloc(0)).additional_attributes).toBeUndefined();
    // Field 16, length-delimited, empty.
    const present = GetEntry.responseDeserialize(Buffer.from([0x82, 0x01, 0x00]));
    expect(present.additional_attributes).toEqual({ disable_x509_svid_prefetch: false, jwt_svid_include_jti: false });
    expect(present._additional_attributes).toBe('additional_attributes');
  });

  it('shows an empty oneof as no member, and an empty challenge as a challenge', () => {
    expect(AttestAgent.responseDeserialize(Buffer.alloc(0)).step).toBeUndefined();
    const challenge = AttestAgent.responseDeserialize(Buffer.from([0x12, 0x00]));
    expect(challenge.step).toBe('challenge');
    expect(challenge.challenge).toEqual(Buffer.alloc(0));
  });

  it('keeps 64-bit integers exact', () => {
    const bytes = GetEntry.responseSerialize({ revision_number: '9223372036854775807' });
    expect(GetEntry.responseDeserialize(bytes).revision_number).toBe('9223372036854775807');
  });

  it('shows an enum number without a name as a number', () => {
    // filter{ by_selector_match{ match = 9 } }
    const request = ListAgents.requestDeserialize(Buffer.from([0x0a, 0x04, 0x12, 0x02, 0x10, 0x09]));
    expect(request.filter?.by_selector_match?.match).toBe(9);
    const named = ListAgents.requestDeserialize(Buffer.from([0x0a, 0x04, 0x12, 0x02, 0x10, 0x03]));
    expect(named.filter?.by_selector_match?.match).toBe('MATCH_ANY');
  });

  it('tells an absent wrapper from one that holds the default', () => {
    expect(ListAgents.requestDeserialize(Buffer.from([0x0a, 0x00])).filter?.by_banned).toBeNull();
    expect(ListAgents.requestDeserialize(Buffer.from([0x0a, 0x02, 0x1a, 0x00])).filter?.by_banned).toEqual({ value: false });
  });

  it('ignores fields it does not know', () => {
    // Field 500, a varint; then id.
    const bytes = Buffer.from([0xa0, 0x1f, 0x07, 0x0a, 0x01, 0x61]);
    expect(GetEntry.responseDeserialize(bytes).id).toBe('a');
  });

  it('reads maps by key', () => {
    const { FetchX509Bundles } = loadServices('SpiffeWorkloadAPI').SpiffeWorkloadAPI;
    const bundles = { 'spiffe://a': Buffer.from([1]), 'spiffe://b': Buffer.from([2]) };
    expect(FetchX509Bundles.responseDeserialize(FetchX509Bundles.responseSerialize({ bundles })).bundles).toEqual(bundles);
  });
});

describe('loadMessages', () => {
  it('gives the details that travel in a status', () => {
    const name = 'spire.api.types.PermissionDeniedDetails';
    const details = loadMessages('google.rpc.Status', name)[name];
    expect([...details.serialize({ reason: 'AGENT_BANNED' })]).toEqual([0x08, 0x04]);
    expect(details.deserialize(Buffer.from([0x08, 0x05])).reason).toBe('AGENT_MUST_REATTEST');
  });
});
