// SPDX-License-Identifier: MIT
/**
 * NBD URIs, both directions, then refusals.
 */
import fc from 'fast-check'
import t from 'tap'
import { type NbdUri, UriError, formatNbdUri, parseNbdUri } from '../src/index.js'

t.test('URIs and what they mean', async t => {
  const cases: readonly [string, Partial<NbdUri>][] = [
    [
      'nbd://localhost/',
      { transport: 'tcp', tls: false, host: 'localhost', port: 10809, exportName: '' },
    ],
    ['nbd://example.com:10810/disk', { host: 'example.com', port: 10810, exportName: 'disk' }],
    ['nbd://[::1]:9/disk', { host: '::1', port: 9 }],
    ['nbd://[fe80::1%25eth0]/', { host: 'fe80::1%eth0' }],
    ['nbd://127.0.0.1//disk', { exportName: '/disk' }],
    ['nbds://alice@127.0.0.1/disk', { tls: true, user: 'alice' }],
    [
      'nbd+unix:///disk?socket=/run/a.sock',
      { transport: 'unix', socketPath: '/run/a.sock', exportName: 'disk' },
    ],
    ['nbd+unix:///?socket=/tmp/a%20b%3F%26', { socketPath: '/tmp/a b?&', exportName: '' }],
    ['nbd://h/a/b%20c%23%C3%A9', { exportName: 'a/b c#é' }],
    ['nbd://h/disk@{1-2}'.replace('{', '%7B').replace('}', '%7D'), { exportName: 'disk@{1-2}' }],
  ]
  for (const [text, expected] of cases) {
    const uri = parseNbdUri(text)
    t.match(uri, expected, text)
    t.equal(formatNbdUri(uri), text, 'and back')
  }
  t.match(parseNbdUri('NBD://h'), { host: 'h', exportName: '' })
  t.match(parseNbdUri('nbd:///x'), { host: 'localhost' })
  const tls = parseNbdUri('nbds://h/x?tls-psk-file=/k&tls-username=u')
  t.same([...(tls.parameters ?? [])], [['tls-psk-file', '/k'], ['tls-username', 'u']]) // prettier-ignore
})

t.test('what is formatted is parsed to the same', async t => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme' }),
        fc.string({ unit: 'grapheme', minLength: 1 }),
        (exportName, path) => {
          const uri = { transport: 'unix', tls: true, socketPath: path, exportName } as const
          const back = parseNbdUri(formatNbdUri(uri))
          return back.exportName === exportName && back.socketPath === path && back.tls
        },
      ),
    ),
  )
})

t.test('any text is a URI that can be written again, or refused in words', async t => {
  const part = fc.constantFrom('nbd', 's', '+unix', '://', '/', '?socket=', '&', '=', '%', '[', ']')
  const text = fc
    .array(fc.oneof(part, part, fc.string({ unit: 'binary', maxLength: 4 })), { maxLength: 12 })
    .map(parts => parts.join(''))
  const holds = (uri: string): boolean => {
    try {
      const written = formatNbdUri(parseNbdUri(uri))
      return written === formatNbdUri(parseNbdUri(written))
    } catch (error) {
      return error instanceof UriError
    }
  }
  t.doesNotThrow(() => fc.assert(fc.property(text, holds), { numRuns: 5000 }))
})

t.test('wrong URIs are refused with what is wrong', async t => {
  for (const [text, message] of [
    ['', '"" is not an NBD URI'],
    ['/dev/nbd0', '"/dev/nbd0" is not an NBD URI'],
    ['nbd://h/x#y', '"nbd://h/x#y" is not an NBD URI'],
    ['http://h/', 'scheme "http": expected nbd, nbds, nbd+unix or nbds+unix'],
    ['nbd+vsock://1/', 'scheme "nbd+vsock": expected nbd, nbds, nbd+unix or nbds+unix'],
    ['nbd://h:0/', 'port "0" is not 1 to 65535'],
    ['nbd://h:65536/', 'port "65536" is not 1 to 65535'],
    ['nbd://h:x/', '"h:x" is not HOST or HOST:PORT'],
    ['nbd://::1/', '"::1" is not HOST or HOST:PORT'],
    ['nbd+unix:///x', 'a nbd+unix URI needs ?socket=PATH'],
    ['nbd+unix://h/x?socket=/s', 'a nbd+unix URI names no host, not "h"'],
    ['nbd://h/x?socket=/s', '?socket= belongs to nbd+unix:///'],
    ['nbd://h/x?a=1&a=2', 'parameter "a" is given twice'],
    ['nbd://h/%ff', '"%ff": broken percent-encoding'],
    ['nbd://h/%', '"%": broken percent-encoding'],
  ] as const) {
    t.throws(() => parseNbdUri(text), new UriError(message), text)
  }
  t.throws(() => formatNbdUri({ transport: 'unix', tls: false, exportName: '' }), UriError)
  t.throws(
    () => formatNbdUri({ transport: 'tcp', tls: false, exportName: '\ud800' }),
    /cannot be written/,
  )
})
