import { describe, expect, it } from 'vitest';
import { openRelationships } from '../../../server/federation/relationships.ts';
import type { Relationship } from '../../../server/store/store.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { openTestStore, scopeAt } from '../../help/store.ts';

const scope = scopeAt(1_000);
const of = (name: string): Relationship => ({ trustDomain: parseTrustDomain(name), endpointUrl: `https://${name}/`, profile: { type: 'https_web' } });
const names = (relationships: readonly Relationship[]): readonly string[] => relationships.map(({ trustDomain }) => trustDomain);

describe('openRelationships', () => {
  it('holds what the store has, and follows it', async () => {
    const store = await openTestStore();
    await store.createRelationship(of('b.example'), undefined, scope);
    const relationships = await openRelationships(store);
    expect(names(relationships.all())).toEqual(['b.example']);
    await store.createRelationship(of('a.example'), undefined, scope);
    await store.updateRelationship(parseTrustDomain('b.example'), { endpointUrl: 'https://elsewhere.example/' }, undefined, scope);
    expect(names(relationships.all())).toEqual(['b.example', 'a.example']);
    expect(relationships.get(parseTrustDomain('b.example'))?.endpointUrl).toBe('https://elsewhere.example/');
    await store.deleteRelationship(parseTrustDomain('b.example'), scope);
    expect(relationships.get(parseTrustDomain('b.example'))).toBeUndefined();
    relationships.close();
    await store.createRelationship(of('c.example'), undefined, scope);
    expect(names(relationships.all())).toEqual(['a.example']);
  });

  it('misses nothing that is committed while it loads', async () => {
    const store = await openTestStore();
    await store.createRelationship(of('a.example'), undefined, scope);
    const slow = {
      subscribe: store.subscribe,
      async loadRelationships() {
        const loaded = await store.loadRelationships();
        await store.deleteRelationship(parseTrustDomain('a.example'), scope);
        await store.createRelationship(of('b.example'), undefined, scope);
        return loaded;
      },
    };
    expect(names((await openRelationships(slow)).all())).toEqual(['b.example']);
  });

  it('pages go on after the last row, whatever was removed meanwhile', async () => {
    const store = await openTestStore();
    for (const name of ['a.example', 'b.example', 'c.example']) await store.createRelationship(of(name), undefined, scope);
    const relationships = await openRelationships(store);
    const first = relationships.list(2, '');
    expect(names(first.items)).toEqual(['a.example', 'b.example']);
    await store.deleteRelationship(parseTrustDomain('a.example'), scope);
    await store.deleteRelationship(parseTrustDomain('b.example'), scope);
    const second = relationships.list(2, first.nextToken);
    expect(names(second.items)).toEqual(['c.example']);
    expect(relationships.list(2, second.nextToken)).toEqual({ items: [], nextToken: '' });
    expect(names(relationships.list(0, '').items)).toEqual(['c.example']);
  });
});
