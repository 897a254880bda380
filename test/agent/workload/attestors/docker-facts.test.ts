import { describe, expect, it } from 'vitest';
import { readContainer } from '../../../../agent/workload/attestors/docker-facts.ts';

const id = 'c0'.repeat(32);
const digest = 'ab'.repeat(32);

function answer(change: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    Id: id,
    State: { Running: true, Pid: 42 },
    Image: `sha256:${digest}`,
    Config: { Image: 'registry.example:5000/web:1', Labels: { app: 'web' }, Env: ['STAGE=test'] },
    ...change,
  };
}

function read(value: unknown): ReturnType<typeof readContainer> {
  return readContainer(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)), id);
}

describe('a container', () => {
  it('gives selectors spelled as SPIRE spells them', () => {
    expect(read(answer())).toMatchObject({
      selectors: [
        'docker:label:app:web',
        'docker:env:STAGE=test',
        'docker:image_id:registry.example:5000/web:1',
        `docker:image_config_digest:sha256:${digest}`,
      ],
      omitted: [],
    });
  });

  it.each([
    ['no labels, no environment, no name of the image', { Config: { Labels: null, Env: null, Image: '' } }, []],
    ['none of the keys', { Config: {} , Image: `sha256:${digest}`}, []],
    ['a label that is empty, one with colons, one without a name', { Config: { Image: '', Labels: { a: '', 'b:c': 'd:e', '': 'f' } } }, [
      'docker:label:a:',
      'docker:label:b:c:d:e',
      'docker:label::f',
    ]],
    ['names that objects have anyway', { Config: JSON.parse('{"Image":"","Labels":{"__proto__":"a","constructor":"b"}}') as object }, [
      'docker:label:__proto__:a',
      'docker:label:constructor:b',
    ]],
    ['a setting without a value, one with several signs, the same twice', { Config: { Image: '', Env: ['A', 'B=C=D', 'A'] } }, [
      'docker:env:A',
      'docker:env:B=C=D',
    ]],
    ['letters of any script', { Config: { Image: '', Labels: { größe: '大' } } }, ['docker:label:größe:大']],
  ])('with %s', (_what, change, expected) => {
    const { selectors } = read(answer(change));
    expect(selectors.filter((selector) => !selector.includes('digest'))).toEqual(expected);
  });

  it('names its image also where the engine leaves the algorithm out', () => {
    expect(read(answer({ Image: digest })).selectors).toContain(`docker:image_config_digest:sha256:${digest}`);
  });

  it('that is paused lives', () => {
    expect(read(answer({ State: { Running: false, Paused: true, Pid: 42 } })).selectors).toHaveLength(4);
  });
});

