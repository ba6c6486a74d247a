// SPDX-License-Identifier: MIT
/**
 * The loop of one connection: fill the queue, send what fits, receive what is there, wait only
 * when neither moved. Requests go out in batches of one sendmsg(2), payloads without a copy, so
 * that the client costs little beside the server it measures.
 */
#define _GNU_SOURCE
#include "connection.h"
#include "negotiate.h"
#include "target.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
  /** small enough to stay in the processor's cache */
  INPUT_BYTES = 256 << 10,
  SEND_BATCH = 256,
  /** a server that is silent that long is stuck */
  SILENCE_MS = 60000,
  NO_SLOT = -1,
};

struct slot {
  uint64_t sent_ns;
  uint16_t command;
  unsigned char header[NBD_REQUEST_BYTES];
};

struct loop {
  struct connection *connection;
  struct target target;
  struct slot *slots;
  int *free_slots;
  unsigned free_count;
  /** ring of slots whose requests are not sent in full; at most queue_depth of them */
  int *unsent;
  unsigned unsent_first, unsent_count;
  size_t first_sent_bytes;
  unsigned char *payload;
  unsigned char *input;
  size_t input_start, input_end;
  /** payload bytes to pass over, and the slot that is done after them */
  uint64_t skip_bytes;
  int skip_slot;
  uint64_t issued;
  unsigned since_flush;
  bool no_more;
  uint64_t now;
};

uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

static _Noreturn void die(const struct loop *loop, const char *what) {
  fprintf(stderr, "nbd-load: connection %u: %s\n", loop->connection->index, what);
  exit(1);
}

static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (memory == NULL) abort();
  return memory;
}

static uint16_t choose_command(struct loop *loop) {
  const struct options *options = loop->connection->options;
  if (options->flush_every != 0 && loop->since_flush >= options->flush_every) return NBD_CMD_FLUSH;
  if (options->read_percent == 0) return (uint16_t)options->command;
  bool is_read = (target_random(&loop->target) >> 40) % 100 < options->read_percent;
  return (uint16_t)(is_read ? NBD_CMD_READ : options->command);
}

/** Makes requests until the queue is full or the run is over. */
static void fill_queue(struct loop *loop) {
  const struct options *options = loop->connection->options;
  if (loop->now >= loop->connection->stop_ns) loop->no_more = true;
  while (!loop->no_more && loop->free_count > 0) {
    uint16_t command = choose_command(loop);
    bool is_flush = command == NBD_CMD_FLUSH;
    uint64_t offset = 0;
    if (!is_flush) {
      bool is_over = options->count != 0 && loop->issued >= options->count;
      if (is_over || !target_next(&loop->target, &offset)) {
        loop->no_more = true;
        break;
      }
      loop->issued++;
    }
    loop->since_flush = is_flush ? 0 : loop->since_flush + 1;
    int index = loop->free_slots[--loop->free_count];
    struct slot *slot = &loop->slots[index];
    slot->sent_ns = loop->now;
    slot->command = command;
    bool is_fua = options->fua && command != NBD_CMD_READ && !is_flush;
    store32(slot->header, NBD_REQUEST_MAGIC);
    store16(slot->header + 4, is_fua ? NBD_CMD_FLAG_FUA : 0);
    store16(slot->header + 6, command);
    store64(slot->header + 8, (uint64_t)index);
    store64(slot->header + 16, offset);
    store32(slot->header + 24, is_flush ? 0 : options->block_bytes);
    unsigned last = (loop->unsent_first + loop->unsent_count++) % options->queue_depth;
    loop->unsent[last] = index;
  }
}

static size_t request_bytes(const struct loop *loop, const struct slot *slot) {
  bool has_payload = slot->command == NBD_CMD_WRITE;
  return NBD_REQUEST_BYTES + (has_payload ? loop->connection->options->block_bytes : 0);
}

