import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseSelector } from '../../spiffe/selector.ts';
import { strengthOf } from '../../spiffe/strength.ts';

const hex = 'c0ffee'.repeat(11).slice(0, 64);
const sha = `sha256:${hex}`;
const levelOf = (...selectors: readonly string[]): number => strengthOf(selectors.map(parseSelector)).level;

/** What a process, its image, or whoever may start one can write as they like. */
const said = [
  'docker:env:A=B',
  `docker:env:${sha}`,
  'docker:label:app:web',
  `docker:label:image:app@${sha}`,
  'k8s:pod-label:app:web',
  `k8s:pod-label:container-image:app@${sha}`,
  'cri:label:app:web',
  'cri:pod-label:app:web',
  'process:script:/opt/app/main.py',
  `process:script:${sha}`,
  'process:interpreter:/usr/bin/python3',
  'process:parent:path:/usr/sbin/sshd',
  'process:ancestor:path:/usr/lib/systemd/systemd',
  'process:loginuid:0',
  'process:session:7',
  'no-such:attestor:x',
  `unix:sha256:${hex}:x`,
  `docker:image_idea:app@${sha}`,
  'unixx:uid:1000',
];

describe('G-35 strength', () => {
  const rows: readonly (readonly [number, string, readonly string[]])[] = [
    [0, 'no selectors', []],
    ...said.map((one) => [0, one, [one]] as const),
    [0, 'all that can be written', said],

    [1, 'a uid', ['unix:uid:1000']],
    [1, 'root', ['unix:uid:0']],
    [1, 'a user', ['unix:user:web']],
    [1, 'a group', ['unix:gid:1000']],
    [1, 'a supplementary group', ['unix:supplementary_gid:1000']],
    [1, 'a path that any user may make in a namespace of its own', ['unix:path:/usr/bin/web']],
    [1, 'a digest that any user may run', [`unix:sha256:${hex}`]],
    [1, 'a digest that any user may run, of root’s file', [`process:image:${sha}`, 'process:image:writable:false']],
    [1, 'root’s file', ['process:image:writable:false']],
    [1, 'a control group', ['process:cgroup:/system.slice/web.service']],
    [1, 'a namespace', ['process:namespace:net:host']],
    [1, 'a user in a namespace', ['unix:uid:1000', 'process:namespace:net:host', 'process:seccomp:filter']],
    [1, 'a user and its path as a script', ['unix:uid:1000', 'process:script:/opt/app/main.py', `process:script:${sha}`]],
    [1, 'a user and its parent', ['unix:uid:1000', 'process:parent:path:/usr/sbin/sshd']],
    [1, 'a node', ['k8s:node-name:n1']],
    [1, 'a slice', ['systemd:slice:web.slice']],
    [1, 'a login session', ['systemd:id:session-3.scope']],
    [1, 'a user’s manager', ['systemd:id:user@1000.service']],
    [1, 'the slice of whatever is in no unit', ['systemd:id:-.slice']],
    [1, 'no unit’s file', ['systemd:fragment_path:']],
    [1, 'the file of a slice', ['systemd:fragment_path:/etc/systemd/system/web.slice']],
    [1, 'the file of every user’s manager', ['systemd:fragment_path:/usr/lib/systemd/system/user@.service']],
    [1, 'the file of a login session', ['systemd:fragment_path:/run/systemd/transient/session-3.scope']],
    [1, 'files of a node', ['delivery:web']],
    [1, 'a node that had a token', ['join_token:abc']],
    [1, 'the alias of a node that had a token', ['spiffe_id:spiffe://td/spire/agent/join_token/abc']],

    [2, 'a uid and a path', ['unix:uid:1000', 'unix:path:/usr/bin/web']],
    [2, 'a user and a path', ['unix:user:web', 'unix:path:/usr/bin/web']],
    [2, 'T-A02 a uid and a digest', ['unix:uid:1000', `unix:sha256:${hex}`]],
    [2, 'T-A02 a uid, a path and a digest', ['unix:uid:1000', 'unix:path:/usr/bin/web', `process:image:${sha}`]],
    [2, 'root and root’s program', ['unix:uid:0', `unix:sha256:${hex}`, 'process:image:writable:false']],
    [2, 'root by name and root’s program', ['unix:user:root', `unix:sha256:${hex}`, 'process:image:writable:false']],
    [2, 'a namespace and a service account', ['k8s:ns:prod', 'k8s:sa:web']],
    [2, 'a pod', ['k8s:pod-uid:2c48913c-b29f-11e7-9350-020968147796']],
    [2, 'a pod’s images, which need not be the container’s', [`k8s:pod-image:web@${sha}`, 'k8s:pod-image-count:1']],
    [2, 'an image by a tag', ['docker:image_id:web:1.2']],
    [2, 'an image by a tag that looks like a digest', [`docker:image_id:web:${hex}`]],
    [2, 'an image by a short digest', [`docker:image_id:web@sha256:${hex.slice(1)}`]],
    [2, 'an image by a digest with a tail', [`docker:image_id:web@${sha}x`]],
    [2, 'a container’s image by a tag', ['k8s:container-image:web:1.2', 'k8s:ns:prod']],
    [2, 'a container of the runtime', ['cri:container-name:web', 'cri:image:web:1.2']],
    [2, 'a unit', ['systemd:id:web.service']],
    [2, 'a unit’s file', ['systemd:fragment_path:/etc/systemd/system/web.service']],
    [2, 'a node with a key', ['x509pop:subject:cn:node-1']],
    [2, 'a node with a TPM, whose root is not told', ['tpm_devid:subject:cn:node-1']],

    [3, 'a uid and the digest of a program that it cannot write', ['unix:uid:1000', `unix:sha256:${hex}`, 'process:image:writable:false']],
    [3, 'the same by other names', ['unix:user:web', `process:image:${sha}`, 'process:image:writable:false']],
    [3, 'a container and the digest of its image, docker', [`docker:image_config_digest:${sha}`]],
    [3, 'a container that was started by digest, docker', [`docker:image_id:registry/web@${sha}`]],
    [3, 'a container and the digest of its image, k8s', ['k8s:ns:prod', `k8s:container-image:registry/web@${sha}`]],
    [3, 'a container and the digest of its image, cri', [`cri:image-ref:registry/web@${sha}`]],
    [3, 'a container and the digest of its configuration, cri', [`cri:image-id:${sha}`]],
  ];

  it.each(rows)('%i %s', (level, _name, selectors) => {
    const strength = strengthOf(selectors.map(parseSelector));
    expect(strength.level).toBe(level);
    expect(strength.why).not.toBe('');
  });

  const everything = rows.flatMap(([, , selectors]) => selectors);
  const anySet = fc.subarray([...new Set(everything)]);

  it('no path by which a workload-supplied value raises it', () => {
    fc.assert(fc.property(anySet, fc.subarray(said), (selectors, more) => levelOf(...selectors, ...more) === levelOf(...selectors)));
    const kinds = said.map((one) => one.split(':').slice(0, 2).join(':')).filter((kind) => !/^(?:unix|unixx|no-such|docker:image)/.test(kind));
    const value = fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom(sha, `app@${sha}`, 'uid:1000', '\nunix:uid:1000', `x\ndocker:image_id:${sha}`));
    fc.assert(fc.property(fc.constantFrom(...kinds), value, (kind, text) => levelOf(`${kind}:${text}`) === 0));
  });

  it('is not lowered by a further selector, nor changed by their order', () => {
    fc.assert(fc.property(anySet, fc.constantFrom(...everything), (selectors, more) => levelOf(...selectors, more) >= levelOf(...selectors)));
    fc.assert(fc.property(anySet, (selectors) => levelOf(...selectors) === levelOf(...selectors.toReversed())));
  });
});
