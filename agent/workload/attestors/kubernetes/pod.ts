/**
 * One pod as Kubernetes describes it, reduced to its selectors and to the ids of its containers. Where pods come from and
 * which process is in which is left to others; what a pod says of itself is taken for text that anybody may have written.
 */
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { composeSelector } from '../../../../spiffe/selector.ts';
import type { Selector } from '../../../../spiffe/selector.ts';
import { fieldsOf } from './fields.ts';
import type { Fields } from './fields.ts';

/** `debug` is an ephemeral container, put into a running pod by whoever may. */
export type ContainerKind = 'app' | 'init' | 'debug';

export interface PodContainer {
  readonly kind: ContainerKind;
  readonly name: string;
  /** Those of the pod and its own. */
  readonly selectors: readonly Selector[];
}

/** What could not become a selector, and why. */
export interface OmittedFact {
  readonly what: string;
  readonly reason: string;
}

export interface Pod {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  /** Its uids as `comparableUid` has them: its own, and that of the static pod it stands for. */
  readonly uids: readonly string[];
  readonly selectors: readonly Selector[];
  /** By id, 64 lower-case hex digits. Ids of another form are not here. */
  readonly containers: ReadonlyMap<string, PodContainer>;
  readonly omitted: readonly OmittedFact[];
}

export interface PodReading {
  /** Pods of other nodes are not believed; any node's are where it is left out. */
  readonly nodeName?: string | undefined;
}

const MAX_TEXT = 2_048;
const MAX_LABELS = 512;
const MAX_OWNERS = 64;
const MAX_CONTAINERS = 256;
/** What a mirror pod, the API server's picture of a static pod, says of the pod that really runs. */
const mirrorAnnotation = 'kubernetes.io/config.mirror';
const containerId = /^[a-z0-9.+-]{1,64}:\/\/([0-9a-f]{64})$/;

/** Uids are compared without dashes, which static pods' lack and some cgroup drivers replace. */
export function comparableUid(uid: string): string {
  return uid.replaceAll('-', '').toLowerCase();
}

/**
 * Unknown fields are passed over; what cannot become a selector is omitted.
 * @param value a Pod as JSON has it
 * @throws invalid `k8s.pod.form` when it names no uid, namespace and name, or another node
 */
export function readPod(value: unknown, reading: PodReading = {}): Pod {
  const metadata = fieldsOf(fieldsOf(value)['metadata']);
  const spec = fieldsOf(fieldsOf(value)['spec']);
  const status = fieldsOf(fieldsOf(value)['status']);
  const { uid, name, namespace } = metadata;
  if (!isPlain(uid) || !isPlain(name) || !isPlain(namespace)) throw malformed('it names no uid, name or namespace');
  const { nodeName } = spec;
  if (reading.nodeName !== undefined && nodeName !== reading.nodeName) throw malformed('it is another node’s');

  const facts = createFacts();
  facts.add('sa', spec['serviceAccountName']);
  facts.add('ns', namespace);
  facts.add('node-name', nodeName);
  facts.add('pod-uid', uid);
  facts.add('pod-name', name);
  const app = statusesOf(status['containerStatuses'], 'pod-image', facts);
  const init = statusesOf(status['initContainerStatuses'], 'pod-init-image', facts);
  for (const container of app) for (const image of imagesOf(container)) facts.add('pod-image', image);
  for (const container of init) for (const image of imagesOf(container)) facts.add('pod-init-image', image);
  addLabels(metadata['labels'], facts);
  addOwners(metadata['ownerReferences'], facts);
  const selectors = Object.freeze(facts.take());

  const containers = new Map<string, PodContainer>();
  const addContainers = (kind: ContainerKind, statuses: readonly Fields[]): void => {
    for (const container of statuses) {
      const [, id] = containerId.exec(typeof container['containerID'] === 'string' ? container['containerID'] : '') ?? [];
      if (id === undefined || containers.has(id)) continue;
      facts.add('container-name', container['name']);
      for (const image of imagesOf(container)) facts.add('container-image', image);
      const own = facts.take();
      containers.set(id, { kind, name: String(container['name']), selectors: Object.freeze([...selectors, ...own]) });
    }
  };
  addContainers('app', app);
  addContainers('init', init);
  addContainers('debug', statusesOf(status['ephemeralContainerStatuses'], undefined, facts));
  const mirrored = fieldsOf(metadata['annotations'])[mirrorAnnotation];
  const uids = [uid, ...(isPlain(mirrored) ? [mirrored] : [])].map(comparableUid);
  return Object.freeze({ uid, namespace, name, uids, selectors, containers, omitted: facts.omitted() });
}

