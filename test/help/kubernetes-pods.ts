/**
 * Pods as a node's kubelet and the API server show them, made from numbers: the same number makes the same pod on every
 * machine. Field names, nesting and sizes are those of real lists; serving them is `kubernetes.ts`.
 */
import { createHash } from 'node:crypto';

export type Runtime = 'containerd' | 'docker' | 'cri-o';

export interface ContainerStatusObject {
  name: string;
  state?: object;
  lastState?: object;
  ready?: boolean;
  restartCount?: number;
  image: string;
  imageID: string;
  containerID?: string;
  started?: boolean;
}

export interface OwnerReferenceObject {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

/** What tests read and change of a pod; the rest is there for its shape. */
export interface PodObject {
  metadata: {
    name: string;
    namespace: string;
    uid: string;
    resourceVersion?: string;
    creationTimestamp: string;
    deletionTimestamp?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    ownerReferences?: OwnerReferenceObject[];
    [field: string]: unknown;
  };
  spec: {
    nodeName?: string;
    serviceAccountName?: string;
    serviceAccount?: string;
    containers: object[];
    [field: string]: unknown;
  };
  status: {
    phase: string;
    containerStatuses?: ContainerStatusObject[];
    initContainerStatuses?: ContainerStatusObject[];
    ephemeralContainerStatuses?: ContainerStatusObject[];
    [field: string]: unknown;
  };
}

const beganAt = '2026-01-01T12:00:00Z';
const schemes: readonly Runtime[] = ['containerd', 'docker', 'cri-o'];
const images = ['registry.example.org/shop/cart', 'docker.io/library/redis', 'quay.io/example/indexer', 'registry.k8s.io/coredns/coredns'];

/** 64 hex digits that only `text` gives. */
export function hexOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

export function uidOf(text: string): string {
  const hex = hexOf(`uid ${text}`);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** The id in a status, as the kernel's cgroups have it. */
export function containerIdOf(status: ContainerStatusObject | undefined): string {
  return status?.containerID?.replace(/^[^/]*:\/\//, '') ?? '';
}

export interface PodForm {
  readonly namespace?: string;
  readonly nodeName?: string;
  readonly serviceAccount?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly containers?: readonly string[];
  readonly initContainers?: readonly string[];
  readonly ephemeralContainers?: readonly string[];
  readonly runtime?: Runtime;
  readonly image?: string;
  /** Scheduled, but no container has an id yet. */
  readonly pending?: boolean;
}

/** One pod of a ReplicaSet, running unless the form says otherwise. */
export function podOf(name: string, form: PodForm = {}): PodObject {
  const { namespace = 'default', nodeName = 'node-1', serviceAccount = 'default', runtime = 'containerd', image = images[0]! } = form;
  const { containers = ['app'], initContainers = [], ephemeralContainers = [], pending = false } = form;
  const app = name.replace(/-[^-]*$/, '') || name;
  const set = `${app}-${hexOf(app).slice(0, 10)}`;
  const statusOf = (container: string, ended = false): ContainerStatusObject => ({
    name: container,
    state: pending ? { waiting: { reason: 'ContainerCreating' } } : ended ? endedState(name, container, runtime) : { running: { startedAt: beganAt } },
    lastState: {},
    ready: !pending,
    restartCount: 0,
    image: `${image}:v1.${String(container.length)}.0`,
    imageID: pending ? '' : `${runtime === 'docker' ? 'docker-pullable://' : ''}${image}@sha256:${hexOf(`image ${image}`)}`,
    ...(pending ? {} : { containerID: `${runtime}://${hexOf(`container ${namespace}/${name}/${container}`)}` }),
    started: !pending,
  });
  return {
    metadata: {
      name,
      generateName: `${set}-`,
      namespace,
      uid: uidOf(`${namespace}/${name}`),
      creationTimestamp: beganAt,
      labels: { ...form.labels ?? { app, 'app.kubernetes.io/part-of': 'shop', 'pod-template-hash': hexOf(app).slice(0, 10) } },
      annotations: { 'kubernetes.io/config.seen': beganAt, 'kubernetes.io/config.source': 'api', 'prometheus.io/scrape': 'true' },
      ownerReferences: [{ apiVersion: 'apps/v1', kind: 'ReplicaSet', name: set, uid: uidOf(set), controller: true, blockOwnerDeletion: true }],
      managedFields: managedFields(containers),
    },
    spec: specOf({ containers, initContainers, nodeName, serviceAccount, image }),
    status: {
      phase: pending ? 'Pending' : 'Running',
      conditions: ['PodReadyToStartContainers', 'Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) => ({
        type, status: pending && type !== 'PodScheduled' ? 'False' : 'True', lastProbeTime: null, lastTransitionTime: beganAt,
      })),
      hostIP: '10.1.0.4',
      hostIPs: [{ ip: '10.1.0.4' }],
      podIP: '10.244.0.8',
      podIPs: [{ ip: '10.244.0.8' }],
      startTime: beganAt,
      ...(initContainers.length === 0 ? {} : { initContainerStatuses: initContainers.map((container) => statusOf(container, true)) }),
      containerStatuses: containers.map((container) => statusOf(container)),
      ...(ephemeralContainers.length === 0 ? {} : { ephemeralContainerStatuses: ephemeralContainers.map((container) => statusOf(container)) }),
      qosClass: 'Burstable',
    },
  };
}

/** A node's pods: several namespaces, runtimes and shapes, about one in ten with an init and one in fifty with a debug container. */
export function podsOf(count: number, nodeName = 'node-1'): PodObject[] {
  return Array.from({ length: count }, (_, index) => {
    const app = `app-${String(index % 40)}`;
    return podOf(`${app}-${hexOf(String(index)).slice(0, 5)}${String(index)}`, {
      nodeName,
      namespace: `team-${String(index % 12)}`,
      serviceAccount: index % 3 === 0 ? 'default' : app,
      runtime: schemes[index % 7 === 0 ? 1 + (index % 2) : 0]!,
      image: images[index % images.length]!,
      containers: index % 4 === 0 ? ['app', 'proxy'] : ['app'],
      initContainers: index % 10 === 0 ? ['migrate'] : [],
      ephemeralContainers: index % 50 === 7 ? ['debugger'] : [],
    });
  });
}

function endedState(name: string, container: string, runtime: Runtime): object {
  const containerID = `${runtime}://${hexOf(`container ${name}/${container}`)}`;
  return { terminated: { exitCode: 0, reason: 'Completed', startedAt: beganAt, finishedAt: beganAt, containerID } };
}

function specOf(form: {
  readonly containers: readonly string[];
  readonly initContainers: readonly string[];
  readonly nodeName: string;
  readonly serviceAccount: string;
  readonly image: string;
}): PodObject['spec'] {
  const containerOf = (name: string): object => ({
    name,
    image: `${form.image}:v1.${String(name.length)}.0`,
    args: ['--listen=:8443', '--log-format=json', `--config=/etc/${name}/config.yaml`],
    ports: [{ name: 'https', containerPort: 8443, protocol: 'TCP' }],
    env: Array.from({ length: 12 }, (_, index) => ({ name: `SETTING_${String(index)}`, value: `${name}-${String(index)}` })),
    resources: { limits: { cpu: '1', memory: '512Mi' }, requests: { cpu: '100m', memory: '128Mi' } },
    volumeMounts: ['/etc/config', '/run/spire', '/var/run/secrets/kubernetes.io/serviceaccount'].map((mountPath, index) => ({
      name: `volume-${String(index)}`, readOnly: true, mountPath,
    })),
    livenessProbe: { httpGet: { path: '/healthz', port: 8443, scheme: 'HTTPS' }, timeoutSeconds: 1, periodSeconds: 10, failureThreshold: 3 },
    readinessProbe: { httpGet: { path: '/readyz', port: 8443, scheme: 'HTTPS' }, timeoutSeconds: 1, periodSeconds: 10, failureThreshold: 3 },
    terminationMessagePath: '/dev/termination-log',
    terminationMessagePolicy: 'File',
    imagePullPolicy: 'IfNotPresent',
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, runAsNonRoot: true },
  });
  return {
    volumes: Array.from({ length: 3 }, (_, index) => ({ name: `volume-${String(index)}`, configMap: { name: `config-${String(index)}`, defaultMode: 420 } })),
    ...(form.initContainers.length === 0 ? {} : { initContainers: form.initContainers.map(containerOf) }),
    containers: form.containers.map(containerOf),
    restartPolicy: 'Always',
    terminationGracePeriodSeconds: 30,
    dnsPolicy: 'ClusterFirst',
    serviceAccountName: form.serviceAccount,
    serviceAccount: form.serviceAccount,
    nodeName: form.nodeName,
    securityContext: {},
    schedulerName: 'default-scheduler',
    tolerations: ['not-ready', 'unreachable'].map((taint) => ({
      key: `node.kubernetes.io/${taint}`, operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 300,
    })),
    priority: 0,
    enableServiceLinks: true,
    preemptionPolicy: 'PreemptLowerPriority',
  };
}

