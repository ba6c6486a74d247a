// SPDX-License-Identifier: MIT
/**
 * NBD URIs: nbd://HOST[:PORT]/EXPORT, nbds://…, nbd+unix:///EXPORT?socket=PATH, nbds+unix:///….
 *
 * Facts: "NBD URI specification" (NetworkBlockDevice/nbd, doc/uri.md). The export name is the path
 *        without its first "/", so "//disk" names "/disk". The default port is left out. Parameters
 *        other than `socket` are kept as they are.
 */
import { NBD_DEFAULT_PORT } from './constants.js'
import { UriError } from './errors.js'
import { quoteText } from './text.js'

export interface NbdUri {
  readonly transport: 'tcp' | 'unix'
  readonly tls: boolean
  /** TLS identity, the part in front of "@" */
  readonly user?: string | undefined
  /** tcp only; an IPv6 address stands without brackets */
  readonly host?: string | undefined
  /** tcp only */
  readonly port?: number | undefined
  /** unix only */
  readonly socketPath?: string | undefined
  readonly exportName: string
  /** other parameters, such as tls-certificates */
  readonly parameters?: ReadonlyMap<string, string>
}

const pattern = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/

/** @throws {UriError} with what is wrong */
export function parseNbdUri(text: string): NbdUri {
  const match = pattern.exec(text)
  if (match === null) throw new UriError(`${quoteText(text)} is not an NBD URI`)
  const [, scheme = '', authority = '', path = '', query = ''] = match
  const [base = '', transport = 'tcp'] = scheme.toLowerCase().split('+')
  const known = base === 'nbd' || base === 'nbds'
  if (!known || (transport !== 'tcp' && transport !== 'unix')) {
    throw new UriError(`scheme ${quoteText(scheme)}: expected nbd, nbds, nbd+unix or nbds+unix`)
  }
  const tls = base === 'nbds'
  const exportName = decode(path.slice(1))
  const parameters = parseQuery(query)
  const at = authority.lastIndexOf('@')
  const user = at < 0 ? undefined : decode(authority.slice(0, at))
  const server = authority.slice(at + 1)
  if (transport === 'unix') {
    const socketPath = parameters.get('socket')
    if (!socketPath) throw new UriError('a nbd+unix URI needs ?socket=PATH')
    if (server !== '') throw new UriError(`a nbd+unix URI names no host, not ${quoteText(server)}`)
    parameters.delete('socket')
    return { transport, tls, user, socketPath, exportName, parameters }
  }
  if (parameters.has('socket')) throw new UriError(`?socket= belongs to ${base}+unix:///`)
  return { transport, tls, user, ...parseServer(server), exportName, parameters }
}

function parseServer(server: string): { host: string; port: number } {
  const match = /^(?:\[([0-9A-Za-z:.%_~-]+)\]|([^:[\]]*))(?::([0-9]*))?$/.exec(server)
  if (match === null) throw new UriError(`${quoteText(server)} is not HOST or HOST:PORT`)
  const [, address, name, port = ''] = match
  const host = decode(address ?? name ?? '') || 'localhost'
  const number = port === '' ? NBD_DEFAULT_PORT : Number(port)
  if (number < 1 || number > 65535) throw new UriError(`port ${quoteText(port)} is not 1 to 65535`)
  return { host, port: number }
}

function parseQuery(query: string): Map<string, string> {
  const parameters = new Map<string, string>()
  for (const part of query.split('&')) {
    if (part === '') continue
    const at = part.indexOf('=')
    const key = decode(at < 0 ? part : part.slice(0, at))
    if (parameters.has(key)) throw new UriError(`parameter ${quoteText(key)} is given twice`)
    parameters.set(key, at < 0 ? '' : decode(part.slice(at + 1)))
  }
  return parameters
}

/** @throws {UriError} where a name or path cannot be written in UTF-8 */
export function formatNbdUri(uri: NbdUri): string {
  const scheme = `${uri.tls ? 'nbds' : 'nbd'}${uri.transport === 'unix' ? '+unix' : ''}`
  const user = uri.user === undefined ? '' : `${encode(uri.user)}@`
  const parameters = new Map(uri.parameters)
  let server = ''
  if (uri.transport === 'unix') {
    if (!uri.socketPath) throw new UriError('a unix URI needs a socket path')
    parameters.set('socket', uri.socketPath)
  } else {
    const host = uri.host ?? 'localhost'
    const bare = host.includes(':') ? `[${encode(host)}]` : encode(host)
    const port = uri.port ?? NBD_DEFAULT_PORT
    server = port === NBD_DEFAULT_PORT ? bare : `${bare}:${port}`
  }
  const query = [...parameters].map(([key, value]) => `${encode(key)}=${encode(value)}`).join('&')
  return `${scheme}://${user}${server}/${encode(uri.exportName)}${query && `?${query}`}`
}

/** Percent-encoding that leaves "/", ":" and "@" readable, as they may stand in paths and queries. */
function encode(text: string): string {
  try {
    return encodeURIComponent(text).replace(/%2F/g, '/').replace(/%3A/g, ':').replace(/%40/g, '@')
  } catch {
    throw new UriError(`${quoteText(text)} cannot be written in UTF-8`)
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new UriError(`${quoteText(text)}: broken percent-encoding`)
  }
}
