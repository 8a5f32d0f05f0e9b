/* Traffic for the live benchmarks, each mode one line of numbers on stdout:
 *
 *   traffic blast ADDRESS PORT SECONDS SIZE RATE SEGMENT   -> datagrams sent
 *   traffic sink PORT SECONDS                              -> datagrams and octets received, until idle for 0.3 s
 *   traffic ping ADDRESS PORT COUNT SIZE                   -> round trip times in ns: p50 p99 lost
 *   traffic pong PORT                                      (answers until it is ended)
 *   traffic connect ADDRESS PORT SECONDS WIDTH             -> connections that were made, used and closed, WIDTH at a time
 *   traffic serve PORT                                     (answers an octet to each connection and closes it)
 *
 * blast sends UDP payloads of SIZE octets in bursts of 16; RATE 0 is as fast as it can, else datagrams per second. With SEGMENT it
 * hands the kernel super-datagrams of SIZE octets to be cut at SEGMENT (UDP_SEGMENT); sink takes them whole (UDP_GRO) and counts
 * the datagrams they stand for.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UDP_SEGMENT_OPTION 103
#define UDP_GRO_OPTION 104
#define SOL_UDP_LEVEL 17
#define BURST 16
#define BATCH 64

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t when) {
    struct timespec t = {when / 1000000000LL, when % 1000000000LL};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int udp(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    int big = 64 << 20;
    if (fd < 0) die("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big)) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
    return fd;
}

static int udp_to(const char *address, int port) {
    int fd = udp();
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) die(address);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    return fd;
}

static int udp_at(int port) {
    int fd = udp();
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (bind(fd, (struct sockaddr *)&at, sizeof at)) die("bind");
    return fd;
}

static void receive_timeout(int fd, long microseconds) {
    struct timeval t = {microseconds / 1000000, microseconds % 1000000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static void blast(const char *address, int port, double seconds, int size, long rate, int segment) {
    static char payload[65536];
    struct iovec part = {payload, size};
    struct mmsghdr messages[BURST];
    int fd = udp_to(address, port);
    long long sent = 0;
    int64_t start = now(), end = start + (int64_t)(seconds * 1e9);
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BURST; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    if (segment && setsockopt(fd, SOL_UDP_LEVEL, UDP_SEGMENT_OPTION, &segment, sizeof segment)) die("UDP_SEGMENT");
    for (;;) {
        int64_t due = rate ? start + sent * 1000000000LL / rate : now();
        if (due >= end) break;
        if (rate) sleep_until(due);
        int count = sendmmsg(fd, messages, BURST, 0);
        if (count > 0) sent += count;
        else if (errno != ENOBUFS && errno != ECONNREFUSED && errno != EAGAIN) die("sendmmsg");
    }
    printf("%lld %.6f\n", sent * (segment ? (size + segment - 1) / segment : 1), (now() - start) / 1e9);
}

static void sink(int port, double seconds) {
    static char space[BATCH][65536], control[BATCH][64];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    int fd = udp_at(port), on = 1;
    long long datagrams = 0, octets = 0;
    int64_t first = 0, last = 0, start = now();
    setsockopt(fd, SOL_UDP_LEVEL, UDP_GRO_OPTION, &on, sizeof on);
    receive_timeout(fd, 300000);
    puts("ready");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){space[i], sizeof space[i]};
            messages[i].msg_hdr = (struct msghdr){
                .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
        }
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (count <= 0) {
            if (first || now() - start > (int64_t)(seconds * 1e9)) break;
            continue;
        }
        last = now();
        if (!first) first = last;
        for (int i = 0; i < count; i++) {
            int length = messages[i].msg_len, segment = 0;
            struct msghdr *header = &messages[i].msg_hdr;
            for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c))
                if (c->cmsg_level == SOL_UDP_LEVEL && c->cmsg_type == UDP_GRO_OPTION) memcpy(&segment, CMSG_DATA(c), sizeof segment);
            datagrams += segment > 0 ? (length + segment - 1) / segment : 1;
            octets += length;
        }
    }
    printf("%lld %lld %.6f\n", datagrams, octets, (last - first) / 1e9);
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void ping(const char *address, int port, int count, int size) {
    static char payload[65536];
    int64_t *times = calloc(count, sizeof *times);
    int fd = udp_to(address, port), answered = 0, lost = 0;
    receive_timeout(fd, 200000);
    for (uint32_t i = 0; i < (uint32_t)count; i++) {
        uint32_t answer;
        int64_t start = now();
        memcpy(payload, &i, sizeof i);
        if (send(fd, payload, size, 0) < 0) { lost++; continue; }
        do {
            if (recv(fd, payload, sizeof payload, 0) < 0) { lost++; goto next; }
            memcpy(&answer, payload, sizeof answer);
        } while (answer != i);
        times[answered++] = now() - start;
    next:;
    }
    if (!answered) { fputs("no answer\n", stderr); exit(1); }
    qsort(times, answered, sizeof *times, ascending);
    printf("%lld %lld %d\n", (long long)times[answered / 2], (long long)times[answered * 99LL / 100], lost);
}

static void pong(int port) {
    static char payload[65536];
    int fd = udp_at(port);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t size = recvfrom(fd, payload, sizeof payload, 0, (struct sockaddr *)&from, &length);
        if (size >= 0) sendto(fd, payload, size, 0, (struct sockaddr *)&from, length);
    }
}

static long connect_again(const struct sockaddr_in *to, int64_t end) {
    long made = 0;
    while (now() < end) {
        char octet = 'x';
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) die("socket");
        receive_timeout(fd, 2000000);
        if (!connect(fd, (const struct sockaddr *)to, sizeof *to) && send(fd, &octet, 1, MSG_NOSIGNAL) == 1 &&
            recv(fd, &octet, 1, 0) == 1 && recv(fd, &octet, 1, 0) == 0)
            made++;
        close(fd);
    }
    return made;
}

static void connect_all(const char *address, int port, double seconds, int width) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int64_t end = now() + (int64_t)(seconds * 1e9);
    int ends[2];
    long made, all = 0;
    inet_pton(AF_INET, address, &to.sin_addr);
    if (pipe(ends)) die("pipe");
    for (int i = 0; i < width; i++)
        if (!fork()) {
            made = connect_again(&to, end);
            if (write(ends[1], &made, sizeof made) != sizeof made) die("write");
            _exit(0);
        }
    for (int i = 0; i < width; i++) {
        if (read(ends[0], &made, sizeof made) != sizeof made) die("read");
        all += made;
    }
    while (wait(NULL) > 0) {}
    printf("%ld\n", all);
}

static void serve(int port) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&here, sizeof here) || listen(fd, 1024)) die("listen");
    puts("ready");
    fflush(stdout);
    for (;;) {
        char octet;
        int taken = accept(fd, NULL, NULL);
        if (taken < 0) continue;
        if (recv(taken, &octet, 1, 0) == 1) send(taken, &octet, 1, MSG_NOSIGNAL);
        close(taken);
    }
}

int main(int count, char **words) {
    prctl(PR_SET_TIMERSLACK, 1);
    if (count == 8 && !strcmp(words[1], "blast"))
        blast(words[2], atoi(words[3]), atof(words[4]), atoi(words[5]), atol(words[6]), atoi(words[7]));
    else if (count == 4 && !strcmp(words[1], "sink")) sink(atoi(words[2]), atof(words[3]));
    else if (count == 6 && !strcmp(words[1], "ping")) ping(words[2], atoi(words[3]), atoi(words[4]), atoi(words[5]));
    else if (count == 3 && !strcmp(words[1], "pong")) pong(atoi(words[2]));
    else if (count == 6 && !strcmp(words[1], "connect"))
        connect_all(words[2], atoi(words[3]), atof(words[4]), atoi(words[5]));
    else if (count == 3 && !strcmp(words[1], "serve")) serve(atoi(words[2]));
    else { fputs("usage: traffic blast|sink|ping|pong|connect|serve ...\n", stderr); return 2; }
    return 0;
}