describe('what cannot be a selector is left out with its reason, once, and the rest stands', () => {
  it.each([
    ['a label that is a number', { Labels: { a: 1, b: 2, app: 'web' } }, 'docker:label', 'docker.selector.form'],
    ['a label that is null', { Labels: { a: null, app: 'web' } }, 'docker:label', 'docker.selector.form'],
    ['a setting that is an object', { Env: [{}, []] }, 'docker:env', 'docker.selector.form'],
    ['an image that is a list', { Image: ['web'] }, 'docker:image_id', 'docker.selector.form'],
    ['a NUL', { Labels: { 'a\0b': 'c' } }, 'docker:label', 'docker.selector.control-character'],
    ['a line end', { Env: ['A=b\nB=c'] }, 'docker:env', 'docker.selector.control-character'],
    ['an escape sequence', { Image: '\u001b[2Jweb' }, 'docker:image_id', 'docker.selector.control-character'],
    ['a line separator', { Labels: { a: 'b\u2028c' } }, 'docker:label', 'docker.selector.control-character'],
    ['half of a pair', { Labels: { a: '\ud800' } }, 'docker:label', 'docker.selector.encoding'],
    ['a character that stands for lost bytes', { Labels: { a: 'x\ufffd' } }, 'docker:label', 'docker.selector.encoding'],
    ['a value longer than any is asked for', { Env: [`A=${'x'.repeat(8192)}`] }, 'docker:env', 'docker.selector.too-long'],
    ['more labels than are taken', { Labels: Object.fromEntries(Array.from({ length: 1100 }, (_, at) => [`a${at}`, 'b'])) }, 'docker:label', 'docker.selector.too-many'],
    ['more text than is taken', { Env: Array.from({ length: 60 }, (_, at) => `A${at}=${'x'.repeat(8000)}`) }, 'docker:env', 'docker.selector.too-many'],
  ])('%s', (_what, config, what, reason) => {
    const { selectors, omitted, weight } = read(answer({ Config: { Image: 'web:1', Labels: { app: 'web' }, ...config } }));
    expect(omitted).toContainEqual({ what, reason });
    expect(omitted.filter((one) => one.what === what)).toHaveLength(1);
    expect(selectors.length).toBeLessThanOrEqual(1024);
    expect(selectors.every((selector) => /^docker:[\x20-\x7e]+$/.test(selector) && selector.length < 8300)).toBe(true);
    expect(weight).toBe(selectors.join('').length);
    expect(weight).toBeLessThanOrEqual(262_144);
    if (!reason.endsWith('many')) expect(selectors).toContain(`docker:image_config_digest:sha256:${digest}`);
  });

  it.each([['no image'], ['sha512:00'], [`sha256:${digest}0`], [`sha256:${digest.toUpperCase()}`], [7], [null]])('an image id %j', (image) => {
    const { selectors, omitted } = read(answer({ Image: image }));
    expect(omitted).toEqual([{ what: 'docker:image_config_digest', reason: 'docker.selector.form' }]);
    expect(selectors).toHaveLength(3);
  });

  it('bytes that are no UTF-8', () => {
    const text = JSON.stringify(answer({ Config: { Labels: { app: 'web', odd: 'X' }, Image: 'web:1' } }));
    const body = Buffer.from(text);
    body[body.indexOf('"X"') + 1] = 0xff;
    const { selectors, omitted } = readContainer(body, id);
    expect(omitted).toEqual([{ what: 'docker:label', reason: 'docker.selector.encoding' }]);
    expect(selectors).toContain('docker:label:app:web');
  });
});

describe('what may not be believed', () => {
  it.each([
    ['no JSON', '<html>'],
    ['nothing', ''],
    ['half of it', JSON.stringify(answer()).slice(0, -20)],
    ['null', 'null'],
    ['a list', '[]'],
    ['a text', '"container"'],
    ['nesting without end', '['.repeat(100_000)],
    ['no state', answer({ State: undefined })],
    ['a state that is a list', answer({ State: [] })],
    ['no configuration', answer({ Config: null })],
    ['labels that are a list', answer({ Config: { Labels: ['a=b'] } })],
    ['labels that are a text', answer({ Config: { Labels: 'a=b' } })],
    ['an environment that is an object', answer({ Config: { Env: { A: 'b' } } })],
  ])('%s', (_what, value) => {
    expect(() => read(value)).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'docker.answer.form' }));
  });

  it.each([
    ['another container', 'c1'.repeat(32)],
    ['the id cut short', id.slice(0, 12)],
    ['the id in capitals', id.toUpperCase()],
    ['no id', undefined],
  ])('an answer about %s', (_what, other) => {
    expect(() => read(answer({ Id: other }))).toThrow(expect.objectContaining({ kind: 'denied', reason: 'docker.answer.other' }));
  });

  it.each([
    ['exited', { Running: false, Pid: 0 }],
    ['running without a process', { Running: true, Pid: 0 }],
    ['running as no number', { Running: true, Pid: 'x' }],
    ['not running with a process', { Running: false, Pid: 42 }],
    ['running by a text', { Running: 'true', Pid: 42 }],
  ])('a container that is %s', (_what, state) => {
    expect(() => read(answer({ State: state }))).toThrow(expect.objectContaining({ kind: 'denied', reason: 'docker.container.stopped' }));
  });
});
