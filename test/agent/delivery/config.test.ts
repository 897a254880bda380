import { describe, expect, it } from 'vitest';
import { formatAgentConfig, parseAgentConfig } from '../../../agent/config.ts';
import { ConfigError } from '../../../runtime/config.ts';

const parse = (deliveries: string): ReturnType<typeof parseAgentConfig>['deliveries'] => parseAgentConfig(`trust_domain: example.org\ndeliveries: ${deliveries}`).deliveries;

function problems(deliveries: string): readonly string[] {
  try {
    parse(deliveries);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems.map(({ path, message }) => `${path}: ${message}`);
  }
}

describe('deliveries', () => {
  it('are none unless they are configured', () => {
    expect(parseAgentConfig('trust_domain: example.org').deliveries).toEqual([]);
  });

  it('have usual files, and a key for its owner alone', () => {
    expect(parse('[{ name: web, directory: /run/web }]')).toEqual([
      {
        name: 'web',
        directory: '/run/web',
        key_mode: '0600',
        files: { certificate: 'svid.pem', key: 'key.pem', bundle: 'bundle.pem' },
        bundle_format: 'pem',
        jwt: [],
        on_loss: 'keep',
      },
    ]);
  });

  it('with named files have those alone', () => {
    const [delivery] = parse('[{ name: proxy, directory: /run/proxy, files: { combined: proxy.pem } }]');
    expect(delivery?.files).toEqual({ combined: 'proxy.pem' });
  });

  it('have a hook with a time, or a signal', () => {
    const [web, database] = parse(`
  - { name: web, directory: /a, hook: { command: [/usr/sbin/nginx, -s, reload] } }
  - { name: db, directory: /b, signal: { pid_file: /run/db.pid, executable: /usr/bin/db } }`);
    expect(web?.hook).toEqual({ command: ['/usr/sbin/nginx', '-s', 'reload'], timeout: 30_000 });
    expect(database?.signal).toEqual({ name: 'HUP', pid_file: '/run/db.pid', executable: '/usr/bin/db' });
  });

  it('are printed in a form that can be read again', () => {
    const config = parseAgentConfig('trust_domain: example.org\ndeliveries: [{ name: web, directory: /a, hook: { command: [/x], timeout: 1m }, spiffe_id: spiffe://example.org/web }]');
    expect(parseAgentConfig(formatAgentConfig(config))).toEqual(config);
  });

  it.each([
    ['a name that is none', '[{ name: "a b", directory: /a }]', 'deliveries[0].name: must be lower-case letters, digits, . _ -'],
    ['a directory that is none', '[{ name: a, directory: a }]', 'deliveries[0].directory: must be an absolute path'],
    ['a name twice', '[{ name: a, directory: /a }, { name: a, directory: /b }]', 'deliveries[1].name: another delivery has the same one'],
    ['a directory twice', '[{ name: a, directory: /a }, { name: b, directory: /a }]', 'deliveries[1].directory: another delivery has the same one'],
    ['a file beyond the directory', '[{ name: a, directory: /a, files: { key: ../key } }]', 'deliveries[0].files.key: must be a plain file name: letters, digits, . _ -, not beginning with a dot'],
    ['the name of the link', '[{ name: a, directory: /a, files: { key: current } }]', 'deliveries[0].files.key: must be a plain file name: letters, digits, . _ -, not beginning with a dot'],
    ['a file twice', '[{ name: a, directory: /a, files: { key: x, certificate: x } }]', 'deliveries[0].files: two files have the same name'],
    ['a token over the key', '[{ name: a, directory: /a, jwt: [{ file: key.pem, audience: [x] }] }]', 'deliveries[0].files: two files have the same name'],
    ['no file', '[{ name: a, directory: /a, files: {} }]', 'deliveries[0].files: nothing is to be written'],
    ['a token for nobody', '[{ name: a, directory: /a, jwt: [{ file: x, audience: [] }] }]', 'deliveries[0].jwt[0].audience: Too small: expected array to have >=1 items'],
    ['a program by its name', '[{ name: a, directory: /a, hook: { command: [nginx] } }]', 'deliveries[0].hook.command: must begin with an absolute path'],
    ['hook and signal', '[{ name: a, directory: /a, hook: { command: [/x] }, signal: { pid_file: /p } }]', 'deliveries[0].signal: hook and signal cannot both be given'],
    ['an identity by two names', '[{ name: a, directory: /a, hint: x, spiffe_id: spiffe://example.org/a }]', 'deliveries[0].hint: spiffe_id and hint cannot both be given'],
    ['an owner that is none', '[{ name: a, directory: /a, owner: "web:web" }]', 'deliveries[0].owner: must be the name or number of an account'],
  ])('are refused with %s', (_what, text, problem) => {
    expect(problems(text)).toEqual([problem]);
  });

  it.each(['0644', '0604', '0666', '0700', '600'])('never make a key readable by everybody: %s', (mode) => {
    expect(problems(`[{ name: a, directory: /a, key_mode: "${mode}" }]`)).toHaveLength(1);
  });
});