/** Half of a real pod's bytes. */
function managedFields(containers: readonly string[]): object[] {
  const ofContainer = Object.fromEntries(containers.map((name) => [
    `k:{"name":"${name}"}`,
    Object.fromEntries(['.', 'f:args', 'f:env', 'f:image', 'f:imagePullPolicy', 'f:livenessProbe', 'f:name', 'f:ports', 'f:readinessProbe',
      'f:resources', 'f:securityContext', 'f:terminationMessagePath', 'f:terminationMessagePolicy', 'f:volumeMounts'].map((field) => [field, {}])),
  ]));
  const byCondition = Object.fromEntries(['ContainersReady', 'Initialized', 'PodReadyToStartContainers', 'Ready'].map((type) => [
    `k:{"type":"${type}"}`, { '.': {}, 'f:lastProbeTime': {}, 'f:lastTransitionTime': {}, 'f:status': {}, 'f:type': {} },
  ]));
  return [
    {
      manager: 'kube-controller-manager', operation: 'Update', apiVersion: 'v1', time: beganAt, fieldsType: 'FieldsV1',
      fieldsV1: { 'f:metadata': { 'f:generateName': {}, 'f:labels': { '.': {}, 'f:app': {} }, 'f:ownerReferences': { '.': {} } }, 'f:spec': { 'f:containers': ofContainer, 'f:dnsPolicy': {}, 'f:restartPolicy': {}, 'f:volumes': {} } },
    },
    {
      manager: 'kubelet', operation: 'Update', apiVersion: 'v1', time: beganAt, fieldsType: 'FieldsV1', subresource: 'status',
      fieldsV1: { 'f:status': { 'f:conditions': byCondition, 'f:containerStatuses': {}, 'f:hostIP': {}, 'f:phase': {}, 'f:podIP': {}, 'f:podIPs': {}, 'f:startTime': {} } },
    },
  ];
}
