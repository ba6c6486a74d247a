# SPDX-License-Identifier: MIT
"""Sessions that only a client without manners can have, with libnbd's own checks switched off.

Usage: libnbd-session.py WRITABLE_URI READONLY_URI
The writable disk has 160 MiB. Prints one line a check: "ok NAME" or "not ok NAME: FACT".
"""
import errno
import sys
import threading

import nbd

MIB = 1024 * 1024
SIZE = 160 * MIB


def connect(uri, contexts=(), structured=True):
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.set_request_structured_replies(structured)
    for name in contexts:
        handle.add_meta_context(name)
    handle.connect_uri(uri)
    return handle


def refusal(action):
    """The errno a request was refused with, or None."""
    try:
        action()
    except nbd.Error as error:
        return error.errnum
    return None


def expect(actual, wanted):
    if actual != wanted:
        raise AssertionError(f"{actual!r} instead of {wanted!r}")


def out_of_range(uri, _):
    for structured in (True, False):
        h = connect(uri, structured=structured)
        expect(refusal(lambda: h.pread(512, SIZE)), errno.EINVAL)
        expect(refusal(lambda: h.pread(2, SIZE - 1)), errno.EINVAL)
        expect(refusal(lambda: h.pwrite(b"x" * 512, SIZE)), errno.ENOSPC)
        expect(refusal(lambda: h.pwrite(b"xx", SIZE - 1)), errno.ENOSPC)
        expect(refusal(lambda: h.zero(512, 2**63)), errno.ENOSPC)
        expect(refusal(lambda: h.trim(512, SIZE)) in (errno.EINVAL, errno.ENOSPC), True)
        expect(refusal(lambda: h.cache(512, SIZE)), errno.EINVAL)
        expect(refusal(lambda: h.pread(4096, 2**64 - 4096)), errno.EINVAL)
        expect(h.pread(1, SIZE - 1), bytearray(1))
        h.shutdown()


def refused_write_leaves_the_stream_intact(uri, _):
    h = connect(uri)
    cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"y" * MIB)), SIZE - 512)]
    cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"z" * 512)), 512))
    failures = 0
    for cookie in cookies:
        while True:
            try:
                if h.aio_command_completed(cookie):
                    break
            except nbd.Error:
                failures += 1
                break
            h.poll(-1)
    expect(failures, 1)
    expect(h.pread(1024, 0), bytearray(512) + bytearray(b"z" * 512))
    expect(h.pread(512, SIZE - 512), bytearray(512))
    h.zero(4096, 0)
    h.shutdown()


def read_only(_, uri):
    h = connect(uri)
    expect(h.is_read_only(), True)
    for action in (
        lambda: h.pwrite(b"x" * 512, 0),
        lambda: h.trim(512, 0),
        lambda: h.zero(512, 0),
        lambda: h.pwrite(b"", 0),
    ):
        expect(refusal(action), errno.EPERM)
    h.flush()
    h.cache(MIB, 0)
    h.shutdown()


def fast_zero(uri, _):
    h = connect(uri)
    expect(h.can_fast_zero(), True)
    h.zero(64 * MIB, 64 * MIB, nbd.CMD_FLAG_FAST_ZERO)
    h.pwrite(b"q" * 8192, 64 * MIB)
    # A part of a cluster that is there can be zeroed by writing only, so not fast.
    expect(refusal(lambda: h.zero(4096, 64 * MIB, nbd.CMD_FLAG_FAST_ZERO)), errno.ENOTSUP)
    expect(h.pread(8192, 64 * MIB), bytearray(b"q" * 8192))
    h.zero(4096, 64 * MIB)
    expect(h.pread(8192, 64 * MIB), bytearray(4096) + bytearray(b"q" * 4096))
    h.zero(4 * MIB, 64 * MIB)
    expect(h.pread(8192, 64 * MIB), bytearray(8192))
    h.shutdown()


def statuses(h, name, length, offset, flags=0):
    found = []

    def extent(context, _offset, entries, _error):
        if context == name:
            found.extend(zip(entries[0::2], entries[1::2]))

    h.block_status(length, offset, extent, flags)
    return found


def no_hole_provisions(uri, _):
    h = connect(uri, ["base:allocation"])
    expect(statuses(h, "base:allocation", 4 * MIB, 96 * MIB)[0][1], 3)
    h.zero(4 * MIB, 96 * MIB, nbd.CMD_FLAG_NO_HOLE)
    for length, status in statuses(h, "base:allocation", 4 * MIB, 96 * MIB):
        expect((length > 0, status & 1), (True, 0))
    expect(h.pread(4 * MIB, 96 * MIB), bytearray(4 * MIB))
    h.zero(4 * MIB, 96 * MIB)
    h.shutdown()