static int gather(struct loop *loop, struct iovec *parts) {
  unsigned depth = loop->connection->options->queue_depth;
  int count = 0;
  size_t sent = loop->first_sent_bytes;
  for (unsigned at = 0; at < loop->unsent_count && count + 2 <= SEND_BATCH; at++, sent = 0) {
    struct slot *slot = &loop->slots[loop->unsent[(loop->unsent_first + at) % depth]];
    if (sent < NBD_REQUEST_BYTES) {
      parts[count++] = (struct iovec){slot->header + sent, NBD_REQUEST_BYTES - sent};
      sent = NBD_REQUEST_BYTES;
    }
    size_t rest = request_bytes(loop, slot) - sent;
    if (rest > 0) {
      parts[count++] = (struct iovec){loop->payload + (sent - NBD_REQUEST_BYTES), rest};
    }
  }
  return count;
}

/** @return whether anything was sent */
static bool send_requests(struct loop *loop) {
  if (loop->unsent_count == 0) return false;
  struct iovec parts[SEND_BATCH];
  struct msghdr message = {.msg_iov = parts};
  message.msg_iovlen = (size_t)gather(loop, parts);
  ssize_t put = sendmsg(loop->connection->fd, &message, MSG_NOSIGNAL);
  if (put < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (put <= 0) die(loop, strerror(errno));
  size_t sent = loop->first_sent_bytes + (size_t)put;
  while (loop->unsent_count > 0) {
    size_t bytes = request_bytes(loop, &loop->slots[loop->unsent[loop->unsent_first]]);
    if (sent < bytes) break;
    sent -= bytes;
    loop->unsent_first = (loop->unsent_first + 1) % loop->connection->options->queue_depth;
    loop->unsent_count--;
  }
  loop->first_sent_bytes = sent;
  return true;
}

static bool receive(struct loop *loop) {
  if (loop->input_start == loop->input_end) {
    loop->input_start = loop->input_end = 0;
  } else if (loop->input_start > 0 && INPUT_BYTES - loop->input_end < INPUT_BYTES / 4) {
    size_t rest = loop->input_end - loop->input_start;
    memmove(loop->input, loop->input + loop->input_start, rest);
    loop->input_start = 0;
    loop->input_end = rest;
  }
  ssize_t got =
      recv(loop->connection->fd, loop->input + loop->input_end, INPUT_BYTES - loop->input_end, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got < 0) die(loop, strerror(errno));
  if (got == 0) die(loop, "the server hung up");
  loop->input_end += (size_t)got;
  return true;
}

static void finish(struct loop *loop, int index) {
  struct connection *connection = loop->connection;
  const struct slot *slot = &loop->slots[index];
  loop->free_slots[loop->free_count++] = index;
  if (loop->now < connection->measure_from_ns || loop->now > connection->stop_ns) return;
  uint64_t latency = loop->now - slot->sent_ns;
  connection->last_done_ns = loop->now;
  if (slot->command == NBD_CMD_FLUSH) {
    connection->flushes++;
    histogram_record(&connection->flush_latency, latency);
    return;
  }
  if (slot->command == NBD_CMD_READ)
    connection->reads++;
  else
    connection->others++;
  histogram_record(&connection->latency, latency);
}

static void count_error(struct loop *loop, uint32_t error) {
  if (loop->connection->errors++ == 0) loop->connection->first_error = error;
}

static int slot_of(struct loop *loop, const unsigned char *reply) {
  uint64_t cookie = load64(reply + 8);
  if (cookie >= loop->connection->options->queue_depth) die(loop, "a reply to no request");
  return (int)cookie;
}

static void take_simple_reply(struct loop *loop, const unsigned char *reply) {
  int index = slot_of(loop, reply);
  uint32_t error = load32(reply + 4);
  loop->input_start += NBD_SIMPLE_REPLY_BYTES;
  if (error != 0) count_error(loop, error);
  if (loop->slots[index].command == NBD_CMD_READ && error == 0) {
    loop->skip_bytes = loop->connection->options->block_bytes;
    loop->skip_slot = index;
  } else {
    finish(loop, index);
  }
}

static void take_chunk(struct loop *loop, const unsigned char *chunk) {
  bool is_done = load16(chunk + 4) & NBD_REPLY_FLAG_DONE;
  uint16_t type = load16(chunk + 6);
  int index = slot_of(loop, chunk);
  uint32_t length = load32(chunk + 16);
  loop->input_start += NBD_CHUNK_BYTES;
  if (type & NBD_REPLY_TYPE_ERROR_BIT) count_error(loop, type);
  loop->skip_bytes = length;
  loop->skip_slot = is_done ? index : NO_SLOT;
  if (length == 0 && is_done) {
    loop->skip_slot = NO_SLOT;
    finish(loop, index);
  }
}

/** Passes over payload that has arrived. @return false when more of it must come */
static bool skip_payload(struct loop *loop) {
  size_t here = loop->input_end - loop->input_start;
  size_t taken = here < loop->skip_bytes ? here : (size_t)loop->skip_bytes;
  loop->input_start += taken;
  loop->skip_bytes -= taken;
  if (loop->skip_bytes > 0) return false;
  if (loop->skip_slot != NO_SLOT) finish(loop, loop->skip_slot);
  loop->skip_slot = NO_SLOT;
  return true;
}

static void take_replies(struct loop *loop) {
  for (;;) {
    if (loop->skip_bytes > 0 && !skip_payload(loop)) return;
    size_t here = loop->input_end - loop->input_start;
    const unsigned char *reply = loop->input + loop->input_start;
    if (here < NBD_SIMPLE_REPLY_BYTES) return;
    uint32_t magic = load32(reply);
    if (magic == NBD_SIMPLE_REPLY_MAGIC) {
      take_simple_reply(loop, reply);
    } else if (magic == NBD_STRUCTURED_REPLY_MAGIC) {
      if (here < NBD_CHUNK_BYTES) return;
      take_chunk(loop, reply);
    } else {
      die(loop, "a reply that starts with no magic");
    }
  }
}

static void wait_for_socket(struct loop *loop) {
  short events = (short)(POLLIN | (loop->unsent_count > 0 ? POLLOUT : 0));
  struct pollfd poll_fd = {loop->connection->fd, events, 0};
  if (poll(&poll_fd, 1, SILENCE_MS) == 0) die(loop, "no reply for a minute");
}

static void set_up(struct loop *loop, struct connection *connection) {
  const struct options *options = connection->options;
  unsigned depth = options->queue_depth;
  loop->connection = connection;
  loop->skip_slot = NO_SLOT;
  target_init(&loop->target, options, connection->index, connection->export_bytes);
  loop->slots = allocate(depth, sizeof *loop->slots);
  loop->free_slots = allocate(depth, sizeof *loop->free_slots);
  loop->unsent = allocate(depth, sizeof *loop->unsent);
  loop->input = allocate(INPUT_BYTES, 1);
  while (loop->free_count < depth) {
    loop->free_slots[loop->free_count] = (int)loop->free_count;
    loop->free_count++;
  }
  if (options->command != NBD_CMD_WRITE) return;
  // anything but zeros, which a server may treat as a hole
  loop->payload = allocate(options->block_bytes, 1);
  for (uint32_t at = 0; at < options->block_bytes; at++) {
    loop->payload[at] = (unsigned char)(at * 131 + connection->index + 1);
  }
}

static void tear_down(struct loop *loop) {
  unsigned char goodbye[NBD_REQUEST_BYTES] = {0};
  store32(goodbye, NBD_REQUEST_MAGIC);
  store16(goodbye + 6, NBD_CMD_DISC);
  fcntl(loop->connection->fd, F_SETFL, 0);
  write_all(loop->connection->fd, goodbye, sizeof goodbye);
  close(loop->connection->fd);
  free(loop->slots);
  free(loop->free_slots);
  free(loop->unsent);
  free(loop->input);
  free(loop->payload);
}

void *drive_connection(void *argument) {
  struct connection *connection = argument;
  struct loop loop = {0};
  set_up(&loop, connection);
  for (;;) {
    loop.now = now_ns();
    fill_queue(&loop);
    if (loop.no_more && loop.free_count == connection->options->queue_depth) break;
    bool has_sent = send_requests(&loop);
    bool has_received = receive(&loop);
    if (has_received) {
      loop.now = now_ns();
      take_replies(&loop);
    } else if (!has_sent) {
      wait_for_socket(&loop);
    }
  }
  tear_down(&loop);
  return NULL;
}
