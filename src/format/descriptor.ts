// SPDX-License-Identifier: MIT
/**
 * DiskDescriptor.xml: the typed view on it, and edits that keep everything else as it stands.
 *
 * Owns:     what an element means, which documents are refused, the layout of a new descriptor.
 * Leaves:   XML as such (descriptor-xml.ts), the shape of the snapshot tree (snapshot-tree.ts),
 *           storing a file (atomically, with the lock: src/image).
 * Promises: {@link Descriptor.toString} never returns a document that {@link Descriptor.parse}
 *           would refuse. GUIDs compare without regard to case and are kept as typed.
 * Facts:    the virtual size is the top delta's, never Disk_size. One image of type Plain makes
 *           the whole disk raw: then its base has no header. See docs/format.md, "Descriptor".
 */
import path from 'node:path'
import { assert } from '../base/assert.js'
import { PloopError } from '../base/errors.js'
import { type Guid, isGuid, noneGuid, sameGuid, topGuid as activeGuid } from '../base/guid.js'
import { parseCNumber } from './c-number.js'
import {
  childNamed,
  type Document,
  type Element,
  elementsOf,
  formatXml,
  insertElement,
  isPlainText,
  parseXml,
  refuseDescriptor,
  removeElement,
  setText,
  textOf,
} from './descriptor-xml.js'
import { chsOf, descriptorSectorsPerTrack, isLegalClusterSize } from './geometry.js'
import { SnapshotTree } from './snapshot-tree.js'

export type DiskMode = 'expanded' | 'preallocated' | 'raw'
export type ImageType = 'Compressed' | 'Plain'

export interface DescriptorImage {
  readonly guid: Guid
  readonly type: ImageType
  /** as it stands in the file: absolute, or relative to the descriptor's directory */
  readonly file: string
}

export interface DescriptorShot {
  readonly guid: Guid
  /** the none GUID for the base */
  readonly parentGuid: Guid
  /** to be merged away as soon as possible */
  readonly temporary: boolean
  /** stage of an interrupted merge by a later generation of ploop: not writable here */
  readonly foreignMerge: string | undefined
}

export interface NewDescriptor {
  readonly sizeSectors: number
  readonly clusterSectors: number
  readonly mode: DiskMode
  /** the base image */
  readonly file: string
  /** of the header; computed from the size when left out */
  readonly cylinders?: number
  readonly heads?: number
}

const skeleton = `<?xml version="1.0"?>
<Parallels_disk_image>
  <Disk_Parameters>
    <Disk_size>0</Disk_size>
    <Cylinders>0</Cylinders>
    <Heads>0</Heads>
    <Sectors>0</Sectors>
    <Padding>0</Padding>
  </Disk_Parameters>
  <StorageData>
    <Storage>
      <Start>0</Start>
      <End>0</End>
      <Blocksize>0</Blocksize>
    </Storage>
  </StorageData>
  <Snapshots>
    <TopGUID>${activeGuid}</TopGUID>
  </Snapshots>
</Parallels_disk_image>
`

export class Descriptor {
  readonly #document: Document
  readonly #parameters: Element
  readonly #storage: Element
  readonly #snapshots: Element

  private constructor(document: Document) {
    this.#document = document
    const root = document.documentElement ?? refuseDescriptor('no root element')
    this.#parameters = required(root, 'Disk_Parameters')
    const storages = elementsOf(required(root, 'StorageData')).filter(
      element => element.nodeName === 'Storage',
    )
    if (storages.length > 1) refuseDescriptor('splitted disk is not supported')
    this.#storage = storages[0] ?? refuseDescriptor('no Storage element')
    this.#snapshots = required(root, 'Snapshots')
  }

  /**
   * @param source bytes or text of the file
   * @throws {PloopError} status 23, with `file` as its path
   */
  static parse(source: Uint8Array | string, file?: string): Descriptor {
    try {
      const descriptor = new Descriptor(parseXml(source))
      descriptor.#completeShots()
      descriptor.validate()
      return descriptor
    } catch (error) {
      if (!(error instanceof PloopError) || file === undefined) throw error
      throw new PloopError(error.code, error.message, { status: error.status, path: file })
    }
  }

