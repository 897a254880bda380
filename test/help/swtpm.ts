/**
 * A TPM 2.0 emulated by swtpm on data and sockets of its own, with an endorsement certificate of an authority of its own,
 * and tpm2-tools to speak to it. What is provisioned and proved with it is the tests'.
 */
import { spawnSync } from 'node:child_process';
import { createPublicKey, type KeyObject } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createTpm, type Tpm } from '../../agent/node/tpm/command.ts';
import { openTpmDevice } from '../../agent/node/tpm/device.ts';
import { systemClock } from '../../runtime/clock.ts';
import { readPublicArea, subjectPublicKeyInfo, withoutSize } from '../../runtime/tpm/structures.ts';
import { formatPemCertificates, parsePemCertificates } from '../../spiffe/pem.ts';
import { devidCertificate, type Authority } from './devid.ts';
import { runToEnd, startRunning, type Running } from './running.ts';

const programs = ['swtpm', 'swtpm_setup', 'swtpm_localca', 'certtool', 'tpm2'];

/** Why tests that need it are skipped; undefined when they are not, as always in CI. */
export function withoutSwtpm(): string | undefined {
  if (process.env['CI'] !== undefined) return undefined;
  const missing = programs.find((program) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0);
  return missing === undefined ? undefined : `skipped: no \`${missing}\` on PATH`;
}

export interface ProvisionedDevid {
  /** Paths, as the agent's configuration has them. */
  readonly certificate: string;
  readonly privateBlob: string;
  readonly publicBlob: string;
  readonly publicKey: KeyObject;
}

export interface Swtpm extends AsyncDisposable {
  readonly directory: string;
  /** Of the data channel; what the agent takes for a device. */
  readonly socket: string;
  /** DER of who signed the endorsement certificates. */
  readonly endorsementAuthority: Uint8Array;
  /** Runs `tpm2 <command> …` in the directory; throws with what it printed when it fails. */
  tool(command: string, ...args: readonly string[]): Promise<string>;
  file(name: string): Promise<Buffer>;
  path(name: string): string;
  /** Ends it and starts it again; what was loaded is gone, what was stored is there. */
  restart(): Promise<void>;
  stop(): Promise<void>;
  /** Objects and sessions in it. */
  handles(): Promise<readonly string[]>;
  /** Makes a DevID under the storage root as an operator does, with a certificate of `authority`. */
  provision(name: string, authority: Authority, options?: ProvisionOptions): Promise<ProvisionedDevid>;
  /** Runs commands of ours on a connection of its own. */
  ours<T>(work: (tpm: Tpm) => Promise<T>): Promise<T>;
}

export interface ProvisionOptions {
  /** As `tpm2_create -G` has it. */
  readonly algorithm?: string;
  readonly password?: string;
  /** As `tpm2_create -a` has them. */
  readonly attributes?: string;
}

/** As SPIRE and we have it: no dictionary attack protection, everything else as tpm2-tools do it. */
export const storageAttributes = 'restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda';
export const devidAttributes = 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign';

