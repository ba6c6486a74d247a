// SPDX-License-Identifier: MIT
/**
 * XML of disk descriptors: guarded parsing, reading as genuine tools read, and editing that leaves
 * formatting, comments and unknown elements as they are.
 *
 * Descriptors come from anywhere, so size, nesting, number of tags and length of a tag are bounded
 * and a document type declaration is refused before the parser sees anything.
 */
import {
  DOMParser,
  type Document,
  type Element,
  Node,
  type Text,
  XMLSerializer,
} from '@xmldom/xmldom'
import { PloopError } from '../base/errors.js'

export type { Document, Element }

export const descriptorBytesMax = 1024 * 1024
const tagCountMax = 65_536
const tagLengthMax = 4096
const nestingMax = 32
const indentUnit = '  '

/** @throws {PloopError} `DESCRIPTOR_INVALID`, status 23 */
export function parseXml(bytes: Uint8Array | string): Document {
  const text = typeof bytes === 'string' ? bytes : decodeText(bytes)
  if (text.trim() === '') refuseDescriptor('the file is empty')
  if (text.length > descriptorBytesMax) refuseSize(text.length)
  guardMarkup(text)
  let complaint: string | undefined
  try {
    return new DOMParser({
      locator: false,
      onError: (_level, message) => {
        complaint = message
        throw new Error(message)
      },
      normalizeLineEndings: source => source.replace(/\r\n?/g, '\n'),
    }).parseFromString(text, 'text/xml')
  } catch (error) {
    return refuseDescriptor(`not well-formed XML: ${complaint ?? firstLine(error)}`)
  }
}

export function formatXml(document: Document): string {
  return `${new XMLSerializer().serializeToString(document)}\n`
}

export function refuseDescriptor(fact: string): never {
  throw new PloopError('DESCRIPTOR_INVALID', `invalid disk descriptor: ${fact}`, { status: 'lock' })
}

export function elementsOf(parent: Element): Element[] {
  const elements: Element[] = []
  for (let node = parent.firstChild; node !== null; node = node.nextSibling) {
    if (isElement(node)) elements.push(node)
  }
  return elements
}

export function childNamed(parent: Element, name: string): Element | undefined {
  return elementsOf(parent).find(element => element.nodeName === name)
}

/** The first text node, as it stands. undefined without one; CDATA does not count. */
export function textOf(element: Element | undefined): string | undefined {
  for (let node = element?.firstChild ?? null; node !== null; node = node.nextSibling) {
    if (isText(node)) return node.data
  }
  return undefined
}

export function setText(element: Element, text: string): void {
  for (let node = element.firstChild; node !== null; node = node.nextSibling) {
    if (isText(node)) {
      node.data = text
      return
    }
  }
  element.appendChild(ownerOf(element).createTextNode(text))
}

/** A new element with children of text, and of nothing where the text is undefined. */
export type NewChildren = readonly (readonly [name: string, text: string | undefined])[]

/**
 * Inserts a new element with the indentation of its neighbours.
 *
 * @param after an element child of `parent`; undefined: at the end
 */
export function insertElement(
  parent: Element,
  name: string,
  content: string | NewChildren | undefined,
  after?: Element,
): Element {
  const document = ownerOf(parent)
  const neighbour = after ?? elementsOf(parent).at(-1)
  const indent = neighbour === undefined ? outerIndent(parent) + indentUnit : blankBefore(neighbour)
  const element = document.createElement(name)
  if (typeof content === 'string') element.appendChild(document.createTextNode(content))
  else if (content !== undefined) fill(document, element, content, indent)

  if (neighbour === undefined) {
    const blanks = [...childNodesOf(parent)].filter(node => isBlank(node))
    for (const node of blanks) parent.removeChild(node)
    appendBlank(document, parent, indent)
    parent.appendChild(element)
    appendBlank(document, parent, outerIndent(parent))
    return element
  }
  const place = neighbour.nextSibling
  if (indent !== '') parent.insertBefore(document.createTextNode(indent), place)
  parent.insertBefore(element, place)
  return element
}

