/**
 * Answers with a document that is ready in memory: the methods, validators and headers of a page that anybody may read.
 * What is in it, and which path it is at, is left to whoever has it.
 */
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';

export interface HttpDocument {
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, string>>;
  readonly etag: string;
}

/** How a question ended: with the document, without it because the asker has it, or with a refusal. */
export type DocumentOutcome = 'sent' | 'unchanged' | 'refused';

export interface DocumentForm {
  /** How long others may keep it without asking again. */
  readonly maxAgeSeconds: number;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A JSON document; the text is encoded once, and its validator follows from its bytes alone, whoever serves them. */
export function jsonDocument(text: string, form: DocumentForm): HttpDocument {
  const body = Buffer.from(text);
  const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 27)}"`;
  const headers = {
    'content-type': 'application/json',
    'content-length': String(body.length),
    'cache-control': `public, max-age=${form.maxAgeSeconds}`,
    'x-content-type-options': 'nosniff',
    etag,
    ...form.headers,
  };
  return { body, headers, etag };
}

/**
 * Answers the question with what `find` has for its path, which comes without a query. GET and HEAD are all there is;
 * ranges are not served, and a question with a body is the last one of its connection.
 * @param find the document, or the status and words of a refusal
 */
export function answerWithDocument(
  request: IncomingMessage,
  response: ServerResponse,
  find: (path: string) => HttpDocument | DocumentRefusal,
): DocumentOutcome {
  // What comes with the question is not read, so nothing that follows it can be.
  const hasBody = request.headers['transfer-encoding'] !== undefined || (request.headers['content-length'] ?? '0') !== '0';
  if (hasBody && request.httpVersionMajor === 1) response.setHeader('connection', 'close');
  const refuse = ({ status, message, headers = {} }: DocumentRefusal): 'refused' => {
    const body = Buffer.from(`${JSON.stringify({ error: message })}\n`);
    response.writeHead(status, {
      'content-type': 'application/json',
      'content-length': body.length,
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
      ...headers,
    });
    response.end(request.method === 'HEAD' ? undefined : body);
    return 'refused';
  };
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return refuse({ status: 405, message: 'method not allowed', headers: { allow: 'GET, HEAD' } });
  }
  const [path = ''] = (request.url ?? '').split('?', 1);
  const found = find(path);
  if ('status' in found) return refuse(found);
  if (isKnown(request.headers['if-none-match'], found.etag)) {
    const { 'content-length': _length, 'content-type': _type, ...headers } = found.headers;
    response.writeHead(304, headers);
    response.end();
    return 'unchanged';
  }
  response.writeHead(200, found.headers);
  response.end(request.method === 'HEAD' ? undefined : found.body);
  return 'sent';
}

export interface DocumentRefusal {
  readonly status: 404 | 405 | 421 | 503;
  readonly message: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export const noSuchPage: DocumentRefusal = { status: 404, message: 'no such page' };

/** By the weak comparison, as RFC 9110 13.1.2 has it. */
function isKnown(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  return header.trim() === '*' || header.split(',').some((one) => one.trim().replace(/^W\//, '') === etag);
}
