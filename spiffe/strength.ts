/**
 * How strongly a set of selectors identifies what matches it: the level that they can prove together at most. What each
 * selector means is `docs/selectors.md`; which level an environment asks for is left to policy.
 *
 * An entry needs all of its selectors, so a set is as strong as the best proof in it. What a workload, its image or
 * whoever started it wrote (arguments, environment, labels, the program its parent runs now) proves nothing here, and
 * neither does a selector that is not in the table below.
 */
import type { Selector } from './selector.ts';

/** 4 and 5 need a signature over the image and a node rooted in hardware, of which no selector tells. */
export type StrengthLevel = 0 | 1 | 2 | 3;

export interface Strength {
  readonly level: StrengthLevel;
  /** One clause for people. */
  readonly why: string;
}

/**
 * - 0: nothing, or only what the workload may have written itself.
 * - 1: what much else may share: a user, a group, a path or digest without a user, files of a node, a node that had a token.
 * - 2: a user and what it runs; a unit, a pod, or a container by what its engine calls it; a node with a key of its own.
 * - 3: a user that is not root and the digest of a program which that user cannot write; or the container that the kernel
 *   names and the digest of its image.
 *
 * A digest without `process:image:writable:false` stays at 2: a user may run a copy of any program, and may connect, hand
 * the connection to a child and then become the program (exec). At 3 the user is still who could do that; it is a proof
 * for users that run one program.
 */
export function strengthOf(selectors: Iterable<Selector>): Strength {
  const proved = new Set<Proof>();
  for (const selector of selectors) {
    for (const { proof, pattern } of proofs) if (pattern.test(selector)) proved.add(proof);
  }
  return rules.find(({ needs }) => needs.every((proof) => proved.has(proof)))?.strength ?? nothing;
}

type Proof =
  | 'user'
  | 'user other than root'
  | 'path'
  | 'digest'
  | 'not writable'
  | 'digest of the image of the container'
  | 'placed'
  | 'files'
  | 'broad'
  | 'node with a key'
  | 'node with a token';

function valuesOf(...kinds: readonly string[]): RegExp {
  return new RegExp(`^(?:${kinds.join('|')}):`, 'u');
}

/** A tag can be moved to another image, a digest cannot. */
function digestsOf(...kinds: readonly string[]): RegExp {
  return new RegExp(String.raw`^(?:${kinds.join('|')}):(?:[^\s@]+@)?sha256:[0-9a-f]{64}$`, 'u');
}

const proofs: readonly { readonly proof: Proof; readonly pattern: RegExp }[] = [
  { proof: 'user', pattern: /^unix:(?:uid|user):/u },
  { proof: 'user other than root', pattern: /^unix:(?:uid:[1-9]\d*|user:(?!root$).+)$/u },
  { proof: 'path', pattern: valuesOf('unix:path') },
  { proof: 'digest', pattern: /^(?:unix:sha256|process:image:sha256):[0-9a-f]{64}$/u },
  { proof: 'not writable', pattern: /^process:image:writable:false$/u },
  // A pod's images are not here: they need not be of the container that asks.
  {
    proof: 'digest of the image of the container',
    pattern: digestsOf('docker:image_id', 'docker:image_config_digest', 'k8s:container-image', 'cri:image-ref', 'cri:image-id'),
  },
  {
    proof: 'placed',
    pattern: valuesOf(
      'docker:(?:image_id|image_config_digest)',
      'k8s:(?:ns|sa|pod-uid|pod-name|pod-owner|pod-owner-uid|pod-image|pod-init-image|container-name|container-image)',
      'cri:(?:container-id|container-name|image|image-ref|image-id|pod-namespace|pod-name|pod-uid)',
    ),
  },
  // A user's manager and a login session hold whatever that user runs, and a slice whatever is in no unit.
  { proof: 'placed', pattern: /^systemd:id:(?!user@|session-).+(?<!\.slice)$/u },
  { proof: 'placed', pattern: /^systemd:fragment_path:\/(?!.*\/(?:user@\.service|session-[^/]*\.scope|[^/]*\.slice)$)/u },
  // The agent's own configuration says so; what proves nothing is who reads the files.
  { proof: 'files', pattern: valuesOf('delivery') },
  {
    proof: 'broad',
    pattern: valuesOf(
      'unix:(?:gid|group|supplementary_gid|supplementary_group)',
      'process:(?:image|cgroup|namespace|capability|seccomp|no-new-privs|traced)',
      'k8s:(?:node-name|pod-image-count|pod-init-image-count)',
      'cri:runtime-handler',
      'systemd:(?:id|slice|fragment_path)',
    ),
  },
  { proof: 'node with a key', pattern: valuesOf('x509pop', 'tpm_devid', 'k8s_psat', 'k8s_sat', 'aws_iid', 'gcp_iit', 'azure_msi', 'azure_imds', 'oidc_ci') },
  { proof: 'node with a token', pattern: /^(?:join_token:|spiffe_id:spiffe:\/\/[^/]+\/spire\/agent\/join_token\/)/u },
];

interface Rule {
  readonly needs: readonly Proof[];
  readonly strength: Strength;
}

function rule(level: StrengthLevel, why: string, ...needs: readonly Proof[]): Rule {
  return { needs, strength: Object.freeze({ level, why }) };
}

/** The first whose proofs are all there holds. */
const rules: readonly Rule[] = [
  rule(3, 'the container that the kernel names, and the digest of its image', 'digest of the image of the container'),
  rule(3, 'a user, and the digest of a program that this user cannot write', 'user other than root', 'digest', 'not writable'),
  rule(2, 'a user and the digest of a program, which this user may copy or become', 'user', 'digest'),
  rule(2, 'a user and the path of a program', 'user', 'path'),
  rule(2, 'a unit, a pod or a container, whatever image it runs', 'placed'),
  rule(2, 'a node that has proved more than a token', 'node with a key'),
  rule(1, 'a user alone, whatever it runs', 'user'),
  rule(1, 'a program that any user may run', 'digest'),
  rule(1, 'a path without a user, and any user may give a file of its own that path', 'path'),
  rule(1, 'files of a node, and whoever may read them', 'files'),
  rule(1, 'what many processes share', 'broad'),
  rule(1, 'a node that had a token', 'node with a token'),
];

const nothing: Strength = Object.freeze({ level: 0, why: 'nothing that the workload could not have written itself' });
