/**
 * What a container and its pod are, as selectors. The facts come checked from `messages.ts`; that they are about the
 * process that asks is established by `attestor.ts`.
 *
 * | selector | value |
 * |---|---|
 * | `cri:container-id` | the container's id, as in the process's control group |
 * | `cri:container-name` | its name in the pod's description |
 * | `cri:image` | a name that the runtime has for the image now; tags move |
 * | `cri:image-ref` | repository and digest that the image was pulled by, `registry/name@sha256:…` |
 * | `cri:image-id` | digest of the image's configuration, `sha256:…` |
 * | `cri:label:KEY` | a label of the container |
 * | `cri:pod-name`, `cri:pod-namespace`, `cri:pod-uid` | the pod |
 * | `cri:pod-label:KEY` | a label of the pod as it was when the pod was made |
 * | `cri:runtime-handler` | the runtime class's handler, unless it is the default one |
 *
 * Annotations give none: they are long, and runtimes, kubelets and whoever makes pods all write them.
 */
import { Buffer } from 'node:buffer';
import { entryLimits } from '../../../../spiffe/entry.ts';
import { composeSelector } from '../../../../spiffe/selector.ts';
import type { Selector } from '../../../../spiffe/selector.ts';
import type { CriContainer, CriPod } from './messages.ts';

export interface Omitted {
  /** The selector's type and name. */
  readonly what: string;
  readonly reason: string;
}

/** What is kept of a container: bounded, whatever its labels are. */
export interface CriSelectors {
  readonly selectors: readonly Selector[];
  /** Each once. `cri.text.*` for values and `cri.labels.*` for labels that cannot be told. */
  readonly omitted: readonly Omitted[];
}

/** More or longer ones than any cluster allows: nobody can say which of them were meant, so none is told. */
const LABELS = 256;
const LABELS_BYTES = 65_536;
/** An entry's selector has to hold type and name before the value, the longest of which is `cri:runtime-handler:`. */
const VALUE_BYTES = entryLimits.selectorBytes - 20;

export function criSelectors(container: CriContainer, pod: CriPod): CriSelectors {
  const selectors: Selector[] = [];
  const omitted = new Map<string, Omitted>();
  const omit = (what: string, reason: string): void => void omitted.set(`${what} ${reason}`, { what, reason });

  const add = (name: string, value: string): void => {
    if (value === '') return;
    const fault = faultIn(value);
    if (fault === undefined) selectors.push(composeSelector('cri', `${name}:${value}`));
    else omit(`cri:${name}`, fault);
  };
  const addLabels = (name: string, labels: Readonly<Record<string, string>>): void => {
    const entries = Object.entries(labels);
    const bytes = entries.reduce((sum, [key, value]) => sum + key.length + value.length, 0);
    if (entries.length > LABELS || bytes > LABELS_BYTES) {
      omit(`cri:${name}`, 'cri.labels.too-many');
      return;
    }
    for (const [key, value] of entries) {
      // Behind a colon in the key, one label would read like another.
      const fault = key === '' || key.includes(':') ? 'cri.labels.key' : faultIn(`${key}:${value}`);
      if (fault === undefined) selectors.push(composeSelector('cri', `${name}:${key}:${value}`));
      else omit(`cri:${name}`, fault);
    }
  };

  add('container-id', container.id);
  add('container-name', container.name);
  if (!isDigest(container.image)) add('image', container.image);
  if (container.imageRef.includes('@')) add('image-ref', container.imageRef);
  add('image-id', container.imageId);
  addLabels('label', container.labels);
  add('pod-name', pod.name);
  add('pod-namespace', pod.namespace);
  add('pod-uid', pod.uid);
  addLabels('pod-label', pod.labels);
  add('runtime-handler', pod.runtimeHandler);
  return { selectors, omitted: [...omitted.values()] };
}

/** Runtimes hand back an id where an image has no name. */
function isDigest(image: string): boolean {
  return /^(?:sha256:)?[0-9a-f]{64}$/.test(image);
}

/** U+FFFD stands for bytes that are no text, so that two different texts may read alike. */
function faultIn(text: string): string | undefined {
  if (/[\p{Cc}\u2028\u2029\ufffd]/u.test(text)) return 'cri.text.control-character';
  return Buffer.byteLength(text) > VALUE_BYTES ? 'cri.text.too-long' : undefined;
}
