// SPDX-License-Identifier: MIT
/** Fixed newstyle negotiation with NBD_OPT_GO, and structured replies where they are wanted. */
#define _GNU_SOURCE
#include "negotiate.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { NAME_BYTES_MAX = 255, OPTION_HEAD_BYTES = 16, OPTION_REPLY_BYTES = 20 };

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "nbd-load: %s: %s\n", what, errno == 0 ? "the server hung up" : strerror(errno));
  exit(1);
}

static void read_all(int fd, void *target, size_t count) {
  for (unsigned char *at = target; count > 0;) {
    errno = 0;
    ssize_t got = read(fd, at, count);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail("negotiation");
    at += got;
    count -= (size_t)got;
  }
}

bool write_all(int fd, const void *bytes, size_t count) {
  for (const unsigned char *at = bytes; count > 0;) {
    ssize_t put = send(fd, at, count, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    at += put;
    count -= (size_t)put;
  }
  return true;
}

static int connect_unix(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    fail(path);
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail(path);
  return fd;
}

static int connect_tcp(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

static void send_option(int fd, uint32_t option, const void *data, uint32_t length) {
  unsigned char head[OPTION_HEAD_BYTES];
  memcpy(head, "IHAVEOPT", 8);
  store32(head + 8, option);
  store32(head + 12, length);
  if (!write_all(fd, head, sizeof head) || !write_all(fd, data, length)) fail("negotiation");
}

/** @return the reply's type; its first bytes stand in `data` */
static uint32_t read_option_reply(int fd, unsigned char *data, size_t capacity) {
  unsigned char head[OPTION_REPLY_BYTES];
  read_all(fd, head, sizeof head);
  uint32_t length = load32(head + 16);
  if (length > capacity) {
    errno = EMSGSIZE;
    fail("negotiation");
  }
  memset(data, 0, capacity);
  read_all(fd, data, length);
  return load32(head + 12);
}

static void go(int fd, const char *name, uint64_t *export_bytes) {
  unsigned char data[4096];
  size_t name_bytes = strlen(name);
  if (name_bytes > NAME_BYTES_MAX) {
    errno = ENAMETOOLONG;
    fail("--export");
  }
  store32(data, (uint32_t)name_bytes);
  memcpy(data + 4, name, name_bytes);
  store16(data + 4 + name_bytes, 0);
  send_option(fd, NBD_OPT_GO, data, (uint32_t)(4 + name_bytes + 2));
  for (;;) {
    uint32_t type = read_option_reply(fd, data, sizeof data);
    if (type == NBD_REP_ACK) return;
    if (type & NBD_REP_ERROR_BIT) {
      fprintf(stderr, "nbd-load: the server refuses export \"%s\": %#x\n", name, type);
      exit(1);
    }
    if (type == NBD_REP_INFO && load16(data) == NBD_INFO_EXPORT) *export_bytes = load64(data + 2);
  }
}

int negotiate(const struct options *options, uint64_t *export_bytes) {
  bool is_unix = options->socket_path != NULL;
  int fd = is_unix ? connect_unix(options->socket_path) : connect_tcp(options->tcp_port);
  unsigned char greeting[18];
  read_all(fd, greeting, sizeof greeting);
  unsigned char flags[4];
  store32(flags, NBD_CLIENT_FIXED_NEWSTYLE | NBD_CLIENT_NO_ZEROES);
  if (!write_all(fd, flags, sizeof flags)) fail("negotiation");
  if (options->structured_replies) {
    unsigned char data[4096];
    send_option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    if (read_option_reply(fd, data, sizeof data) != NBD_REP_ACK) {
      fprintf(stderr, "nbd-load: the server has no structured replies\n");
      exit(1);
    }
  }
  go(fd, options->export_name, export_bytes);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}