  /** The descriptor of a new disk with one image, laid out as every ploop writes it. */
  static create(options: NewDescriptor): Descriptor {
    const descriptor = new Descriptor(parseXml(skeleton))
    const chs = chsOf(options.sizeSectors)
    descriptor.#setParameter('Cylinders', options.cylinders ?? chs.cylinders)
    descriptor.#setParameter('Heads', options.heads ?? chs.heads)
    descriptor.setSize(options.sizeSectors)
    setText(required(descriptor.#storage, 'Blocksize'), String(options.clusterSectors))
    descriptor.addImage({ guid: activeGuid, file: options.file })
    descriptor.addShot({ guid: activeGuid, parentGuid: noneGuid })
    descriptor.setMode(options.mode)
    descriptor.validate()
    return descriptor
  }

  clone(): Descriptor {
    return new Descriptor(parseXml(formatXml(this.#document)))
  }

  /** The text to store. @throws {PloopError} when edits have left it invalid */
  toString(): string {
    this.validate()
    return formatXml(this.#document)
  }

  // ---- view ----

  /** In the order of creation, which is that of the file. */
  get images(): DescriptorImage[] {
    return this.#imageElements().map(element => ({
      guid: textOf(childNamed(element, 'GUID')) ?? refuseDescriptor('an Image without GUID'),
      type: textOf(childNamed(element, 'Type')) === 'Plain' ? 'Plain' : 'Compressed',
      file: textOf(childNamed(element, 'File')) ?? refuseDescriptor('an Image without File'),
    }))
  }

  get shots(): DescriptorShot[] {
    return this.#shotElements().map(element => ({
      guid: textOf(childNamed(element, 'GUID')) ?? refuseDescriptor('a Shot without GUID'),
      parentGuid:
        textOf(childNamed(element, 'ParentGUID')) ?? refuseDescriptor('a Shot without ParentGUID'),
      temporary: childNamed(element, 'Temporary') !== undefined,
      foreignMerge: elementsOf(element).find(child => child.nodeName.startsWith('TemporaryZero'))
        ?.nodeName,
    }))
  }