/** Whether what depends on the pod would be another with `other` in its place. */
export function samePod(a: Pod, b: Pod): boolean {
  if (a.containers.size !== b.containers.size || !sameList(a.uids, b.uids) || !sameList(a.selectors, b.selectors)) return false;
  if (!sameList(a.omitted.map(formatOmitted), b.omitted.map(formatOmitted))) return false;
  for (const [id, container] of a.containers) {
    const other = b.containers.get(id);
    if (other?.kind !== container.kind || !sameList(container.selectors, other.selectors)) return false;
  }
  return true;
}

function malformed(why: string): SpiffeError {
  return new SpiffeError('invalid', 'k8s.pod.form', `the description of a pod is not of the known form: ${why}`);
}

function isPlain(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && faultOf(value) === undefined;
}

function faultOf(text: string): string | undefined {
  if (text.length > MAX_TEXT) return 'k8s.selector.too-long';
  if (!text.isWellFormed()) return 'k8s.selector.encoding';
  return /[\p{Cc}\u2028\u2029]/u.test(text) ? 'k8s.selector.control-character' : undefined;
}

interface Facts {
  /** `k8s:KIND:VALUE`; what is absent or empty adds nothing. */
  add(kind: string, value: unknown): void;
  /** `k8s:KIND:KEY:VALUE`; the value may be empty. */
  addPair(kind: string, key: string, value: unknown): void;
  omit(kind: string, reason: string): void;
  /** Those added since the last time. */
  take(): Selector[];
  omitted(): readonly OmittedFact[];
}

function createFacts(): Facts {
  let selectors: Selector[] = [];
  const omitted = new Map<string, OmittedFact>();
  const omit = (kind: string, reason: string): void => {
    const fact = { what: `k8s:${kind}`, reason };
    omitted.set(formatOmitted(fact), fact);
  };
  const add = (kind: string, value: string): void => {
    const fault = faultOf(value);
    if (fault === undefined) selectors.push(composeSelector('k8s', `${kind}:${value}`));
    else omit(kind, fault);
  };
  return {
    add(kind, value) {
      if (value === undefined || value === null || value === '') return;
      if (typeof value === 'string' || typeof value === 'number') add(kind, String(value));
      else omit(kind, 'k8s.selector.type');
    },
    addPair(kind, key, value) {
      // Where the key ends is what tells two facts apart.
      if (key === '' || key.includes(':')) omit(kind, 'k8s.selector.ambiguous');
      else if (typeof value === 'string') add(kind, `${key}:${value}`);
      else omit(kind, 'k8s.selector.type');
    },
    omit,
    take() {
      const taken = selectors;
      selectors = [];
      return taken;
    },
    omitted: () => Object.freeze([...omitted.values()]),
  };
}

function formatOmitted({ what, reason }: OmittedFact): string {
  return `${what} ${reason}`;
}

/** @param counted the kind of selector whose `-count` tells how many there are */
function statusesOf(value: unknown, counted: string | undefined, facts: Facts): readonly Fields[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [];
  if (value !== undefined && value !== null && !Array.isArray(value)) facts.omit(counted ?? 'container-name', 'k8s.selector.type');
  else if (counted !== undefined) facts.add(`${counted}-count`, list.length);
  if (list.length > MAX_CONTAINERS) facts.omit(counted ?? 'container-name', 'k8s.selector.too-many');
  return list.slice(0, MAX_CONTAINERS).map(fieldsOf);
}

/** The image as it was asked for, and with its digest as it was found: either may be registered. */
function imagesOf(container: Fields): ReadonlySet<unknown> {
  return new Set([container['imageID'], container['image']]);
}

function addLabels(value: unknown, facts: Facts): void {
  let count = 0;
  for (const [key, label] of Object.entries(fieldsOf(value))) {
    count += 1;
    if (count > MAX_LABELS) {
      facts.omit('pod-label', 'k8s.selector.too-many');
      return;
    }
    facts.addPair('pod-label', key, label);
  }
}

function addOwners(value: unknown, facts: Facts): void {
  const owners: readonly unknown[] = Array.isArray(value) ? value : [];
  if (owners.length > MAX_OWNERS) facts.omit('pod-owner', 'k8s.selector.too-many');
  for (const owner of owners.slice(0, MAX_OWNERS).map(fieldsOf)) {
    const { kind, name, uid } = owner;
    if (typeof kind !== 'string') {
      facts.omit('pod-owner', 'k8s.selector.type');
      continue;
    }
    facts.addPair('pod-owner', kind, name);
    facts.addPair('pod-owner-uid', kind, uid);
  }
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((text, index) => text === b[index]);
}
