// SPDX-License-Identifier: MIT
/** run() and what ends it, exceptions, rows that are wrong, teardown with I/O in flight. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import type { Test } from 'tap'
import { Worker } from 'node:worker_threads'
import type { EngineKind } from '../../src/io/native.js'
import { addonPath } from './addon-path.js'
import { EngineFixture, control, kind as done, op, smallEngine } from './engine-fixture.js'

function prelude(kind: EngineKind): string {
  return `
    const addon = require(${JSON.stringify(addonPath)})
    const engine = addon.createEngine(${JSON.stringify({ ...smallEngine, kind })})
    const words = new Uint32Array(engine.memory)
    const layout = engine.layout
    const put = (...rows) => {
      rows.forEach((row, i) => words.set(row, layout.rowTable / 4 + i * 12))
      words[layout.control / 4 + 2] = rows.length
    }
    engine.onBatch(() => {})
  `
}

export function lifeCases(t: Test, kind: EngineKind): void {
  returning(t, kind)
  throwing(t, kind)
  fatalCases(t, kind)
  teardownCases(t, kind)
}

function returning(t: Test, kind: EngineKind): void {
  void t.test('run returns when its slice is over, and calls nobody without rows', t => {
    const f = new EngineFixture(t, kind)
    f.engine.run(1)
    f.engine.run(0)
    t.equal(f.batches, 0)
    t.match(f.engine.stats(), { kind, batches: 0, operations: 0, sends: 0 })
    t.ok(f.engine.stats().waits > 0)
    t.end()
  })

  void t.test('a wake before run makes it return at once, and only once', t => {
    const f = new EngineFixture(t, kind)
    f.addon.wake(f.engine.wakeHandle)
    f.addon.wake(f.engine.wakeHandle)
    f.engine.run(60_000)
    const { waits } = f.engine.stats()
    f.engine.run(5)
    t.ok(f.engine.stats().waits > waits)
    f.addon.wake(4_000_000_000)
    t.end()
  })

  void t.test('a wake from another thread ends a run that is blocked', async t => {
    const f = new EngineFixture(t, kind)
    const flag = new Int32Array(new SharedArrayBuffer(4))
    const worker = new Worker(
      `const { workerData } = require('node:worker_threads')
       const addon = require(workerData.addonPath)
       Atomics.wait(workerData.flag, 0, 0)
       addon.wake(workerData.handle)`,
      { eval: true, workerData: { addonPath, flag, handle: f.engine.wakeHandle } },
    )
    await once(worker, 'online')
    Atomics.store(flag, 0, 1)
    Atomics.notify(flag, 0)
    f.engine.run(60_000)
    t.pass('it came back')
    await worker.terminate()
  })

  void t.test('control word 10 makes run return after the call', t => {
    const f = new EngineFixture(t, kind)
    const { peer } = f.connect(t)
    peer.socket.write('x')
    f.onBatchEnd = () => {
      f.setControl(control.leave, 1)
    }
    return f
      .until(() => peer.socket.writableLength === 0)
      .then(() => {
        f.put({ op: op.resume, connection: 0xfffe })
        if (f.batches === 0) f.engine.run(60_000)
        t.equal(f.batches, 1)
        t.equal(f.control(control.leave), 0)
      })
  })

  void t.test('run from inside the call, close from inside the call: refused', async t => {
    const f = new EngineFixture(t, kind)
    const errors: unknown[] = []
    f.onReceive = row => {
      row.consumed = row.bytes.length
      for (const call of [() => f.engine.run(1), () => f.engine.close()]) {
        try {
          call()
        } catch (error) {
          errors.push(error)
        }
      }
    }
    const { peer } = f.connect(t)
    peer.socket.write('x')
    await f.until(() => f.batches === 1)
    t.match(errors, [{ code: 'EBUSY' }, { code: 'EBUSY' }])
  })

  void t.test('a closed engine refuses to run and closes again without a word', t => {
    const f = new EngineFixture(t, kind)
    f.connect(t)
    f.engine.close()
    f.engine.close()
    t.throws(
      () => {
        f.engine.run(1)
      },
      { code: 'EBADF', operation: 'run' },
    )
    f.addon.wake(f.engine.wakeHandle)
    t.equal(f.bytes[f.layout.jobs], 0, 'the memory is still there')
    t.end()
  })

  void t.test('counts that make no sense are refused', t => {
    const f = new EngineFixture(t, kind)
    for (const wrong of [{ connectionCount: 0 }, { receiveBytes: 1 }, { count1m: 5000 }]) {
      t.throws(() => f.addon.createEngine({ ...smallEngine, kind, ...wrong }), { code: 'EINVAL' })
    }
    t.end()
  })
}

function throwing(t: Test, kind: EngineKind): void {
  void t.test('what the call throws comes out of run; its bytes are shown again', async t => {
    const f = new EngineFixture(t, kind)
    const problem = new Error('from the call')
    let shown = ''
    f.onReceive = () => {
      throw problem
    }
    const { peer } = f.connect(t)
    peer.socket.write('bytes')
    await t.rejects(
      f.until(() => false),
      problem,
    )
    f.onReceive = row => {
      shown = Buffer.from(row.bytes).toString()
      row.consumed = row.bytes.length
    }
    f.engine.run(1)
    t.equal(shown, 'bytes')
  })
}

function fatalCases(t: Test, kind: EngineKind): void {
  const rows: Record<string, { row: string; message: RegExp }> = {
    'memory outside of a slot': {
      row: '[1, 0, 1, 0, 0, 4096, 0, 0, 0, 0, 0, 0]',
      message: /outside/,
    },
    'memory across two slots': {
      row: '[1, 0, 1, 0, 0, 4096, layout.slots4k + 1, 0, 0, 0, 0, 0]',
      message: /outside/,
    },
    'a file that is not open': {
      row: '[2, 9, 1, 0, 0, 4096, layout.jobs, 0, 0, 0, 0, 0]',
      message: /file 9 is not open/,
    },
    'length 0': { row: '[1, 0, 1, 0, 0, 0, layout.jobs, 0, 0, 0, 0, 0]', message: /length/ },
    'a length of 2 MiB': {
      row: '[1, 0, 1, 0, 0, 2097152, layout.jobs, 0, 0, 0, 0, 0]',
      message: /length/,
    },
    'a header slot that does not exist': {
      row: '[8 + 256, 0, 0, 0, 0, 0, 0, 0, layout.headerCount, 0xffffffff, 0, 0]',
      message: /header slot/,
    },
    'a job buffer as slot to return': {
      row: '[8, 0, 0, 0, 0, 1, layout.jobs, 0, 0xffffffff, layout.jobs, 0, 0]',
      message: /slot to return/,
    },
    'an unknown operation': {
      row: '[99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]',
      message: /no such operation/,
    },
  }
  void t.test('a row that is wrong ends the process with a message', t => {
    for (const [name, { row, message }] of Object.entries(rows)) {
      const script = `${prelude(kind)}
        engine.addFile(require('node:fs').openSync('/dev/null', 'r+'))
        put(${row})
        engine.run(1)
        console.log('survived')`
      const result = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' })
      t.equal(result.signal, 'SIGABRT', name)
      t.match(result.stderr, message)
      t.equal(result.stdout, '')
    }
    t.end()
  })
}

function teardownCases(t: Test, kind: EngineKind): void {
  const busy = (path: string) => `${prelude(kind)}
    const fs = require('node:fs')
    const file = engine.addFile(fs.openSync(${JSON.stringify(path)}, 'r+'))
    const [ours] = addon.socketPair()
    const connection = engine.addConnection(ours)
    const rows = []
    for (let i = 0; i < 200; i++)
      rows.push([2, file, i, (i * 1048576) >>> 0, 0, 1048576, layout.jobs + (i % 4) * 1048576, 0, 0, 0, 0, 0])
    for (let i = 0; i < 4; i++) rows.push([3, file, 1000 + i, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    put(...rows)
  `

  void t.test('a process may exit with operations in flight', t => {
    const path = `${t.testdir({})}/file`
    fs.writeFileSync(path, '')
    const script = `${busy(path)}
      engine.run(0)
      console.log('exit')`
    const result = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' })
    t.same([result.status, result.signal, result.stderr], [0, null, ''])
    t.equal(result.stdout, 'exit\n')
    t.equal(fs.statSync(path).size, 200 * 1048576, 'what was submitted was done')
    t.end()
  })

  void t.test('a worker may exit with operations in flight', async t => {
    const path = `${t.testdir({})}/file`
    fs.writeFileSync(path, '')
    const worker = new Worker(`${busy(path)}; engine.run(0)`, { eval: true })
    const [code] = (await once(worker, 'exit')) as [number]
    t.equal(code, 0)
    t.equal(fs.statSync(path).size, 200 * 1048576)
  })

  void t.test('a worker may be terminated while it serves, with operations in flight', async t => {
    const path = `${t.testdir({})}/file`
    fs.writeFileSync(path, '')
    const script = `${busy(path)}
      require('node:worker_threads').parentPort.postMessage(engine.wakeHandle)
      setImmediate(() => { for (;;) engine.run(60_000) })`
    const worker = new Worker(script, { eval: true })
    const [handle] = (await once(worker, 'message')) as [number]
    const { addon } = new EngineFixture(t, kind)
    const ended = worker.terminate()
    const waking = setInterval(() => {
      addon.wake(handle)
    }, 5)
    t.equal(await ended, 1)
    clearInterval(waking)
    addon.wake(handle)
  })

  void t.test('close waits for what is in flight and tells nobody any more', t => {
    const f = new EngineFixture(t, kind)
    const path = `${t.testdir({})}/file`
    fs.writeFileSync(path, '')
    const fd = fs.openSync(path, 'r+')
    const file = f.engine.addFile(fd)
    f.connect(t)
    for (let i = 0; i < 50; i++)
      f.put({
        op: op.write,
        file,
        token: i,
        offset: i * 1048576,
        length: 1048576,
        memory: f.job(i % 4),
      })
    f.put({
      op: op.copy,
      file,
      token: 50,
      offset: 0,
      length: 4096,
      source: { file, offset: 1048576 },
    })
    f.engine.run(0)
    const before = f.batches
    f.engine.close()
    t.equal(f.batches, before)
    t.equal(fs.fstatSync(fd).size, 50 * 1048576)
    fs.closeSync(fd)
    t.equal(f.done.filter(row => row.kind === done.closed).length, 0)
    t.end()
  })
}