/** Removes an element and the indentation before it. */
export function removeElement(element: Element): void {
  const parent = element.parentNode
  if (parent === null) return
  const previous = element.previousSibling
  if (previous !== null && isBlank(previous)) parent.removeChild(previous)
  parent.removeChild(element)
}

/** True for text that XML 1.0 carries unchanged from writer to reader. */
export function isPlainText(text: string): boolean {
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    if (code < 0x20 || code === 0xfffe || code === 0xffff) return false
    if (code >= 0xd800 && code <= 0xdfff) return false
  }
  return true
}

function fill(document: Document, element: Element, children: NewChildren, indent: string): void {
  for (const [name, text] of children) {
    if (indent !== '') appendBlank(document, element, indent + indentUnit)
    const child = document.createElement(name)
    if (text !== undefined) child.appendChild(document.createTextNode(text))
    element.appendChild(child)
  }
  if (indent !== '') appendBlank(document, element, indent)
}

function appendBlank(document: Document, parent: Element, blank: string): void {
  if (blank !== '') parent.appendChild(document.createTextNode(blank))
}

/** Line break and indentation in front of an element, '' when it follows something else. */
function blankBefore(element: Element): string {
  const previous = element.previousSibling
  return previous !== null && isBlank(previous) ? previous.data : ''
}

function outerIndent(element: Element): string {
  const blank = blankBefore(element)
  return blank === '' ? '\n' : blank
}

function* childNodesOf(parent: Element): Generator<Node> {
  for (let node = parent.firstChild; node !== null; node = node.nextSibling) yield node
}

function isElement(node: Node): node is Element {
  return node.nodeType === Node.ELEMENT_NODE
}

function isText(node: Node): node is Text {
  return node.nodeType === Node.TEXT_NODE
}

function isBlank(node: Node): node is Text {
  return isText(node) && /^[ \t\n]*$/.test(node.data)
}

function ownerOf(element: Element): Document {
  const { ownerDocument } = element
  if (ownerDocument === null) throw new Error('an element without a document')
  return ownerDocument
}

function decodeText(bytes: Uint8Array): string {
  if (bytes.length > descriptorBytesMax) refuseSize(bytes.length)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return refuseDescriptor('the file is not UTF-8 text')
  }
}

function refuseSize(length: number): never {
  refuseDescriptor(`${length} bytes are more than the ${descriptorBytesMax} a descriptor may have`)
}

/** One linear pass over the markup, so that nothing hostile reaches the parser. */
function guardMarkup(text: string): void {
  let depth = 0
  let count = 0
  let position = text.indexOf('<')
  while (position !== -1) {
    if (++count > tagCountMax) refuseDescriptor(`more than ${tagCountMax} tags`)
    const end = endOfMarkup(text, position)
    if (text.startsWith('</', position)) depth--
    else if (isStartTag(text, position) && text[end - 2] !== '/') depth++
    if (depth > nestingMax) refuseDescriptor(`elements nested deeper than ${nestingMax}`)
    position = text.indexOf('<', end)
  }
}

function isStartTag(text: string, position: number): boolean {
  const next = text[position + 1]
  return next !== '!' && next !== '?' && next !== '/'
}

/** Position after the markup that starts here. */
function endOfMarkup(text: string, start: number): number {
  for (const [open, close] of skipped) {
    if (!text.startsWith(open, start)) continue
    const end = text.indexOf(close, start + open.length)
    if (end === -1) refuseDescriptor(`"${open}" without "${close}"`)
    return end + close.length
  }
  if (text.startsWith('<!', start)) refuseDescriptor('a document type declaration is not accepted')
  let quote = ''
  for (let index = start + 1; index < text.length; index++) {
    if (index - start > tagLengthMax) refuseDescriptor(`a tag longer than ${tagLengthMax}`)
    const character = text[index] ?? ''
    if (quote !== '') quote = character === quote ? '' : quote
    else if (character === '"' || character === "'") quote = character
    else if (character === '>') return index + 1
  }
  return refuseDescriptor('the file ends within a tag')
}

const skipped: readonly (readonly [string, string])[] = [
  ['<!--', '-->'],
  ['<![CDATA[', ']]>'],
  ['<?', '?>'],
]

function firstLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return (message.split('\n')[0] ?? '').slice(0, 200)
}