/** Resolves once it answers. Whoever starts it disposes of it, also after a failure. */
export async function startSwtpm(): Promise<Swtpm> {
  const directory = await mkdtemp('/tmp/steeple-tpm-');
  const path = (name: string): string => join(directory, name);
  const socket = path('tpm.sock');
  let running: Running | undefined;
  const run = async (command: readonly [string, ...string[]]): Promise<string> => {
    const { code, stdout, stderr } = await runToEnd(command, { cwd: directory, env: { TPM2TOOLS_TCTI: `swtpm:path=${socket}` } });
    if (code !== 0) throw new Error(`${command.join(' ')}: ${stderr}${stdout}`);
    return stdout;
  };
  const tool = (command: string, ...args: readonly string[]): Promise<string> => run(['tpm2', command, ...args]);
  const start = async (): Promise<void> => {
    running = startRunning(['swtpm', 'socket', '--tpm2', '--tpmstate', `dir=${path('state')}`, '--server', `type=unixio,path=${socket}`, '--ctrl', `type=unixio,path=${socket}.ctrl`, '--flags', 'not-need-init,startup-clear']);
    for (let waited = 0; !existsSync(socket); waited += 20) {
      if (waited > 10_000) throw new Error(`swtpm does not listen: ${running.text()}`);
      await sleep(20);
    }
  };
  const stop = async (): Promise<void> => {
    await running?.end();
    await Promise.all([rm(socket, { force: true }), rm(`${socket}.ctrl`, { force: true })]);
  };
  const dispose = async (): Promise<void> => {
    await stop();
    await rm(directory, { recursive: true, force: true });
  };

  try {
    await manufacture(path, run);
    await start();
    const [endorsementAuthority = new Uint8Array()] = parsePemCertificates(await readFile(path('ca/issuercert.pem'), 'utf8'));
    return {
      directory,
      socket,
      endorsementAuthority,
      tool,
      path,
      file: (name) => readFile(path(name)),
      stop,
      async restart() {
        await stop();
        await start();
      },
      async handles() {
        const listed = [await tool('getcap', 'handles-transient'), await tool('getcap', 'handles-loaded-session')];
        return listed.flatMap((text) => text.match(/0x[0-9A-F]+/gi) ?? []);
      },
      async provision(name, authority, { algorithm = 'rsa2048:rsassa-sha256:null', password = '', attributes = devidAttributes } = {}) {
        const parent = algorithm.startsWith('rsa') ? 'rsa2048' : 'ecc256';
        await tool('createprimary', '-Q', '-C', 'o', '-g', 'sha256', '-G', parent, '-a', storageAttributes, '-c', 'srk.ctx');
        await tool('create', '-Q', '-C', 'srk.ctx', '-g', 'sha256', '-G', algorithm, '-a', attributes, '-p', password, '-u', `${name}.pub`, '-r', `${name}.priv`);
        await tool('flushcontext', '-t');
        const area = readPublicArea(withoutSize(await readFile(path(`${name}.pub`))));
        const publicKey = createPublicKey({ key: Buffer.from(subjectPublicKeyInfo(area.key)), format: 'der', type: 'spki' });
        const der = devidCertificate(authority, { publicKey, privateKey: publicKey, area: Buffer.from(area.bytes) });
        await writeFile(path(`${name}.pem`), formatPemCertificates([der, authority.certificate]));
        return { certificate: path(`${name}.pem`), privateBlob: path(`${name}.priv`), publicBlob: path(`${name}.pub`), publicKey };
      },
      async ours(work) {
        const device = await openTpmDevice(socket, systemClock);
        try {
          return await work(createTpm(device, systemClock));
        } finally {
          await device.close();
        }
      },
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** What a maker of TPMs does: endorsement keys, certificates for them, and both stored in the TPM. */
async function manufacture(path: (name: string) => string, run: (command: readonly [string, ...string[]]) => Promise<string>): Promise<void> {
  await Promise.all([mkdir(path('state')), mkdir(path('ca'))]);
  await writeFile(path('setup.conf'), `create_certs_tool = swtpm_localca\ncreate_certs_tool_config = ${path('localca.conf')}\ncreate_certs_tool_options = ${path('localca.options')}\n`);
  await writeFile(path('localca.conf'), ['signkey.pem', 'issuercert.pem', 'certserial'].map((name, at) => `${['signingkey', 'issuercert', 'certserial'][at]} = ${path(`ca/${name}`)}\n`).join('') + `statedir = ${path('ca')}\n`);
  await writeFile(path('localca.options'), '--platform-manufacturer Acme\n--platform-version 1.0\n--platform-model One\n');
  await run(['swtpm_setup', '--tpm2', '--tpmstate', path('state'), '--create-ek-cert', '--config', path('setup.conf'), '--overwrite']);
}