  get topGuid(): Guid {
    return textOf(childNamed(this.#snapshots, 'TopGUID')) ?? activeGuid
  }

  /** The top has a GUID of its own: snapshot, switch and delete refuse such disks. */
  get isOldFormat(): boolean {
    return !sameGuid(this.topGuid, activeGuid)
  }

  get clusterSectors(): number {
    const text = textOf(childNamed(this.#storage, 'Blocksize'))
    const value = text === undefined ? undefined : parseCNumber(text)
    if (value === undefined || !isLegalClusterSize(value)) {
      refuseDescriptor(`Blocksize ${text ?? '(none)'} is not a legal cluster size`)
    }
    return value
  }

  get mode(): DiskMode {
    if (this.images.some(image => image.type === 'Plain')) return 'raw'
    return this.#isPreallocated() ? 'preallocated' : 'expanded'
  }

  /** What the file says; the truth is in the top delta. */
  get sizeSectors(): number | undefined {
    return this.#parameter('Disk_size')
  }

  /** Limit for the growth of one delta file; undefined: none. */
  get maxDeltaSectors(): number | undefined {
    return this.#parameter('Max_delta_size') || undefined
  }

  /** Key of an encrypted disk, which nothing here can read. */
  get encryptionKey(): string | undefined {
    const element = childNamed(this.#parameters, 'Encryption')
    return element && (textOf(childNamed(element, 'KeyId')) ?? '')
  }

  /** Checked and linked. @throws {PloopError} `SNAPSHOT_TREE` */
  tree(): SnapshotTree<DescriptorShot> {
    return new SnapshotTree(this.shots)
  }

  image(guid: Guid): DescriptorImage | undefined {
    return this.images.find(image => sameGuid(image.guid, guid))
  }

  shot(guid: Guid): DescriptorShot | undefined {
    return this.shots.find(shot => sameGuid(shot.guid, guid))
  }

  /** @throws {PloopError} status 23 with the first contradiction found */
  validate(): void {
    const { images, shots, topGuid, clusterSectors } = this
    assert(clusterSectors > 0, 'reading it has checked it')
    if (images.length === 0) refuseDescriptor('no Image')
    if (this.#isPreallocated() && images.some(image => image.type === 'Plain')) {
      refuseDescriptor('a preallocated disk with a Plain image')
    }
    for (const { guid } of images) refuseMalformed(guid, 'an Image')
    for (const { guid, parentGuid } of shots) {
      refuseMalformed(guid, 'a Shot')
      refuseMalformed(parentGuid, 'a ParentGUID')
    }
    if (images.length !== shots.length) {
      refuseDescriptor(`${images.length} images but ${shots.length} shots`)
    }
    const tree = new SnapshotTree(shots)
    const seen = new Set<string>()
    for (const { guid } of images) {
      if (!tree.has(guid)) refuseDescriptor(`image ${guid} has no shot`)
      if (seen.has(guid.toLowerCase())) refuseDescriptor(`two images have the GUID ${guid}`)
      seen.add(guid.toLowerCase())
    }
    refuseMalformed(topGuid, 'TopGUID')
    const top = tree.lookup(topGuid)
    if (top === undefined) refuseDescriptor(`the top ${topGuid} is no shot`)
    if (top.temporary) refuseDescriptor(`the top ${topGuid} is marked Temporary`)
  }

  // ---- edits ----

  addImage(image: { readonly guid: Guid; readonly file: string }): void {
    refuseGuid(image.guid)
    refuseFile(image.file)
    if (this.image(image.guid)) {
      throw new PloopError('GUID_EXISTS', `an image ${image.guid} exists already`, {
        status: 'parameter',
      })
    }
    const raw = this.images.length > 0 && this.mode === 'raw'
    insertElement(this.#storage, 'Image', [
      ['GUID', image.guid],
      ['Type', raw ? 'Plain' : 'Compressed'],
      ['File', image.file],
    ])
  }

  addShot(shot: { readonly guid: Guid; readonly parentGuid: Guid; readonly temporary?: boolean }) {
    refuseGuid(shot.guid)
    if (this.shot(shot.guid)) {
      throw new PloopError('GUID_EXISTS', `The snapshot ${shot.guid} already exist`, {
        status: 'parameter',
      })
    }
    insertElement(this.#snapshots, 'Shot', [
      ['GUID', shot.guid],
      ['ParentGUID', shot.parentGuid],
      ...(shot.temporary === true ? ([['Temporary', undefined]] as const) : []),
    ])
  }

  removeImage(guid: Guid): void {
    removeElement(this.#imageElement(guid))
  }

  removeShot(guid: Guid): void {
    removeElement(this.#shotElement(guid))
  }

  /** Everywhere: image, shot, parents of other shots, and the top. */
  renameGuid(from: Guid, to: Guid): void {
    refuseGuid(to)
    if (!sameGuid(from, to) && (this.image(to) !== undefined || this.shot(to) !== undefined)) {
      throw new PloopError('GUID_EXISTS', `${to} exists already`, { status: 'parameter' })
    }
    const bearers = [
      ...this.#imageElements().map(element => childNamed(element, 'GUID')),
      ...this.#shotElements().flatMap(element => [
        childNamed(element, 'GUID'),
        childNamed(element, 'ParentGUID'),
      ]),
      childNamed(this.#snapshots, 'TopGUID'),
    ]
    for (const element of bearers) {
      if (element !== undefined && sameGuid(textOf(element) ?? '', from)) setText(element, to)
    }
  }

  setImageGuid(guid: Guid, to: Guid): void {
    refuseGuid(to)
    setText(required(this.#imageElement(guid), 'GUID'), to)
  }

  setShotGuid(guid: Guid, to: Guid): void {
    refuseGuid(to)
    setText(required(this.#shotElement(guid), 'GUID'), to)
  }

  setParent(guid: Guid, parentGuid: Guid): void {
    setText(required(this.#shotElement(guid), 'ParentGUID'), parentGuid)
  }

  setTopGuid(guid: Guid): void {
    setText(required(this.#snapshots, 'TopGUID'), guid)
  }

  setTemporary(guid: Guid, temporary: boolean): void {
    const shot = this.#shotElement(guid)
    const mark = childNamed(shot, 'Temporary')
    if (temporary && mark === undefined) insertElement(shot, 'Temporary', undefined)
    if (!temporary && mark !== undefined) removeElement(mark)
  }

  setFile(guid: Guid, file: string): void {
    refuseFile(file)
    setText(required(this.#imageElement(guid), 'File'), file)
  }

  /** Cylinders and heads stay, as genuine tools leave them after a grow. */
  setSize(sizeSectors: number): void {
    const after = this.#setParameter('Disk_size', sizeSectors)
    const chs = {
      cylinders: this.#parameter('Cylinders') ?? 0,
      heads: this.#parameter('Heads') ?? 0,
      sectors: 0,
    }
    this.#setParameter('Sectors', descriptorSectorsPerTrack(sizeSectors, chs), after)
    const end = childNamed(this.#storage, 'End')
    if (end !== undefined) setText(end, String(sizeSectors))
  }

  /** Every image gets the type of the disk: that is how raw disks are written. */
  setMode(mode: DiskMode): void {
    const type: ImageType = mode === 'raw' ? 'Plain' : 'Compressed'
    for (const image of this.#imageElements()) {
      const element = childNamed(image, 'Type')
      if (element !== undefined) setText(element, type)
      else insertElement(image, 'Type', type, childNamed(image, 'GUID'))
    }
    const mark = childNamed(this.#storage, 'Preallocated')
    if (mode !== 'preallocated') {
      if (mark !== undefined) removeElement(mark)
    } else if (mark !== undefined) {
      setText(mark, '1')
    } else {
      insertElement(this.#storage, 'Preallocated', '1', childNamed(this.#storage, 'Blocksize'))
    }
  }

  // ---- inside ----

  #imageElements(): Element[] {
    const elements = elementsOf(this.#storage)
    const first = elements.findIndex(element => element.nodeName === 'Image')
    if (first === -1) return []
    const images = elements.slice(first)
    const alien = images.find(element => element.nodeName !== 'Image')
    if (alien !== undefined) refuseDescriptor(`element ${alien.nodeName} among the images`)
    return images
  }

  #shotElements(): Element[] {
    return elementsOf(this.#snapshots).filter(element => element.nodeName === 'Shot')
  }

  #imageElement(guid: Guid): Element {
    return bearerOf(this.#imageElements(), guid) ?? refuseDescriptor(`no image ${guid}`)
  }

  #shotElement(guid: Guid): Element {
    return bearerOf(this.#shotElements(), guid) ?? refuseDescriptor(`no shot ${guid}`)
  }

  #isPreallocated(): boolean {
    const element = childNamed(this.#storage, 'Preallocated')
    if (element === undefined) return false
    const text = textOf(element) ?? ''
    const value = parseCNumber(text)
    if (value !== 0 && value !== 1) refuseDescriptor(`Preallocated is "${text}", not 0 or 1`)
    return value === 1
  }

  #parameter(name: string): number | undefined {
    return parseCNumber(textOf(childNamed(this.#parameters, name)) ?? '')
  }

  #setParameter(name: string, value: number, after?: Element): Element {
    const element = childNamed(this.#parameters, name)
    if (element === undefined) {
      return insertElement(this.#parameters, name, String(value), after)
    }
    setText(element, String(value))
    return element
  }

  /** Old descriptors leave the shot of the only image, or the name of the top, to the reader. */
  #completeShots(): void {
    const imageCount = this.#imageElements().length
    if (imageCount !== 0 && imageCount !== this.#shotElements().length) {
      if (this.shot(activeGuid) === undefined) {
        this.addShot({ guid: activeGuid, parentGuid: noneGuid })
      }
    }
    if (childNamed(this.#snapshots, 'TopGUID') !== undefined) return
    const shots = this.#shotElements()
    const constant = bearerOf(shots, activeGuid)
    if (constant === undefined) refuseDescriptor('no TopGUID')
    const top = insertElement(this.#snapshots, 'TopGUID', activeGuid)
    this.#snapshots.insertBefore(top, shots[0] ?? null)
  }
}

/** Where an image of the descriptor lies. @param directory real path of the descriptor's directory */
export function imagePath(directory: string, file: string): string {
  return file.startsWith('/') ? file : path.join(directory, file)
}

/** How a descriptor names an image: relative when it lies below the directory. */
export function descriptorFileOf(directory: string, imageFile: string): string {
  const prefix = directory.endsWith('/') ? directory : `${directory}/`
  return imageFile.startsWith(prefix) ? imageFile.slice(prefix.length) : imageFile
}

function required(parent: Element, name: string): Element {
  return childNamed(parent, name) ?? refuseDescriptor(`no ${name} element`)
}

function bearerOf(elements: readonly Element[], guid: Guid): Element | undefined {
  return elements.find(element => sameGuid(textOf(childNamed(element, 'GUID')) ?? '', guid))
}

function refuseMalformed(guid: Guid, bearer: string): void {
  if (!isGuid(guid)) refuseDescriptor(`${bearer} has the malformed GUID "${guid.slice(0, 80)}"`)
}

function refuseGuid(guid: Guid): void {
  if (isGuid(guid) && !sameGuid(guid, noneGuid)) return
  throw new PloopError('GUID_INVALID', `Incorrect uuid specified: ${guid}`, { status: 'parameter' })
}

function refuseFile(file: string): void {
  if (file !== '' && isPlainText(file)) return
  throw new PloopError('FILE_NAME', `${JSON.stringify(file)} cannot be named in a descriptor`, {
    status: 'parameter',
    hint: 'choose a name without control characters',
  })
}