def block_status_one(uri, _):
    names = ["base:allocation", "qemu:allocation-depth", "x-ploop:layer"]
    h = connect(uri, names)
    h.pwrite(b"d" * MIB, 128 * MIB)
    for name in names:
        many = statuses(h, name, SIZE, 0)
        expect(len(many) > 1 and sum(length for length, _ in many) <= SIZE, True)
        one = statuses(h, name, 4 * MIB, 127 * MIB, nbd.CMD_FLAG_REQ_ONE)
        expect((len(one), one[0][0] <= 4 * MIB), (1, True))
        tiny = statuses(h, name, 1, 128 * MIB + 1, nbd.CMD_FLAG_REQ_ONE)
        expect([length for length, _ in tiny], [1])
    expect(statuses(h, "base:allocation", 1, 128 * MIB)[0][1], 0)
    expect(statuses(h, "qemu:allocation-depth", 1, 128 * MIB)[0][1], 1)
    expect(statuses(h, "x-ploop:layer", 1, 128 * MIB)[0][1], 1)
    expect(statuses(h, "qemu:allocation-depth", 1, 120 * MIB)[0][1], 0)
    expect(refusal(lambda: statuses(h, names[0], 512, SIZE)), errno.EINVAL)
    bare = connect(uri)
    expect(refusal(lambda: statuses(bare, names[0], 512, 0)), errno.EINVAL)
    h.zero(MIB, 128 * MIB)
    h.shutdown()
    bare.shutdown()


def dont_fragment_and_cache(uri, _):
    h = connect(uri)
    expect((h.can_df(), h.can_cache()), (True, True))
    h.pwrite(b"1" * 4096, 3 * MIB)
    chunks = []

    def chunk(data, offset, status, _error):
        chunks.append((offset, len(data), status))

    data = h.pread_structured(2 * MIB, 2 * MIB, chunk, nbd.CMD_FLAG_DF)
    expect(len(chunks), 1)
    expect(data, bytearray(MIB) + bytearray(b"1" * 4096) + bytearray(MIB - 4096))
    h.cache(MIB, 3 * MIB)
    h.zero(MIB, 3 * MIB)
    h.shutdown()


def unknown_flags(uri, _):
    h = connect(uri)
    expect(refusal(lambda: h.pread(512, 0, 0x4000)), errno.EINVAL)
    expect(refusal(lambda: h.pwrite(b"n" * 512, 0, 0x4000)), errno.EINVAL)
    expect(refusal(lambda: h.flush(nbd.CMD_FLAG_FAST_ZERO)), errno.EINVAL)
    expect(h.pread(512, 0), bytearray(512))
    h.shutdown()


def huge_requests(uri, _):
    h = connect(uri)
    data = bytearray(b"0123456789abcdef" * (4 * MIB))
    h.pwrite(data, 1, nbd.CMD_FLAG_FUA)
    expect(h.pread(64 * MIB, 1) == data, True)
    expect(h.pread(64 * MIB, 0) == bytearray(1) + data[:-1], True)
    h.zero(64 * MIB + 1, 0)
    expect(h.pread(64 * MIB, 0) == bytearray(64 * MIB), True)
    h.shutdown()


def too_long_a_read(uri, _):
    h = connect(uri)
    expect(refusal(lambda: h.pread(64 * MIB + 1, 0)) is not None, True)
    h = connect(uri)
    expect(h.pread(1, 0), bytearray(1))
    h.shutdown()


def zero_length(uri, _):
    h = connect(uri)
    for action in (
        lambda: h.pread(0, 0),
        lambda: h.pwrite(b"", 512),
        lambda: h.trim(0, 0),
        lambda: h.zero(0, 0),
        lambda: h.cache(0, 0),
    ):
        expect(refusal(action) in (None, errno.EINVAL), True)
    expect(h.pread(512, 0), bytearray(512))
    h.pwrite(b"0" * 512, 5 * MIB)
    expect(refusal(lambda: h.pread(0, 5 * MIB + 7)) in (None, errno.EINVAL), True)
    expect(h.pread(512, 5 * MIB), bytearray(b"0" * 512))
    h.zero(MIB, 5 * MIB)
    h.shutdown()


def many_connections(uri, _):
    handles = [connect(uri) for _ in range(8)]
    failures = []

    def work(number, h):
        try:
            mark = bytes([65 + number])
            for turn in range(40):
                at = (number + turn * 8) * 70001
                h.pwrite(mark * 5000, at)
                expect(h.pread(5000, at), bytearray(mark * 5000))
            h.flush()
        except Exception as error:  # told below, by the main thread
            failures.append(f"{number}: {error}")

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(handles)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(failures, [])
    for turn in range(40):
        for number in range(8):
            at = (number + turn * 8) * 70001
            reader = handles[(number + 1) % 8]
            expect(reader.pread(5000, at), bytearray(bytes([65 + number]) * 5000))
    handles[0].zero(40 * MIB, 0)
    for h in handles:
        h.shutdown()


def unknown_export(uri, _):
    h = nbd.NBD()
    other = uri.replace("nbd+unix:///", "nbd+unix:///no-such-")
    expect(refusal(lambda: h.connect_uri(other)) is not None, True)


CHECKS = [
    out_of_range,
    refused_write_leaves_the_stream_intact,
    read_only,
    fast_zero,
    no_hole_provisions,
    block_status_one,
    dont_fragment_and_cache,
    unknown_flags,
    huge_requests,
    too_long_a_read,
    zero_length,
    many_connections,
    unknown_export,
]

for check in CHECKS:
    name = check.__name__.replace("_", " ")
    try:
        check(sys.argv[1], sys.argv[2])
        print(f"ok {name}")
    except Exception as error:
        line = error.__traceback__.tb_next.tb_lineno if error.__traceback__.tb_next else 0
        print(f"not ok {name}: line {line}: {error}")
