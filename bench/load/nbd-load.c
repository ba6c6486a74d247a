// SPDX-License-Identifier: MIT
/**
 * A small fast NBD load generator: one thread per connection, and one line of JSON at the end.
 *
 * It also reads the clock of the server's CPU time, at the very moments at which counting begins
 * and ends; that clock knows all threads of the process, ended ones and those of io_uring too.
 *
 * Exit status: 0 the load ran, 1 it could not, 2 bad usage, 3 a reply was an error.
 */
#define _GNU_SOURCE
#include "connection.h"
#include "negotiate.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct instant {
  uint64_t wall_ns;
  uint64_t server_ns;
  uint64_t client_ns;
};

static uint64_t read_clock(clockid_t clock) {
  struct timespec time;
  if (clock_gettime(clock, &time) != 0) return 0;
  return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

static struct instant take_instant(const struct options *options) {
  struct instant instant = {.wall_ns = now_ns()};
  clockid_t clock;
  if (options->server_pid != 0 && clock_getcpuclockid(options->server_pid, &clock) == 0) {
    instant.server_ns = read_clock(clock);
  }
  instant.client_ns = read_clock(CLOCK_PROCESS_CPUTIME_ID);
  return instant;
}

static void sleep_until(uint64_t wall_ns) {
  struct timespec time = {(time_t)(wall_ns / 1000000000ull), (long)(wall_ns % 1000000000ull)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) != 0) {
  }
}

struct totals {
  uint64_t reads, others, flushes, errors, last_done_ns;
  uint32_t first_error;
  struct histogram latency, flush_latency;
};

static void add_up(struct totals *totals, const struct connection *part) {
  totals->reads += part->reads;
  totals->others += part->others;
  totals->flushes += part->flushes;
  if (totals->errors == 0) totals->first_error = part->first_error;
  totals->errors += part->errors;
  if (part->last_done_ns > totals->last_done_ns) totals->last_done_ns = part->last_done_ns;
  histogram_add(&totals->latency, &part->latency);
  histogram_add(&totals->flush_latency, &part->flush_latency);
}

static void print_latency(const char *name, const struct histogram *histogram) {
  printf("\"%s\":{\"p50\":%.2f,\"p95\":%.2f,\"p99\":%.2f,\"p999\":%.2f},", name,
         histogram_quantile(histogram, 0.5), histogram_quantile(histogram, 0.95),
         histogram_quantile(histogram, 0.99), histogram_quantile(histogram, 0.999));
}

/** Operations are reads, writes, trims and zeroes; a flush belongs to the one before it. */
static void print_result(const struct options *options, const struct totals *totals,
                         const struct instant *from, const struct instant *to) {
  uint64_t operations = totals->reads + totals->others;
  double seconds = (double)(to->wall_ns - from->wall_ns) / 1e9;
  double per_operation = operations == 0 ? 0 : 1e-3 / (double)operations;
  printf("{\"operations\":%llu,\"reads\":%llu,\"flushes\":%llu,\"errors\":%llu,"
         "\"firstError\":%u,\"seconds\":%.6f,\"perSecond\":%.1f,\"mibPerSecond\":%.1f,",
         (unsigned long long)operations, (unsigned long long)totals->reads,
         (unsigned long long)totals->flushes, (unsigned long long)totals->errors,
         totals->first_error, seconds, (double)operations / seconds,
         (double)operations * options->block_bytes / 1048576 / seconds);
  print_latency("latencyMicroseconds", &totals->latency);
  print_latency("flushLatencyMicroseconds", &totals->flush_latency);
  printf("\"serverCpuMicroseconds\":%.3f,\"clientCpuMicroseconds\":%.3f}\n",
         (double)(to->server_ns - from->server_ns) * per_operation,
         (double)(to->client_ns - from->client_ns) * per_operation);
}

int main(int argc, char **argv) {
  struct options options = parse_options(argc, argv);
  struct connection *connections = calloc(options.connections, sizeof *connections);
  pthread_t *threads = calloc(options.connections, sizeof *threads);
  if (connections == NULL || threads == NULL) abort();
  for (unsigned index = 0; index < options.connections; index++) {
    connections[index].options = &options;
    connections[index].index = index;
    connections[index].fd = negotiate(&options, &connections[index].export_bytes);
  }
  // A run that ends by itself is measured to its last reply, one by the clock to its last moment.
  bool ends_itself = options.once || options.count != 0 || options.order == ORDER_ALLOCATING;
  struct instant from = take_instant(&options), to;
  uint64_t measure_ns = from.wall_ns + (uint64_t)(options.warmup_seconds * 1e9);
  uint64_t stop_ns = measure_ns + (uint64_t)(options.runtime_seconds * 1e9);
  for (unsigned index = 0; index < options.connections; index++) {
    connections[index].measure_from_ns = measure_ns;
    connections[index].stop_ns = stop_ns;
    if (pthread_create(&threads[index], NULL, drive_connection, &connections[index]) != 0) abort();
  }
  if (options.warmup_seconds > 0) {
    sleep_until(measure_ns);
    from = take_instant(&options);
  }
  if (!ends_itself) {
    sleep_until(stop_ns);
    to = take_instant(&options);
  }
  struct totals *totals = calloc(1, sizeof *totals);
  if (totals == NULL) abort();
  for (unsigned index = 0; index < options.connections; index++) {
    pthread_join(threads[index], NULL);
    add_up(totals, &connections[index]);
  }
  if (ends_itself) {
    to = take_instant(&options);
    if (totals->last_done_ns > from.wall_ns) to.wall_ns = totals->last_done_ns;
  }
  print_result(&options, totals, &from, &to);
  return totals->errors > 0 ? 3 : 0;
}
