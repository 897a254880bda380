/**
 * What an operator may say about how processes are attested and served. From sections to attestors is `../attestors.ts`.
 */
import { z } from 'zod';
import { absolutePath, duration, section, size, socketPath } from '../../runtime/config.ts';

const count = (min: number, max: number): z.ZodInt => z.int().min(min).max(max);

const docker = section({
  engines: z
    .array(
      section({
        socket_path: socketPath().default('/run/docker.sock'),
        /** The user who runs a rootless engine, and whose containers alone it is believed about. */
        owner_uid: count(1, 0xffff_fffe).optional(),
      }),
    )
    .min(1)
    .prefault([{}]),
});

const cri = section({
  socket_paths: z.array(socketPath()).min(1).default(['/run/containerd/containerd.sock']),
});

const systemd = section({
  /** `private` is systemd's own socket, for an agent that is root where there is no bus. */
  address: z.enum(['bus', 'private']).default('bus'),
  socket_path: socketPath().optional(),
});

const kubernetes = z.discriminatedUnion('source', [
  section({
    source: z.literal('kubelet'),
    /** The port without credentials is `http://127.0.0.1:10255`. */
    url: z.string().min(1).default('https://127.0.0.1:10250'),
    node_name: z.string().min(1).optional(),
    ca: absolutePath().optional(),
    token_file: absolutePath().optional(),
    certificate: absolutePath().optional(),
    key: absolutePath().optional(),
    skip_kubelet_verification: z.boolean().default(false),
    relist_interval: duration({ min: '1s', max: '10m' }).prefault('30s'),
    disable_container_selectors: z.boolean().default(false),
  }),
  section({
    source: z.literal('api_server'),
    url: z.string().min(1).default('https://kubernetes.default.svc'),
    node_name: z.string().min(1),
    ca: absolutePath().optional(),
    token_file: absolutePath().optional(),
    disable_container_selectors: z.boolean().default(false),
  }),
]);

export const workload = section({
  /** Whether a process whose executable this agent may not look at is served. */
  unseen_image: z.enum(['refuse', 'accept']).default('refuse'),
  /** How processes are held on to; 0 takes the best that the kernel offers. */
  peer_tier: count(0, 3).default(0),
  bundles_for_all: z.boolean().default(false),
  /** WIT-SVIDs, as far as the server issues them. */
  wit_svids: z.boolean().default(false),
  allowed_foreign_jwt_claims: z.array(z.string().min(1)).default([]),
  unix: section({
    /** Larger executables get no digest. */
    hash_limit: size({ min: 0 }).default(1024 * 1024 * 1024),
    group_limit: count(1, 65_536).default(1024),
  }).prefault({}),
  containers: section({
    /** Control groups below which root's engines put containers besides where they do by default. */
    cgroup_parents: z.array(absolutePath()).default([]),
  }).prefault({}),
  docker: docker.optional(),
  cri: cri.optional(),
  kubernetes: kubernetes.optional(),
  systemd: systemd.optional(),
});

export type WorkloadConfig = z.output<typeof workload>;
